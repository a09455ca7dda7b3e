"""``send_multipart`` and ``recv_multipart`` for the hot path: a third of their cost.

pyzmq's own look at every frame's type before they send one, and ask for the option RCVMORE, by
way of two enumerations, behind each frame. An execute has more than 40.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import zmq

_SNDMORE = int(zmq.SNDMORE)  # plain numbers: `|` of zmq's enumerations costs a microsecond
_NOBLOCK = int(zmq.NOBLOCK)
_EVENTS = int(zmq.EVENTS)
_POLLIN = int(zmq.POLLIN)


def check(frames: Sequence[Any]) -> int:
    """Return the number of bytes in ``frames``.

    Raises:
        TypeError: they are no message. Found out later, half of it would be sent.
    """
    if not frames:
        raise TypeError("a message has one frame at least")
    return sum([len(f) if type(f) is bytes else memoryview(f).nbytes for f in frames])


def sender(socket: zmq.Socket[bytes]) -> Callable[..., None]:
    """Return ``send(frames, copy=True, flags=0)`` for ``socket``.

    It sends one message, as ``send_multipart`` does: with ``copy`` False large frames are shared
    with ZeroMQ, and must not change until they are sent. Frames must have been `check`\\ ed.
    """
    send_frame: Callable[..., Any] = super(zmq.Socket, socket).send  # the backend's

    def send(frames: Sequence[Any], copy: bool = True, flags: int = 0) -> None:
        *first, last = frames
        more = flags | _SNDMORE
        for frame in first:
            send_frame(frame, more, copy)
        send_frame(last, flags, copy)

    return send


def has_arrived(socket: zmq.Socket[bytes]) -> Callable[[], bool]:
    """Return a function that tells whether there is something to receive on ``socket``."""
    get: Callable[[int], Any] = super(zmq.Socket, socket).get

    def arrived() -> bool:
        return bool(get(_EVENTS) & _POLLIN)

    return arrived


def receiver(socket: zmq.Socket[bytes]) -> Callable[[], list[bytes]]:
    """Return a function that returns one message that has arrived on ``socket``.

    It raises ``zmq.Again`` if there is none.
    """
    receive_frame: Callable[..., Any] = super(zmq.Socket, socket).recv

    def receive() -> list[bytes]:
        frames = []
        while True:
            frame = receive_frame(_NOBLOCK, False)
            frames.append(frame.bytes)
            if not frame.more:
                return frames

    return receive
