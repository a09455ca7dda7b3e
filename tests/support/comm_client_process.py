"""A client in a process of its own, for the tests of comms: to be killed, stopped, cut off.

``comm_client_process.py CONNECTION.json COMM_ID TARGET TOPIC...`` subscribes. After the welcomes it
opens a comm, makes the kernel send a request that it never answers, and prints what arrives on the
comm. Without a target, another client opens the comm.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import zmq

from echokernel.conformance.raw_messages import build_message, endpoint, parse_message


def main(path: str, comm_id: str, target: str, *topics: str) -> None:
    connection = json.loads(Path(path).read_text())
    context = zmq.Context()
    session = next((t.partition(".")[2] for t in topics if t.startswith("session.")), "other")
    shell, iopub = context.socket(zmq.DEALER), context.socket(zmq.SUB)
    for topic in topics:
        iopub.subscribe(topic)
    for peer, channel in ((shell, "shell"), (iopub, "iopub")):
        peer.connect(endpoint(connection, channel))
    waiting = set(topics)
    while waiting:
        got = parse_message(iopub.recv_multipart(), connection["key"])
        waiting.discard(got["content"].get("subscription"))

    def send(msg_type: str, content: dict) -> None:
        shell.send_multipart(
            build_message(msg_type, content, key=connection["key"], session=session)[1]
        )

    if target:
        send("comm_open", {"comm_id": comm_id, "target_name": target, "data": {}})
        ask = {"jsonrpc": "2.0", "method": "ask", "params": [1], "id": "theirs"}
        send("comm_msg", {"comm_id": comm_id, "data": ask})
    print("ready", flush=True)
    while True:
        got = parse_message(iopub.recv_multipart(), connection["key"])
        if got["content"].get("comm_id") == comm_id:
            data = got["content"]["data"]
            print(data.get("method") or data.get("number") or got["msg_type"], flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
