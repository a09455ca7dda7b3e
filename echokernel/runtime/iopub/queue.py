"""Messages that wait for the publisher's thread: bounded, and added from any thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from ...protocol.flow_control import FlowLimits
from .. import zmq_multipart

CONTROL_THREAD = "Control"
"""Name of the thread that serves the control channel; ipykernel identifies it by this name."""

LARGE = 64 * 1024
"""Bytes from which a message counts as large."""

ROOM_POLL = 0.05
"""Seconds after which a sender checks again that the publisher's thread still runs."""


class Outgoing(NamedTuple):
    """One message: its ``size`` in bytes, and whether ZeroMQ copies its frames."""

    frames: Sequence[Any]
    copy: bool
    size: int


class Signal:
    """An object in the queue that is not a message; see the module's constants."""


SUBSCRIPTIONS = Signal()  # the watcher: subscriptions have arrived
IDLE = Signal()  # no message for a while
STOP = Signal()


class OutgoingQueue:
    """First in, first out. `put` is called from any thread, `get` from the publisher's.

    Args:
        limits: beyond them a sender waits until there is room.
    """

    def __init__(self, limits: FlowLimits) -> None:
        self._max_messages = limits.queued_messages
        self._max_large = limits.queued_bytes
        self._queue: queue.SimpleQueue[Outgoing | Signal] = queue.SimpleQueue()
        self._room = threading.Event()
        self._large = 0  # bytes in large messages that wait
        self._large_lock = threading.Lock()
        self._is_open = True
        self.put_signal: Callable[[Signal], None] = self._queue.put
        self.put_admitted: Callable[[Outgoing], None] = self._queue.put

    def __len__(self) -> int:
        return self._queue.qsize()

    @property
    def is_empty(self) -> bool:
        return self._queue.empty()

    def put(self, frames: Sequence[Any], copy: bool) -> None:
        """Add one message, when there is room.

        Raises:
            TypeError: ``frames`` is not a message.
        """
        self._queue.put(self.admit(frames, copy))

    def admit(self, frames: Sequence[Any], copy: bool) -> Outgoing:
        """Wait for room and return the message for `put_admitted`."""
        size = zmq_multipart.check(frames)
        if self._queue.qsize() > self._max_messages or self._large > self._max_large:
            self._wait_for_room()
        if size >= LARGE:
            self._count_large(size)
        return Outgoing(frames, copy, size)

    def get(self, timeout: float | None) -> Outgoing | Signal:
        """Return the next message; `IDLE` after ``timeout`` seconds, None: no timeout."""
        try:
            item = self._queue.get(timeout=timeout)
        except queue.Empty:
            return IDLE
        if isinstance(item, Outgoing) and item.size >= LARGE:
            self._count_large(-item.size)
        return item

    def reopen(self) -> None:
        """Let waiting senders continue if there is room again; the publisher's thread calls it."""
        if self._large and self._queue.empty():
            # A signal handler raised between the count and the queue.
            self._count_large(-self._large)
        if not self._room.is_set() and not self._is_crowded(0.5):
            self._room.set()

    def close(self) -> None:
        """Let no sender wait any more."""
        self._is_open = False
        self._room.set()

    def _wait_for_room(self) -> None:
        # Not the control thread: a kernel whose output is not read can still be interrupted.
        if threading.current_thread().name == CONTROL_THREAD:
            return
        while self._is_open and self._is_crowded(1):
            self._room.clear()
            self._room.wait(ROOM_POLL)

    def _is_crowded(self, share: float) -> bool:
        return (
            self._queue.qsize() > self._max_messages * share
            or self._large > self._max_large * share
        )

    def _count_large(self, size: int) -> None:
        with self._large_lock:
            self._large = max(0, self._large + size)


class AtomicHandoff:
    """Adds one message to the queue and removes its source from ``waiting``: both, or neither.

    A signal handler that raises (an interrupt) can end a send anywhere. It is then known whether
    to send again, and no output is lost or sent twice. Session uses this object as its socket.
    """

    def __init__(self, outgoing: OutgoingQueue, waiting: list[Any]) -> None:
        self._outgoing = outgoing
        self._waiting = waiting

    def send_multipart(
        self, frames: Sequence[Any], flags: int = 0, copy: bool = True, track: bool = False
    ) -> None:
        waiting, put = self._waiting, self._outgoing.put_admitted
        item = self._outgoing.admit(frames, copy)
        # CPython (3.10 to 3.14) runs signal handlers when a call returns and at the start of a
        # loop's next iteration. Between these two lines it does not run them.
        del waiting[0]
        put(item)
