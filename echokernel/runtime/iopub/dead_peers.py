"""Ends connections whose host has vanished while output to it was under way (SPEC C1).

TCP keepalive asks only where nothing is unacknowledged: a kernel that publishes on would hold the
connection until the system gives up sending, after a quarter of an hour. The system's own limit for
that (``TCP_USER_TIMEOUT``) would also cut off a client that merely does not read for a while. Here
the two are told apart: the host of a stopped client still acknowledges what is sent to it again.

Linux only, which tells how a connection is (``TCP_INFO``, tcp(7)); elsewhere keepalive is all.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
import sys
from typing import NamedTuple

from ..sockets import Keepalive
from .connections import Connection, Listeners

SENT_LONG_AGO = 1000
"""Milliseconds after which what was sent (again) should have been acknowledged."""


class Health(NamedTuple):
    """How a TCP connection is: segments that are ``unacknowledged``, and how many milliseconds ago
    data was ``sent`` (again) and an acknowledgement was ``heard``."""

    unacknowledged: int
    sent: int
    heard: int

    def is_dead(self, patience: float) -> bool:
        """Tell whether nobody has answered what was sent for so many seconds."""
        unanswered = self.unacknowledged > 0 and self.heard > self.sent > SENT_LONG_AGO
        return unanswered and self.heard > patience * 1000


def health(connection: socket.socket) -> Health | None:
    """Return how ``connection`` is; None if that is not to be had."""
    try:
        info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 60)
        # struct tcp_info of linux/tcp.h: tcpi_unacked, tcpi_last_data_sent, tcpi_last_ack_recv
        return Health(*(struct.unpack_from("=I", info, at)[0] for at in (24, 44, 56)))
    except (OSError, struct.error):  # it has ended, or is not TCP
        return None


class VanishedHosts:
    """Looks at the connections of IOPub's listeners, as often as keepalive would ask.

    Args:
        listeners: whose connections.
        keepalive: how long a host may be silent.
        loop: of a thread that stays free.
    """

    def __init__(
        self,
        listeners: Listeners,
        keepalive: Keepalive,
        loop: asyncio.AbstractEventLoop,
        log: logging.Logger,
    ) -> None:
        self._listeners = listeners
        self._every = keepalive.interval
        self._patience = keepalive.idle + keepalive.interval * keepalive.count
        self._loop = loop
        self._log = log

    def start(self) -> None:
        """Look from now on; nothing where the system does not tell."""
        if sys.platform == "linux":
            self._loop.call_soon_threadsafe(self._look_later)

    def _look_later(self) -> None:
        self._loop.call_later(self._every, self._look)

    def _look(self) -> None:
        for connection in self._listeners.connections():
            self._end_if_dead(connection)
        self._look_later()

    def _end_if_dead(self, connection: Connection) -> None:
        copy = connection.duplicate()
        if copy is None:
            return
        with copy:
            found = health(copy)
            if found is not None and found.is_dead(self._patience):
                self._log.warning(
                    "IOPub: a subscriber's host has acknowledged nothing for %d s: it has vanished",
                    found.heard // 1000,
                )
                # ZeroMQ finds its end closed, and reports what was subscribed there as left.
                copy.shutdown(socket.SHUT_RDWR)
