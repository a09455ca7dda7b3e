"""Finds out from the operating system whether IOPub's subscribers read (P3).

The number of unsent bytes is TIOCOUTQ: https://man7.org/linux/man-pages/man7/tcp.7.html
"""

from __future__ import annotations

import sys

from ..connections import Connection, connection_of


class ReaderProgress:
    """The connections of the subscribers of output, and their unsent bytes at the last check."""

    def __init__(self) -> None:
        self._unsent: dict[Connection, int | None] = {}

    def __len__(self) -> int:
        return len(self._unsent)

    def add(self, descriptor: int) -> None:
        connection = connection_of(descriptor)
        if connection is not None:
            self._unsent.setdefault(connection, None)

    def any_reads(self) -> bool:
        """Return True if sent data has reached a subscriber's process since the last check."""
        if sys.platform == "win32":
            return True  # Windows does not report it
        return any(unsent == 0 or unsent != before for before, unsent in self._poll())

    def any_progress(self) -> bool:
        """Return True if a subscriber has read since the last check, and nothing was sent."""
        return sys.platform != "win32" and any(unsent != before for before, unsent in self._poll())

    def _poll(self) -> list[tuple[int, int]]:
        """Return for each open connection the unsent bytes at the last check, and now."""
        before, self._unsent = self._unsent, {}
        changes = []
        for connection, earlier in before.items():
            if connection.is_open:
                unsent = _unsent_bytes(connection.descriptor)
                self._unsent[connection] = unsent
                changes.append((unsent if earlier is None else earlier, unsent))
        return changes


def _unsent_bytes(descriptor: int) -> int:
    """Return the number of bytes that the peer's operating system has not acknowledged."""
    import fcntl  # Windows has neither module
    import termios

    try:
        answer = fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4))
    except OSError:
        return 0
    return int.from_bytes(answer, sys.byteorder)
