"""A ZeroMQ subscriber on plain TCP, which sends what the sockets of libzmq never send.

libzmq's own SUB socket filters unsubscriptions that had no subscription, and cannot send malformed
frames. This peer speaks ZMTP 3.0 with the NULL mechanism.

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
        timeout: seconds for the connection and for each exchange.

    Raises OSError if there is no connection, PeerError if the other end closes it.
    """

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
        received = b""
        while len(received) < size:
            chunk = self.socket.recv(size - len(received))
            if not chunk:
                raise PeerError(f"{size} bytes of a greeting", received)
            received += chunk
        return received


TOO_LONG_TOPIC = "10 MB of topic"
"""The kernel may close the connection before it has read all of this one (W4)."""

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
