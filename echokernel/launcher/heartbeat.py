"""Asks a kernel's heartbeat, over and over, whether it is up. Never blocks."""

from __future__ import annotations

import zmq

from ..protocol.startup import CurveKeys

RECONNECT_MS = 20
"""Milliseconds between attempts to connect while nobody listens (libzmq's default is 100)."""


class Heartbeat:
    """A question to one kernel's heartbeat, asked at once and sent as soon as somebody listens.

    Args:
        address: ZeroMQ address of the heartbeat channel.
        curve: the kernel's CURVE keys, if it encrypts.
    """

    def __init__(self, address: str, curve: CurveKeys | None = None) -> None:
        # A context of its own: it is closed from wherever a launch ends.
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        # REQ: some kernels echo with a REP, and that takes nothing without the empty frame.
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.REQ)
        self._socket.linger = 0
        self._socket.ipv6 = "[" in address
        self._socket.reconnect_ivl = RECONNECT_MS
        if curve is not None:
            self._socket.curve_serverkey = curve.publickey
            self._socket.curve_publickey = curve.publickey
            self._socket.curve_secretkey = curve.secretkey
        self._socket.connect(address)
        self._socket.send(b"ping")

    def answered(self) -> bool:
        """Tell whether the echo has come."""
        return bool(self._socket.poll(0))

    def close(self) -> None:
        """Ask no longer; harmless if it is closed."""
        self._socket.close()
        self._context.term()
