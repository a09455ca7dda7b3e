"""What a subscriber whose queue is full still has to be told (SPEC P3)."""

from __future__ import annotations

import collections
import itertools
import operator
from collections.abc import Callable, Sequence


class Missed:
    """What is kept for whose queue is full, status apart from the rest, which may be much more.

    Args:
        lose: is told what there is no room for any more; the oldest goes first.
        limit: status messages that are kept, and as many others.
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
        """Return everything, in order; it is not kept any longer."""
        everything = sorted([*self._status, *self._others], key=operator.itemgetter(0))
        self._status.clear()
        self._others.clear()
        return [frames for _, frames in everything]
