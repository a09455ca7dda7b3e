"""The floor: the cost of an echo kernel's messages alone.

One thread and plain pyzmq verify each request and send the signed answers. There is no event
loop, no interrupt, no control channel and no history, so this is not a kernel: it is a bound that a
kernel in Python can approach. It starts like a kernel (``python floor.py -f CONNECTION_FILE``), so
every measure treats it like one. It exits when its parent process does.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import sys
import uuid
from datetime import datetime, timezone
from typing import Any

import zmq

DELIMITER = b"<IDS|MSG>"
PARENT_CHECK = 1000
"""Milliseconds without a request after which the floor checks that its parent still runs."""


class Floor:
    """The shell and IOPub sockets, and the counter of executes."""

    def __init__(self, connection: dict[str, Any]) -> None:
        self._mac = hmac.new(connection["key"].encode(), digestmod=hashlib.sha256)
        self._session = uuid.uuid4().hex
        self._sent = 0
        self._executes = 0
        context = zmq.Context()
        self._shell = context.socket(zmq.ROUTER)
        self._iopub = context.socket(zmq.PUB)
        for socket, name in ((self._shell, "shell_port"), (self._iopub, "iopub_port")):
            socket.linger = 0
            socket.set_hwm(0)  # a pipelined batch must not lose messages
            socket.bind(f"tcp://{connection['ip']}:{connection[name]}")
        self._shell.rcvtimeo = PARENT_CHECK

    def serve(self) -> None:
        """Answer requests until the parent process exits."""
        parent = os.getppid()
        while os.getppid() == parent:
            try:
                frames = self._shell.recv_multipart()
            except zmq.Again:
                continue
            self._answer(frames)

    def _answer(self, frames: list[bytes]) -> None:
        """Send the messages of an echo kernel: busy, input, output, reply, idle."""
        split = frames.index(DELIMITER)
        signature, *signed = frames[split + 1 : split + 6]
        if not hmac.compare_digest(self._sign(signed), signature):
            return
        request, content = signed[0], json.loads(signed[3])
        self._publish("status", {"execution_state": "busy"}, request)
        if json.loads(request)["msg_type"] == "execute_request":
            kind, reply = "execute_reply", self._execute(content, request)
        else:  # jupyter_client requests kernel_info and accepts any dict
            kind, reply = "kernel_info_reply", {"status": "ok", "protocol_version": "5.3"}
        self._shell.send_multipart(frames[:split] + self._message(kind, reply, request))
        self._publish("status", {"execution_state": "idle"}, request)

    def _execute(self, content: dict[str, Any], request: bytes) -> dict[str, Any]:
        """Publish the input and the echo; return the content of the reply."""
        self._executes += 1
        count, code = self._executes, content["code"]
        self._publish("execute_input", {"code": code, "execution_count": count}, request)
        self._publish("stream", {"name": "stdout", "text": code}, request)
        return {"status": "ok", "execution_count": count, "payload": [], "user_expressions": {}}

    def _publish(self, kind: str, content: dict[str, Any], request: bytes) -> None:
        self._iopub.send_multipart([kind.encode(), *self._message(kind, content, request)])

    def _message(self, kind: str, content: dict[str, Any], request: bytes) -> list[bytes]:
        """Return the frames of a signed message; ``request`` is the parent header."""
        self._sent += 1
        header = {
            "msg_id": f"{self._session}_{self._sent}",
            "msg_type": kind,
            "session": self._session,
            "username": "floor",
            "date": datetime.now(timezone.utc).isoformat(),
            "version": "5.3",
        }
        signed = [json.dumps(header).encode(), request, b"{}", json.dumps(content).encode()]
        return [DELIMITER, self._sign(signed), *signed]

    def _sign(self, signed: list[bytes]) -> bytes:
        mac = self._mac.copy()
        for frame in signed:
            mac.update(frame)
        return mac.hexdigest().encode()


def main(argv: list[str]) -> None:
    """Serve at the addresses of the connection file that follows ``-f``."""
    with open(argv[argv.index("-f") + 1], encoding="utf-8") as file:
        connection = json.load(file)
    Floor(connection).serve()


if __name__ == "__main__":
    main(sys.argv)
