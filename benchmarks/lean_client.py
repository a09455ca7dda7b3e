"""A client that costs little, so that the timed loops see the kernel and not the harness.

Plain DEALER and SUB sockets. Every message is verified, as a client must; of the answers only
the replies' content is parsed. Requests are made before the clock starts. Nothing here waits
without a deadline: a kernel that dies or falls silent raises `KernelLost`.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from typing import Any, NamedTuple

import zmq

DELIMITER = b"<IDS|MSG>"
HEADER, PARENT, CONTENT = 0, 1, 3
"""Where these are among a message's four signed frames."""

SILENCE = 500
"""Milliseconds without a message after which we look whether the kernel lives."""

ANSWER_TIME = 20.0
"""Seconds that a request, or a batch of them, may take."""

JOIN_RETRY = 200
"""Milliseconds for the answer that proves the IOPub subscription; then it is asked again."""

DRAIN_EVERY = 25
"""Replies of a batch after which what has come on IOPub is read."""


class KernelLost(Exception):
    """The kernel died, fell silent, or answered with an error or a wrong signature."""


class Request(NamedTuple):
    """A signed request, ready to send."""

    frames: list[bytes]
    mark: bytes
    """What the parent header of its answers contains: the message id in its quotes."""


class LeanClient:
    """A client of one running kernel.

    Args:
        connection: what a connection file holds.
        is_alive: whether the kernel's process runs.
    """

    def __init__(self, connection: Mapping[str, Any], is_alive: Callable[[], bool]) -> None:
        key = connection["key"]
        self._mac = hmac.new(key if isinstance(key, bytes) else key.encode(), None, hashlib.sha256)
        self._is_alive = is_alive
        self._session = uuid.uuid4().hex
        self._batches = 0
        self.lost = 0
        """Outputs of pipelined executes that never came."""
        self._context = zmq.Context()
        self._shell = self._context.socket(zmq.DEALER)
        self._iopub = self._context.socket(zmq.SUB)
        self._iopub.subscribe(b"")  # before it connects, for kernels that welcome
        for socket, name in ((self._shell, "shell_port"), (self._iopub, "iopub_port")):
            socket.linger = 0
            socket.set_hwm(0)  # a batch waits in our memory; it neither blocks nor is dropped
            socket.rcvtimeo = SILENCE
            socket.connect(f"{connection['transport']}://{connection['ip']}:{connection[name]}")

    def close(self) -> None:
        self._context.destroy(linger=0)

    def join(self) -> None:
        """Return when the kernel answers on both channels."""
        deadline = time.monotonic() + ANSWER_TIME
        while True:
            request = self._request("kernel_info_request", {}, f"{self._session}_join")
            self._shell.send_multipart(request.frames)
            # A message published before we had joined is not repeated: ask until one comes.
            if self._iopub.poll(JOIN_RETRY):
                break
            self._check(deadline)
        self.execute(self.requests(1)[0])  # and with it what was asked above is out of the way

    def requests(self, number: int, code: str = "1") -> list[Request]:
        """Return ``number`` execute requests, signed."""
        self._batches += 1
        content = {
            "code": code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": True,
        }
        tag = f"{self._session}_{self._batches}"
        return [self._request("execute_request", content, f"{tag}_{i}") for i in range(number)]

    def execute(self, request: Request) -> None:
        """Send one execute; return when its reply and its idle status are here."""
        deadline = time.monotonic() + ANSWER_TIME
        self._shell.send_multipart(request.frames)
        while not _is_reply(self._receive(self._shell, deadline), request.mark):
            pass
        while not _is_idle(self._receive(self._iopub, deadline), request.mark):
            pass

    def execute_all(self, requests: list[Request]) -> None:
        """Send all at once; return when every reply and the last idle status are here."""
        deadline = time.monotonic() + ANSWER_TIME
        batch, last = requests[0].mark.rpartition(b"_")[0] + b"_", requests[-1].mark
        for request in requests:
            self._shell.send_multipart(request.frames)
        outputs, idle = 0, False
        for number in range(len(requests)):
            while not _is_reply(self._receive(self._shell, deadline), batch):
                pass
            # Seldom, and not for each message: it is the waking that costs, and the kernel
            # would pay for it on a machine of few cores.
            if number % DRAIN_EVERY == 0:
                for signed in self._drain(self._iopub):
                    outputs += _is_output(signed, batch)
                    idle = idle or _is_idle(signed, last)
        while not idle:
            signed = self._receive(self._iopub, deadline)
            outputs += _is_output(signed, batch)
            idle = _is_idle(signed, last)
        self.lost += len(requests) - outputs

    def _request(self, kind: str, content: dict[str, Any], msg_id: str) -> Request:
        header = {
            "msg_id": msg_id,
            "msg_type": kind,
            "session": self._session,
            "username": "bench",
            "date": datetime.now(timezone.utc).isoformat(),
            "version": "5.3",
        }
        signed = [json.dumps(header).encode(), b"{}", b"{}", json.dumps(content).encode()]
        return Request([DELIMITER, self._sign(signed), *signed], f'"{msg_id}"'.encode())

    def _receive(self, socket: zmq.Socket[bytes], deadline: float) -> list[bytes]:
        """Return the signed frames of the next message."""
        while True:
            try:
                return self._verified(socket.recv_multipart())
            except zmq.Again:
                self._check(deadline)

    def _drain(self, socket: zmq.Socket[bytes]) -> Iterator[list[bytes]]:
        """Yield the signed frames of what has arrived."""
        while True:
            try:
                frames = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            yield self._verified(frames)

    def _check(self, deadline: float) -> None:
        """Raise KernelLost if there is nothing left to wait for."""
        if not self._is_alive():
            raise KernelLost("the kernel's process ended")
        if time.monotonic() > deadline:
            raise KernelLost(f"the kernel did not answer within {ANSWER_TIME:g} s")

    def _verified(self, frames: list[bytes]) -> list[bytes]:
        start = frames.index(DELIMITER) + 1  # before it: the topic, or nothing
        signed = frames[start + 1 : start + 5]
        if not hmac.compare_digest(self._sign(signed), frames[start]):
            raise KernelLost("the kernel sent a message with a wrong signature")
        return signed

    def _sign(self, signed: list[bytes]) -> bytes:
        mac = self._mac.copy()  # spares hashing the key again
        for frame in signed:
            mac.update(frame)
        return mac.hexdigest().encode()


def _is_reply(signed: list[bytes], mark: bytes) -> bool:
    """Whether this replies to what ``mark`` names; an error would make a kernel look fast."""
    if mark not in signed[PARENT]:
        return False
    content = json.loads(signed[CONTENT])
    if content["status"] != "ok":
        raise KernelLost(f"the kernel replied with an error: {content}")
    return True


def _is_idle(signed: list[bytes], mark: bytes) -> bool:
    return b'"idle"' in signed[CONTENT] and mark in signed[PARENT]


def _is_output(signed: list[bytes], mark: bytes) -> bool:
    """Whether this is the echo, or a language's result; not what it says on stderr."""
    if mark not in signed[PARENT] or b'"stderr"' in signed[CONTENT]:  # IPython's cache is full
        return False
    return b'"stream"' in signed[HEADER] or b'"execute_result"' in signed[HEADER]
