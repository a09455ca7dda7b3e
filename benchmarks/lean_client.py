"""A client with little cost of its own, so that a timed loop measures the kernel.

The sockets are plain DEALER and SUB sockets. Requests are signed before the clock starts. Every
received message is verified, as a client must. To match a message with its request, the client
searches the bytes of the parent header for the request's id; it parses the content of replies only.
Every wait has a deadline: a kernel that exits or stops answering raises `KernelLost`.
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
"""Positions in the four signed frames of a message."""

NOBLOCK, SNDMORE = int(zmq.NOBLOCK), int(zmq.SNDMORE)

ANSWER_TIME = 20.0
"""Seconds for one request, or for one batch of requests."""

FLOOD_TIME = 300.0
"""Seconds for one request with very many outputs."""

LOSS_TIME = 2.0
"""Seconds without a message after the reply; after them, a missing idle status counts as lost."""

POLL_TIME = 500
"""Milliseconds without a message after which the client checks that the kernel still runs."""

JOIN_RETRY = 200
"""Milliseconds between two requests whose answer proves the IOPub subscription."""

DRAIN_EVERY = 25
"""Replies of a batch after which the client reads the messages that have arrived on IOPub."""

SUBSCRIBERS_RETRY = 0.05
"""Seconds between two requests whose answer proves the subscriptions of many sockets."""


class KernelLost(Exception):
    """The kernel exited, stopped answering, or sent an error or a wrong signature."""


class Request(NamedTuple):
    """A signed request, ready to send."""

    frames: list[bytes]
    mark: bytes
    """The quoted message id; the parent header of every answer contains these bytes."""


class Flood(NamedTuple):
    """The messages that one request caused."""

    seconds: float
    """From the request to its idle status, or to the last message if idle was lost."""
    messages: list[list[bytes]]
    """The four signed frames of each message."""


class LeanClient:
    """A client of one running kernel.

    Args:
        connection: content of the connection file.
        is_alive: returns True while the kernel's process runs.
        topic: the IOPub subscription.
    """

    def __init__(
        self, connection: Mapping[str, Any], is_alive: Callable[[], bool], topic: bytes = b""
    ) -> None:
        self._signer = Signer(connection["key"])
        self._is_alive = is_alive
        self._session = uuid.uuid4().hex
        self._batches = 0
        self._context = zmq.Context()
        self._shell = self._context.socket(zmq.DEALER)
        self._iopub = self._context.socket(zmq.SUB)
        self._iopub.subscribe(topic)  # before connecting, for kernels that send a welcome (S1)
        for socket, channel in ((self._shell, "shell"), (self._iopub, "iopub")):
            socket.linger = 0
            socket.set_hwm(0)  # a batch waits in this process; it neither blocks nor is dropped
            socket.rcvtimeo = POLL_TIME
            socket.connect(endpoint(connection, channel))
        self._send = sender(self._shell)
        self._receive_on = {s: receiver(s) for s in (self._shell, self._iopub)}

    def close(self) -> None:
        self._context.destroy(linger=0)

    def join(self) -> None:
        """Return when the kernel answers on shell and IOPub."""
        deadline = time.monotonic() + ANSWER_TIME
        while True:
            self._send(self.info_requests(1)[0].frames)
            # Messages published before the subscription never arrive: repeat until one does.
            if self._iopub.poll(JOIN_RETRY):
                break
            self._check(deadline)
        self.execute(self.requests(1)[0])  # also consumes the answers to the requests above

    def requests(self, number: int, code: str = "1") -> list[Request]:
        """Return ``number`` signed execute requests."""
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
        """Return ``number`` signed kernel_info requests."""
        return self._requests(number, "kernel_info_request", {})

    def execute(self, request: Request) -> None:
        """Send one request; return when its reply and its idle status have arrived."""
        deadline = time.monotonic() + ANSWER_TIME
        self._send(request.frames)
        while not is_reply(self._receive(self._shell, deadline), request.mark):
            pass
        while not is_idle(self._receive(self._iopub, deadline), request.mark):
            pass

    def execute_all(self, requests: list[Request]) -> int:
        """Send all requests; return when every reply and the last idle status have arrived.

        Returns:
            The number of outputs that did not arrive.
        """
        deadline = time.monotonic() + ANSWER_TIME
        batch, last = requests[0].mark.rpartition(b"_")[0] + b"_", requests[-1].mark
        for request in requests:
            self._send(request.frames)
        outputs, idle = 0, False
        for number in range(len(requests)):
            while not is_reply(self._receive(self._shell, deadline), batch):
                pass
            # Not after every reply: each wake-up would cost the kernel time where CPUs are few.
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
        """Send one request with very many outputs; return when all of them have arrived.

        While the clock runs, messages are only received. They are verified afterwards.
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
                replied = replied or any(
                    is_reply(s, request.mark) for s in self._drain(self._shell)
                )
                if replied and time.monotonic() > arrived + LOSS_TIME:
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
        prefix = f"{self._session}_{self._batches}"
        sign = self._signer.request
        return [sign(kind, content, self._session, f"{prefix}_{i}") for i in range(number)]

    def _receive(self, socket: zmq.Socket[bytes], deadline: float) -> list[bytes]:
        """Return the signed frames of the next message."""
        while True:
            try:
                return self._signer.verified(self._receive_on[socket]())
            except zmq.Again:
                self._check(deadline)

    def _drain(self, socket: zmq.Socket[bytes]) -> Iterator[list[bytes]]:
        """Yield the signed frames of each message that has arrived."""
        while True:
            try:
                frames = self._receive_on[socket](NOBLOCK)
            except zmq.Again:
                return
            yield self._signer.verified(frames)

    def _check(self, deadline: float) -> None:
        """Raise KernelLost if waiting is pointless."""
        if not self._is_alive():
            raise KernelLost("the kernel's process exited")
        if time.monotonic() > deadline:
            raise KernelLost("the kernel did not answer in time")


class Subscribers:
    """SUB sockets of one kernel, each with its own connection. Unread messages stay in memory."""

    def __init__(self, connection: Mapping[str, Any], number: int) -> None:
        self._context = zmq.Context()
        self._sockets = [self._context.socket(zmq.SUB) for _ in range(number)]
        for socket in self._sockets:
            socket.set_hwm(0)
            socket.rcvtimeo = int(ANSWER_TIME * 1000)
            socket.subscribe(b"")
            socket.connect(endpoint(connection, "iopub"))

    def __enter__(self) -> Subscribers:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.destroy(linger=0)

    def join(self, client: LeanClient) -> None:
        """Return when every socket is subscribed and has no unread message."""
        deadline = time.monotonic() + ANSWER_TIME
        while not all(socket.poll(0) for socket in self._sockets):
            if time.monotonic() > deadline:
                raise KernelLost("a subscriber received nothing in time")
            client.execute(client.info_requests(1)[0])
            time.sleep(SUBSCRIBERS_RETRY)
        last = client.info_requests(1)[0]
        client.execute(last)
        self.count_displays(last)

    def count_displays(self, request: Request) -> int:
        """Read every socket up to the idle status of ``request``; return the number of displays."""
        return sum(self._count_displays(socket, request.mark) for socket in self._sockets)

    def _count_displays(self, socket: zmq.Socket[bytes], mark: bytes) -> int:
        displays = 0
        try:
            # Unverified: the client has verified the same messages.
            while not is_idle(signed := signed_frames(socket.recv_multipart()), mark):
                displays += is_display(signed, mark)
        except zmq.Again:
            raise KernelLost("a subscriber received no idle status in time")
        return displays


class Signer:
    """Signs and verifies with the key of a connection file."""

    def __init__(self, key: str | bytes) -> None:
        self._mac = hmac.new(key if isinstance(key, bytes) else key.encode(), None, hashlib.sha256)

    def request(self, kind: str, content: dict[str, Any], session: str, msg_id: str) -> Request:
        """Return a signed request with the message type ``kind``."""
        header = {
            "msg_id": msg_id,
            "msg_type": kind,
            "session": session,
            "username": "bench",
            "date": datetime.now(timezone.utc).isoformat(),
            "version": "5.3",
        }
        signed = [json.dumps(header).encode(), b"{}", b"{}", json.dumps(content).encode()]
        return Request([DELIMITER, self._sign(signed), *signed], f'"{msg_id}"'.encode())

    def verified(self, frames: list[bytes]) -> list[bytes]:
        """Return the four signed frames of a received message.

        Raises:
            KernelLost: the signature is wrong.
        """
        signed = signed_frames(frames)
        if not hmac.compare_digest(self._sign(signed), frames[frames.index(DELIMITER) + 1]):
            raise KernelLost(f"the kernel sent a message with a wrong signature: {signed!r:.500}")
        return signed

    def _sign(self, signed: list[bytes]) -> bytes:
        mac = self._mac.copy()  # the key is hashed once
        for frame in signed:
            mac.update(frame)
        return mac.hexdigest().encode()


def endpoint(connection: Mapping[str, Any], channel: str) -> str:
    return f"{connection['transport']}://{connection['ip']}:{connection[f'{channel}_port']}"


def receiver(socket: zmq.Socket[bytes]) -> Callable[..., list[bytes]]:
    """Return a ``recv_multipart`` that takes plain numbers as flags.

    Two thirds of pyzmq's own cost is its enumerations, and a busy client hides the kernel's cost.
    """
    receive_frame: Callable[..., zmq.Frame] = super(zmq.Socket, socket).recv

    def receive(flags: int = 0) -> list[bytes]:
        frames = []
        while True:
            frame = receive_frame(flags, False)
            frames.append(frame.bytes)
            if not frame.more:
                return frames

    return receive


def sender(socket: zmq.Socket[bytes]) -> Callable[[list[bytes]], None]:
    """Return a ``send_multipart`` with the same saving as `receiver`."""
    send_frame: Callable[..., None] = super(zmq.Socket, socket).send

    def send(frames: list[bytes]) -> None:
        *first, last = frames
        for frame in first:
            send_frame(frame, SNDMORE)
        send_frame(last, 0)

    return send


def signed_frames(frames: list[bytes]) -> list[bytes]:
    """Return the four signed frames of a received message, without verification."""
    start = frames.index(DELIMITER) + 2  # the delimiter, then the signature
    return frames[start : start + 4]


def is_reply(signed: list[bytes], mark: bytes) -> bool:
    """Return True if this is the reply to the request with that mark.

    Raises:
        KernelLost: the reply is an error, which can be faster than the work.
    """
    if mark not in signed[PARENT]:
        return False
    content = json.loads(signed[CONTENT])
    if content["status"] != "ok":
        raise KernelLost(f"the kernel replied with an error: {content}")
    return True


def is_idle(signed: list[bytes], mark: bytes) -> bool:
    return b'"idle"' in signed[CONTENT] and mark in signed[PARENT]


def is_output(signed: list[bytes], mark: bytes) -> bool:
    """Return True for the echo or a result, but not for text on stderr.

    IPython warns on stderr when its cache of outputs is full.
    """
    if mark not in signed[PARENT] or b'"stderr"' in signed[CONTENT]:
        return False
    return b'"stream"' in signed[HEADER] or b'"execute_result"' in signed[HEADER]


def is_display(signed: list[bytes], mark: bytes) -> bool:
    return b'"display_data"' in signed[HEADER] and mark in signed[PARENT]


def printed_lines(messages: list[list[bytes]]) -> int:
    """Return the number of lines on stdout.

    The parent is ignored: ipykernel's base class publishes printed text without a parent.
    """
    contents = (json.loads(s[CONTENT]) for s in messages if b'"stream"' in s[HEADER])
    return "".join(c["text"] for c in contents if c["name"] == "stdout").count("\n")
