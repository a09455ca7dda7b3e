"""Messages for clients that must cost little: made once, looked at without parsing them.

What answers which request is told by a search for the request's id in the parent header's bytes.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, NamedTuple

import zmq

DELIMITER = b"<IDS|MSG>"
HEADER, PARENT, CONTENT = 0, 1, 3
"""Where these are among a message's four signed frames."""


class KernelLost(Exception):
    """The kernel died, fell silent, or answered with an error or a wrong signature."""


class Request(NamedTuple):
    """A signed request, ready to send."""

    frames: list[bytes]
    mark: bytes
    """What the parent header of its answers contains: the message id in its quotes."""


class Signer:
    """Signs and verifies with a connection's key."""

    def __init__(self, key: str | bytes) -> None:
        self._mac = hmac.new(key if isinstance(key, bytes) else key.encode(), None, hashlib.sha256)

    def request(self, kind: str, content: dict[str, Any], session: str, msg_id: str) -> Request:
        """Return a request of this ``kind``."""
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
        mac = self._mac.copy()  # spares hashing the key again
        for frame in signed:
            mac.update(frame)
        return mac.hexdigest().encode()


def receiver(socket: zmq.Socket[bytes]) -> Callable[..., list[bytes]]:
    """Return ``recv_multipart`` at a third of its cost, which is the enumerations in it.

    A client that is busy itself hides what a kernel costs. It takes the flags as plain numbers.
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
    """Return ``send_multipart``, likewise."""
    send_frame: Callable[..., None] = super(zmq.Socket, socket).send
    more = int(zmq.SNDMORE)

    def send(frames: list[bytes]) -> None:
        *first, last = frames
        for frame in first:
            send_frame(frame, more)
        send_frame(last, 0)

    return send


def signed_frames(frames: list[bytes]) -> list[bytes]:
    """Return the four signed frames of a received message, unverified."""
    start = frames.index(DELIMITER) + 2  # before it: the topic, or nothing; after it: the signature
    return frames[start : start + 4]


def is_reply(signed: list[bytes], mark: bytes) -> bool:
    """Whether this replies to what ``mark`` names; an error would make a kernel look fast."""
    if mark not in signed[PARENT]:
        return False
    content = json.loads(signed[CONTENT])
    if content["status"] != "ok":
        raise KernelLost(f"the kernel replied with an error: {content}")
    return True


def is_idle(signed: list[bytes], mark: bytes) -> bool:
    return b'"idle"' in signed[CONTENT] and mark in signed[PARENT]


def is_output(signed: list[bytes], mark: bytes) -> bool:
    """Whether this is the echo, or a language's result; not what it says on stderr."""
    if mark not in signed[PARENT] or b'"stderr"' in signed[CONTENT]:  # IPython's cache is full
        return False
    return b'"stream"' in signed[HEADER] or b'"execute_result"' in signed[HEADER]


def is_display(signed: list[bytes], mark: bytes) -> bool:
    return b'"display_data"' in signed[HEADER] and mark in signed[PARENT]


def printed_lines(messages: list[list[bytes]]) -> int:
    """Return how many whole lines the stdout among these messages has, put together.

    Whosever they are: what a kernel on ipykernel's base class prints has no parent.
    """
    contents = (json.loads(s[CONTENT]) for s in messages if b'"stream"' in s[HEADER])
    return "".join(c["text"] for c in contents if c["name"] == "stdout").count("\n")
