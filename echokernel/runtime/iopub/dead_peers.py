"""Ends connections whose host has vanished while output to it was under way (C1).

TCP keepalive probes only a connection on which nothing is unacknowledged. While a kernel goes on
publishing, the operating system gives up after a quarter of an hour. Its own limit for that case
(``TCP_USER_TIMEOUT``) would also end the connection of a client that does not read for a while.
Here the two cases differ: the host of a stopped client still acknowledges retransmissions.

Linux only, which reports a connection's state: ``TCP_INFO``,
https://man7.org/linux/man-pages/man7/tcp.7.html. Elsewhere keepalive is all there is.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import sys
from typing import NamedTuple

from ..sockets import Keepalive
from .connections import Connection, ConnectionRegistry

log = logging.getLogger("echokernel")

RETRANSMISSION_DUE = 1000
"""Milliseconds after which data that was sent (again) should have been acknowledged."""


class TcpHealth(NamedTuple):
    """The state of a TCP connection.

    Attributes: ``unacknowledged`` (segments), ``sent`` (milliseconds since data was sent, or sent
    again), ``received`` (milliseconds since an acknowledgement was received).
    """

    unacknowledged: int
    sent: int
    received: int

    def is_dead(self, patience: float) -> bool:
        """Return True if no data was acknowledged for ``patience`` seconds."""
        unanswered = self.unacknowledged > 0 and self.received > self.sent > RETRANSMISSION_DUE
        return unanswered and self.received > patience * 1000


def health_of(connection: socket.socket) -> TcpHealth | None:
    """Return the state of ``connection``; None if it has ended or is not TCP."""
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 60)
        # struct tcp_info of linux/tcp.h: tcpi_unacked, tcpi_last_data_sent, tcpi_last_ack_recv
        return TcpHealth(*(struct.unpack_from("=I", info, at)[0] for at in (24, 44, 56)))
    except (OSError, struct.error):
        return None


class DeadPeerMonitor:
    """Checks the connections of IOPub's subscribers as often as keepalive would probe them.

    Args:
        connections: of the subscribers.
        keepalive: how long a host may be silent.
        loop: of a thread that user code never keeps busy.
    """

    def __init__(
        self,
        connections: ConnectionRegistry,
        keepalive: Keepalive,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        self._connections = connections
        self._interval = keepalive.interval
        self._patience = keepalive.idle + keepalive.interval * keepalive.count
        self._loop = loop

    def start(self) -> None:
        """Check from now on; does nothing where the system has no ``TCP_INFO``."""
        if sys.platform == "linux":
            self._loop.call_soon_threadsafe(self._check_later)

    def _check_later(self) -> None:
        self._loop.call_later(self._interval, self._check)

    def _check(self) -> None:
        for connection in self._connections.open_connections():
            self._end_if_dead(connection)
        self._check_later()

    def _end_if_dead(self, connection: Connection) -> None:
        copy = connection.duplicate()
        if copy is None:
            return
        with copy:
            health = health_of(copy)
            if health is not None and health.is_dead(self._patience):
                log.warning(
                    "IOPub: a subscriber's host has acknowledged nothing for %d s; it is"
                    " considered dead, and its connection is ended",
                    health.received // 1000,
                )
                # ZeroMQ finds its end closed, and reports the subscriptions as ended.
                copy.shutdown(socket.SHUT_RDWR)
