"""A client in its own process, which the tests of comms kill, stop or disconnect.

``comm_client_process.py CONNECTION.json COMM_ID TARGET TOPIC...`` subscribes. After the welcomes it
opens a comm, makes the kernel send a request that it never answers, and prints one line for each
message on the comm. Without a target, another client opens the comm.
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
        message = parse_message(iopub.recv_multipart(), connection["key"])
        waiting.discard(message["content"].get("subscription"))

    def send(msg_type: str, content: dict) -> None:
        shell.send_multipart(
            build_message(msg_type, content, key=connection["key"], session=session)[1]
        )

    if target:
        send("comm_open", {"comm_id": comm_id, "target_name": target, "data": {}})
        request = {"jsonrpc": "2.0", "method": "ask", "params": [1], "id": "request"}
        send("comm_msg", {"comm_id": comm_id, "data": request})
    print("ready", flush=True)
    while True:
        message = parse_message(iopub.recv_multipart(), connection["key"])
        if message["content"].get("comm_id") == comm_id:
            data = message["content"]["data"]
            print(data.get("method") or data.get("number") or message["msg_type"], flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
