"""The system's ends of IOPub's connections: whether anybody reads what was sent (SPEC P3)."""

from __future__ import annotations

import os
import socket
import sys
from typing import Any


class SubscriberSockets:
    """The connections of those who hear output, to see whether any of them reads.

    The descriptors are ZeroMQ's; it may have closed one and the system given it to somebody
    else. So nothing is ever written to one, and it counts only while its peer is the same.
    """

    def __init__(self) -> None:
        self._peers: dict[int, Any] = {}
        self._unsent: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self._peers)

    def add(self, descriptor: int) -> None:
        self._peers[descriptor] = _peer(descriptor)

    def somebody_reads(self) -> bool:
        """Tell whether what was sent has reached somebody's process since the last look."""
        if sys.platform == "win32":
            return True  # nobody to ask
        return any(unsent == 0 or unsent != before for before, unsent in self._look())

    def have_taken(self) -> bool:
        """Tell whether anybody has taken anything since the last look, and nothing was sent."""
        return sys.platform != "win32" and any(unsent != before for before, unsent in self._look())

    def _look(self) -> list[tuple[int, int]]:
        """Return for each connection what was unsent at the last look, and what is now."""
        before, self._unsent = self._unsent, {}
        for descriptor, peer in list(self._peers.items()):
            if peer is None or _peer(descriptor) != peer:
                del self._peers[descriptor]
            else:
                self._unsent[descriptor] = _unsent(descriptor)
        return [(before.get(number, unsent), unsent) for number, unsent in self._unsent.items()]


def _peer(descriptor: int) -> Any:
    """Return the address of the other end; None if ``descriptor`` is no connection."""
    try:
        copy = os.dup(descriptor)
    except OSError:
        return None
    try:
        connection = socket.socket(fileno=copy)
    except OSError:  # no socket: the copy is still ours
        os.close(copy)
        return None
    with connection:
        try:
            return connection.getpeername()
        except OSError:
            return None


def _unsent(descriptor: int) -> int:
    """Return the bytes that the other end's system has not taken yet."""
    import fcntl  # not on Windows
    import termios

    try:
        answer = fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4))
    except OSError:
        return 0
    return int.from_bytes(answer, sys.byteorder)
