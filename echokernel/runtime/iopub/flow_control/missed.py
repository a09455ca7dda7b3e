"""Messages held for a subscriber whose queue is full (P3)."""

from __future__ import annotations

import collections
import itertools
import operator
from collections.abc import Callable, Sequence


class Missed:
    """Messages held for a blocked subscriber; status messages have their own bounded queue.

    Args:
        lose: called with each message that is dropped; the oldest is dropped first.
        limit: number of status messages that are held, and number of other messages.
    """

    def __init__(self, lose: Callable[[Sequence[bytes]], None], limit: int) -> None:
        self._limit = limit
        self._lose = lose
        self._status: collections.deque[tuple[int, Sequence[bytes]]] = collections.deque()
        self._others: collections.deque[tuple[int, Sequence[bytes]]] = collections.deque()
        self._count = itertools.count()

    def __bool__(self) -> bool:
        return bool(self._status or self._others)

    def append(self, frames: Sequence[bytes], msg_type: str) -> None:
        kept = self._status if msg_type == "status" else self._others
        kept.append((next(self._count), frames))
        if len(kept) > self._limit:
            self._lose(kept.popleft()[1])

    def take(self) -> list[Sequence[bytes]]:
        """Return all held messages in their order, and hold none of them any more."""
        everything = sorted([*self._status, *self._others], key=operator.itemgetter(0))
        self._status.clear()
        self._others.clear()
        return [frames for _, frames in everything]
