"""Multipart messages on pyzmq sockets at a third of pyzmq's own cost; the adapter for pyzmq.

pyzmq's ``send_multipart`` and ``recv_multipart`` check the type of every frame, and read the
option RCVMORE through two enumerations after each frame. One execute has more than 40 frames.
The names of pyzmq's backend that are used here are listed in ``tests/test_upstream_names.py``.
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
        TypeError: ``frames`` is not a message. If ZeroMQ found that out, half of the message
            would have been sent already.
    """
    if not frames:
        raise TypeError("a message has at least one frame")
    return sum([len(f) if type(f) is bytes else memoryview(f).nbytes for f in frames])


def sender(socket: zmq.Socket[bytes]) -> Callable[..., None]:
    """Return ``send(frames, copy=True, flags=0)`` for ``socket``.

    It sends one message, as ``send_multipart`` does: with ``copy`` False, large frames are shared
    with ZeroMQ and must not change until they are sent. The caller has used `check` on the frames.
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
    """Return a function that returns True if a message can be received on ``socket``."""
    get: Callable[[int], Any] = super(zmq.Socket, socket).get

    def arrived() -> bool:
        return bool(get(_EVENTS) & _POLLIN)

    return arrived


def receiver(socket: zmq.Socket[bytes]) -> Callable[[], list[bytes]]:
    """Return a function that returns one message that has arrived on ``socket``.

    The function raises ``zmq.Again`` if no message has arrived.
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


def descriptor_of(frame: zmq.Frame) -> int | None:
    """Return the descriptor of the connection that ``frame`` came over; None if it has none."""
    try:
        return int(frame.get("__fd"))
    except (zmq.ZMQError, ValueError):
        return None
