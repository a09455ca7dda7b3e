"""Messages of the shell channel that wait for the kernel, in order, and those that need not wait.

Messages are received from the ROUTER only when the kernel asks for the next one. A cell that waits
can have messages taken out of order; everything else is *deferred* and keeps its order.
"""

from __future__ import annotations

import collections
import contextlib
import time
from collections.abc import Callable, Iterator

import zmq

from . import zmq_multipart

Frames = list[bytes]

Matches = Callable[[Frames], bool]


class MessageQueue:
    """Messages from one ROUTER. Belongs to the thread that owns the socket.

    Args:
        router: the channel's socket.
    """

    def __init__(self, router: zmq.Socket[bytes]) -> None:
        self._receive = zmq_multipart.receiver(router)
        self._deferred: collections.deque[Frames] = collections.deque()
        self._deferred_unsorted = False  # messages that match may be among the deferred ones
        self._to_abort: collections.deque[Frames] = collections.deque()
        self._abort_until = 0.0

    def pop(self) -> tuple[Frames, bool]:
        """Return the next message, and whether an execute request is to be aborted.

        Raises:
            zmq.Again: no message has arrived.
        """
        if self._to_abort:
            return self._to_abort.popleft(), True
        return self._next(), time.monotonic() < self._abort_until

    def _next(self) -> Frames:
        return self._deferred.popleft() if self._deferred else self._receive()

    def abort_waiting(self, timeout: float) -> None:
        """Abort the execute requests that have arrived, or arrive within ``timeout`` seconds."""
        self._abort_until = time.monotonic() + timeout
        with contextlib.suppress(zmq.Again):
            while True:
                self._to_abort.append(self._next())

    def pop_matching(self, matches: Matches) -> Iterator[Frames]:
        """Yield the messages that match, also those that arrive meanwhile; defer all others."""
        if self._deferred_unsorted:
            self._deferred_unsorted = False
            yield from _extract(self._deferred, matches)
        while True:
            try:
                frames = self._receive()
            except zmq.Again:
                return
            if matches(frames):
                yield frames
            else:
                self._deferred.append(frames)

    def pop_arrived(self, matches: Matches) -> Iterator[Frames]:
        """Yield the messages that match and have arrived by now, those to be aborted first."""
        with contextlib.suppress(zmq.Again):
            while True:
                self._deferred.append(self._receive())
        self._deferred_unsorted = True
        for queue in (self._to_abort, self._deferred):
            yield from _extract(queue, matches)


def _extract(queue: collections.deque[Frames], matches: Matches) -> list[Frames]:
    """Remove the messages that match; the others keep their order."""
    extracted: list[Frames] = []
    for _ in range(len(queue)):
        frames = queue.popleft()
        (extracted if matches(frames) else queue).append(frames)
    return extracted
