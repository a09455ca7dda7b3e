"""A ZeroMQ peer on plain TCP, which can do what the sockets of libzmq cannot.

libzmq's own SUB socket filters unsubscriptions that had no subscription. It cannot send malformed
frames, and it reads even when its program does not. An XSUB socket that sends a topic of 10 MB
crashes its own process. This peer speaks ZMTP 3.0 with the NULL mechanism.

https://rfc.zeromq.org/spec:23/ZMTP
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Mapping
from types import MappingProxyType, TracebackType

from .raw_client import DEADLINE
from .raw_messages import PeerError

GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
"""Signature, version 3.0, mechanism, as a client, filler: 64 bytes."""

MORE, LONG, COMMAND = 1, 2, 4
"""Flags of a frame: another frame follows; its size has 8 bytes; it is not part of a message."""

SHORT_SIZE = 255
"""Bytes; the largest body whose size is one byte."""

CHUNK_SIZE = 1 << 20
"""Bytes of one read: a peer that reads a flood is as fast as the kernel."""


def encode_frame(body: bytes, more: bool = False) -> bytes:
    """Return a frame as it is on the wire; ``more`` if another frame of the message follows."""
    flags = MORE if more else 0
    if len(body) > SHORT_SIZE:
        return bytes([flags | LONG]) + struct.pack(">Q", len(body)) + body
    return bytes([flags, len(body)]) + body


class ZmtpPeer:
    """A connection after its greeting.

    Args:
        port: of a ``tcp`` endpoint.
        host: its address.
        socket_type: the type that the greeting claims; it must suit the other end.
        timeout: seconds for the connection, for each send and for each read.

    Raises OSError if there is no connection, PeerError if the other end closes it.
    """

    _buffer = b""
    _position = 0

    def __init__(
        self,
        port: int,
        host: str = "127.0.0.1",
        *,
        socket_type: bytes = b"SUB",
        timeout: float = DEADLINE,
    ) -> None:
        self.socket = socket.create_connection((host, port), timeout=timeout)
        try:
            self.socket.sendall(GREETING)
            self._read(len(GREETING))
            ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", len(socket_type)) + socket_type
            self.socket.sendall(bytes([COMMAND, len(ready)]) + ready)
            self._read(self._read(2)[1])  # the other end's READY
        except BaseException:
            self.socket.close()
            raise

    def send(self, *frames: bytes) -> None:
        """Send one message; OSError if the other end has closed the connection."""
        last = len(frames) - 1
        self.send_bytes(b"".join(encode_frame(body, at < last) for at, body in enumerate(frames)))

    def send_bytes(self, data: bytes) -> None:
        """Send bytes as they are; OSError if the other end has closed the connection."""
        self.socket.sendall(data)

    def receive(self) -> list[bytes]:
        """Return the frames of the next message.

        Raises OSError if nothing arrives in time, PeerError if the other end closes the connection.
        """
        frames: list[bytes] = []
        while True:
            flags, size = self._read(2)
            if flags & LONG:
                size = int.from_bytes(bytes([size]) + self._read(7), "big")
            body = self._read(size)
            if flags & COMMAND:  # between messages
                continue
            frames.append(body)
            if not flags & MORE:
                return frames

    def close(self) -> None:
        self.socket.close()

    def __enter__(self) -> ZmtpPeer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def _read(self, size: int) -> bytes:
        if len(self._buffer) - self._position < size:
            parts = [self._buffer[self._position :]]
            missing = size - len(parts[0])
            while missing > 0:
                chunk = self.socket.recv(CHUNK_SIZE)
                if not chunk:
                    raise PeerError(f"{size} bytes", b"".join(parts))
                parts.append(chunk)
                missing -= len(chunk)
            self._buffer, self._position = b"".join(parts), 0
        self._position += size
        return self._buffer[self._position - size : self._position]


TOO_LONG_TOPIC = "10 MB of topic"
"""The entry of IOPUB_JUNK that the kernel may refuse before it has read all of it (W4)."""

IOPUB_JUNK: Mapping[str, bytes] = MappingProxyType(
    {
        "empty": encode_frame(b""),
        "first byte 2": encode_frame(b"\x02topic"),
        "first byte 255": encode_frame(b"\xff"),
        "several frames": encode_frame(b"\x01a", more=True) + encode_frame(b"b"),
        "several frames, empty first": encode_frame(b"", more=True) + encode_frame(b"\x01b"),
        "a whole message": encode_frame(b"<IDS|MSG>", more=True) + encode_frame(b"{}"),
        "unsubscribed without a subscription": encode_frame(b"\x00never"),
        "unsubscribed in pieces": encode_frame(b"\x00", more=True) + encode_frame(b""),
        TOO_LONG_TOPIC: encode_frame(b"\x01" + b"x" * 10_000_000),
        "no frame at all": b"\x00\xff\xff\xff",
        "half a frame": b"\x00\x64\x01",
        "not ZMTP": b"GET / HTTP/1.0\r\n\r\n",
    }
)
"""Name -> bytes that a subscriber can send and a kernel must survive (W3, W4)."""
