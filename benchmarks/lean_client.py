"""A client that costs little, so that the timed loops see the kernel and not the harness.

Plain DEALER and SUB sockets. Every message is verified, as a client must; of the answers only
the replies' content is parsed. Requests are made before the clock starts. Nothing here waits
without a deadline: a kernel that dies or falls silent raises `KernelLost`.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import zmq
from lean_messages import (
    KernelLost,
    Request,
    Signer,
    is_idle,
    is_output,
    is_reply,
    receiver,
    sender,
    signed_frames,
)

SILENCE = 500
"""Milliseconds without a message after which we look whether the kernel lives."""

ANSWER_TIME = 20.0
"""Seconds that a request, or a batch of them, may take."""

FLOOD_TIME = 300.0
"""Seconds that a request with very many outputs may take."""

OVER_TIME = 2.0
"""Seconds of silence after a reply, until an idle status that did not come counts as lost."""

JOIN_RETRY = 200
"""Milliseconds for the answer that proves the IOPub subscription; then it is asked again."""

DRAIN_EVERY = 25
"""Replies of a batch after which what has come on IOPub is read."""


NOBLOCK = int(zmq.NOBLOCK)


class Flood(NamedTuple):
    """What one request made the kernel publish."""

    seconds: float
    """From the request until the idle status, or the last message, was here."""
    messages: list[list[bytes]]
    """The signed frames of all of them."""


class LeanClient:
    """A client of one running kernel.

    Args:
        connection: what a connection file holds.
        is_alive: whether the kernel's process runs.
    """

    def __init__(self, connection: Mapping[str, Any], is_alive: Callable[[], bool]) -> None:
        self._signer = Signer(connection["key"])
        self._is_alive = is_alive
        self._session = uuid.uuid4().hex
        self._batches = 0
        self._context = zmq.Context()
        self._shell = self._context.socket(zmq.DEALER)
        self._iopub = self._context.socket(zmq.SUB)
        self._iopub.subscribe(b"")  # before it connects, for kernels that welcome
        for socket, name in ((self._shell, "shell_port"), (self._iopub, "iopub_port")):
            socket.linger = 0
            socket.set_hwm(0)  # a batch waits in our memory; it neither blocks nor is dropped
            socket.rcvtimeo = SILENCE
            socket.connect(f"{connection['transport']}://{connection['ip']}:{connection[name]}")
        self._send = sender(self._shell)
        self._receive_on = {s: receiver(s) for s in (self._shell, self._iopub)}

    def close(self) -> None:
        self._context.destroy(linger=0)

    def join(self) -> None:
        """Return when the kernel answers on both channels."""
        deadline = time.monotonic() + ANSWER_TIME
        while True:
            self._send(self.info_requests(1)[0].frames)
            # A message published before we had joined is not repeated: ask until one comes.
            if self._iopub.poll(JOIN_RETRY):
                break
            self._check(deadline)
        self.execute(self.requests(1)[0])  # and with it what was asked above is out of the way

    def requests(self, number: int, code: str = "1") -> list[Request]:
        """Return ``number`` execute requests, signed."""
        content = {
            "code": code,
            "silent": False,
            "store_history": True,
            "user_expressions": {},
            "allow_stdin": False,
            "stop_on_error": True,
        }
        return self._requests(number, "execute_request", content)

    def info_requests(self, number: int) -> list[Request]:
        """Return ``number`` kernel_info requests, signed."""
        return self._requests(number, "kernel_info_request", {})

    def execute(self, request: Request) -> None:
        """Send one request of either kind; return when its reply and its idle status are here."""
        deadline = time.monotonic() + ANSWER_TIME
        self._send(request.frames)
        while not is_reply(self._receive(self._shell, deadline), request.mark):
            pass
        while not is_idle(self._receive(self._iopub, deadline), request.mark):
            pass

    def execute_all(self, requests: list[Request]) -> int:
        """Send all at once; return when every reply and the last idle status are here.

        Returns:
            How many executes' outputs never came.
        """
        deadline = time.monotonic() + ANSWER_TIME
        batch, last = requests[0].mark.rpartition(b"_")[0] + b"_", requests[-1].mark
        for request in requests:
            self._send(request.frames)
        outputs, idle = 0, False
        for number in range(len(requests)):
            while not is_reply(self._receive(self._shell, deadline), batch):
                pass
            # Seldom, and not for each message: it is the waking that costs, and the kernel
            # would pay for it on a machine of few cores.
            if number % DRAIN_EVERY == 0:
                for signed in self._drain(self._iopub):
                    outputs += is_output(signed, batch)
                    idle = idle or is_idle(signed, last)
        while not idle:
            signed = self._receive(self._iopub, deadline)
            outputs += is_output(signed, batch)
            idle = is_idle(signed, last)
        return len(requests) - outputs

    def flood(self, request: Request) -> Flood:
        """Send one execute that publishes very much; return when nothing more is to come.

        While the clock runs the messages are only received; they are verified afterwards.
        """
        received: list[list[bytes]] = []
        begun = arrived = time.monotonic()
        deadline = begun + FLOOD_TIME
        self._send(request.frames)
        replied = idle = False
        while not idle and arrived < deadline:
            try:
                frames = self._receive_on[self._iopub]()
            except zmq.Again:
                self._check(deadline)
                replied = replied or self._replied(request)
                if replied and time.monotonic() > arrived + OVER_TIME:
                    break
                continue
            arrived = time.monotonic()
            received.append(frames)
            idle = is_idle(signed_frames(frames), request.mark)
        while not replied:
            replied = is_reply(self._receive(self._shell, deadline), request.mark)
        return Flood(arrived - begun, [self._signer.verified(frames) for frames in received])

    def _requests(self, number: int, kind: str, content: dict[str, Any]) -> list[Request]:
        self._batches += 1
        tag = f"{self._session}_{self._batches}"
        make = self._signer.request
        return [make(kind, content, self._session, f"{tag}_{i}") for i in range(number)]

    def _replied(self, request: Request) -> bool:
        """Whether the reply is among what has arrived."""
        return any(is_reply(signed, request.mark) for signed in self._drain(self._shell))

    def _receive(self, socket: zmq.Socket[bytes], deadline: float) -> list[bytes]:
        """Return the signed frames of the next message."""
        while True:
            try:
                return self._signer.verified(self._receive_on[socket]())
            except zmq.Again:
                self._check(deadline)

    def _drain(self, socket: zmq.Socket[bytes]) -> Iterator[list[bytes]]:
        """Yield the signed frames of what has arrived."""
        while True:
            try:
                frames = self._receive_on[socket](NOBLOCK)
            except zmq.Again:
                return
            yield self._signer.verified(frames)

    def _check(self, deadline: float) -> None:
        """Raise KernelLost if there is nothing left to wait for."""
        if not self._is_alive():
            raise KernelLost("the kernel's process ended")
        if time.monotonic() > deadline:
            raise KernelLost("the kernel did not answer in time")
