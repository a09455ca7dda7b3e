"""One request to a kernel's heartbeat channel; the answer shows that the kernel is up.

No method blocks, and the kernel does not have to listen yet.
"""

from __future__ import annotations

import zmq

from ..protocol.startup import CurveKeys

RECONNECT_INTERVAL_MS = 20
"""Milliseconds between two attempts to connect while the port is closed; libzmq's default is 100.
https://libzmq.readthedocs.io/en/latest/zmq_setsockopt.html (ZMQ_RECONNECT_IVL)"""


class Heartbeat:
    """A request to the heartbeat channel, sent as soon as the kernel accepts the connection.

    Args:
        address: ZeroMQ address of the heartbeat channel.
        curve: the kernel's CURVE keys, if it encrypts.
    """

    def __init__(self, address: str, curve: CurveKeys | None = None) -> None:
        # A separate context: `close` can be called from any thread in which a launch ends.
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        # REQ, not DEALER: kernels whose heartbeat is a REP socket need its empty frame.
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.REQ)
        self._socket.linger = 0
        self._socket.ipv6 = "[" in address
        self._socket.reconnect_ivl = RECONNECT_INTERVAL_MS
        if curve is not None:
            self._socket.curve_serverkey = curve.publickey
            self._socket.curve_publickey = curve.publickey
            self._socket.curve_secretkey = curve.secretkey
        self._socket.connect(address)
        self._socket.send(b"ping")

    def has_answered(self) -> bool:
        """Return True if the echo has arrived."""
        return bool(self._socket.poll(0))

    def close(self) -> None:
        """Close the socket. Can be called repeatedly."""
        self._socket.close()
        self._context.term()
