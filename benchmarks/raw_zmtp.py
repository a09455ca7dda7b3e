"""A ZeroMQ peer by hand, on plain TCP: it does what libzmq's own sockets never would.

It stops reading for good, stops in the middle of its greeting, and sends frames of any size (an
XSUB socket that sends a topic of 10 MB crashes its own process). ZMTP 3.0 without encryption.
"""

from __future__ import annotations

import select
import socket
import struct
import time

GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
"""Signature, version 3.0, mechanism, as client; 64 bytes."""

MORE, LONG, COMMAND = 1, 2, 4
"""Flags of a frame: another one follows; its size takes 8 bytes; it is none of a message."""

SHORTEST_LONG = 256
"""Bytes; what is shorter tells its size in one byte."""

CHUNK = 1 << 20
"""Bytes to read at once."""


class RawPeer:
    """One connection; usable as soon as it is made.

    Args:
        address: IP address and port of a ``tcp`` endpoint.
        kind: which socket to pass for; it must suit the one at the other end.
        seconds: how long the connection and its greeting may take.

    Raises:
        OSError: no connection, or its other end hung up.
    """

    def __init__(self, address: tuple[str, int], kind: bytes = b"SUB", seconds: float = 10) -> None:
        self.socket = socket.create_connection(address, timeout=seconds)
        self._buffer = b""
        self._at = 0
        deadline = time.monotonic() + seconds
        try:
            self.socket.sendall(GREETING)
            self._read(len(GREETING), deadline)
            ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind
            self.socket.sendall(bytes([COMMAND, len(ready)]) + ready)
            self._frame(deadline)  # the other end's READY
        except BaseException:
            self.socket.close()
            raise

    def close(self) -> None:
        self.socket.close()

    def subscribe(self, topic: bytes) -> None:
        """Subscribe; OSError if the other end hung up."""
        self.send([b"\x01" + topic])

    def send(self, frames: list[bytes]) -> None:
        """Send one message; OSError if the other end hung up."""
        last = len(frames) - 1
        self.socket.sendall(b"".join(frame(body, at < last) for at, body in enumerate(frames)))

    def readable(self, seconds: float) -> bool:
        """Whether something to read has come within ``seconds``."""
        return self._at < len(self._buffer) or bool(
            select.select([self.socket], [], [], seconds)[0]
        )

    def receive(self, deadline: float) -> list[bytes]:
        """Return the frames of the next message.

        Raises:
            TimeoutError: none came before the ``deadline`` of the monotonic clock.
            ConnectionError: the other end hung up.
        """
        frames, flags = [], MORE
        while flags & MORE:
            flags, body = self._frame(deadline)
            if flags & COMMAND:
                flags |= MORE  # it stands between messages: the next frame is still to come
            else:
                frames.append(body)
        return frames

    def _frame(self, deadline: float) -> tuple[int, bytes]:
        flags, size = self._read(2, deadline)
        if flags & LONG:
            size = int.from_bytes(bytes([size]) + self._read(7, deadline), "big")
        return flags, self._read(size, deadline)

    def _read(self, size: int, deadline: float) -> bytes:
        if len(self._buffer) - self._at < size:
            self._fill(size, deadline)
        self._at += size
        return self._buffer[self._at - size : self._at]

    def _fill(self, size: int, deadline: float) -> None:
        """Have ``size`` bytes in the buffer."""
        parts, missing = [self._buffer[self._at :]], size - (len(self._buffer) - self._at)
        while missing > 0:
            if not select.select([self.socket], [], [], max(0, deadline - time.monotonic()))[0]:
                raise TimeoutError("the other end sent nothing in time")
            chunk = self.socket.recv(CHUNK)
            if not chunk:
                raise ConnectionError("the other end hung up")
            parts.append(chunk)
            missing -= len(chunk)
        self._buffer, self._at = b"".join(parts), 0


def frame(body: bytes, more: bool = False) -> bytes:
    """Return ``body`` as it goes over the wire."""
    if len(body) < SHORTEST_LONG:
        return bytes([MORE * more, len(body)]) + body
    return bytes([MORE * more | LONG]) + struct.pack(">Q", len(body)) + body
