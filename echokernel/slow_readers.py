"""What becomes of output when a subscriber does not read it (SPEC P3).

ZeroMQ keeps a queue for each subscriber and tells nobody how long they are. So here we count what
the slowest of them has yet to be sent (`Backlog`), and within a bound nothing is lost. Beyond it
(`SlowReaders`) everybody waits, as long as that subscriber reads. If it does not, it loses output;
what is said of requests it does not lose. Both belong to IOPub's own thread.

ZeroMQ's own bound, the high water mark, is above ours. It hears of what a subscriber was sent only
every half of it, so a queue may be full for it that is not half as long. Then it refuses a message
(ZMQ_XPUB_NODROP); without that it would drop everything from there, the idle status too, and
tell nobody. A full queue is also what lets others go on: dropping is left to ZeroMQ then, which
drops for that subscriber alone.
"""

from __future__ import annotations

import collections
import json
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import zmq

from . import multipart
from .protocol.wire import DELIMITER
from .subscriber_sockets import SubscriberSockets

BACKLOG_MESSAGES = 100_000
"""Messages that a subscriber may be behind; a small one costs 0.9 KB, shared by all who wait.

Fewer if it has taken in much that its program has not read: `channels.IOPUB_SEND_HWM`.
"""

BACKLOG_BYTES = 256 * 1024 * 1024
"""Bytes that a subscriber may be behind."""

MISSED = 10_000
"""Messages about requests that are kept for a subscriber whose queue is full."""

PATIENCE = 3.0
"""Seconds without progress, beyond the bound, after which a subscriber is said not to read."""

SMALL = 1024
"""Bytes of output that goes on to everybody where only bytes are the matter."""

OUTPUT = {"stream", "display_data", "update_display_data", "execute_result"}
"""Types of messages that are dropped first."""

_SEGMENT_MESSAGES = 500
_SEGMENT_BYTES = 1024 * 1024
_LOOK_AGAIN = 0.05  # seconds
_NOBLOCK = int(zmq.NOBLOCK)


class _Segment(NamedTuple):
    number: int
    messages: int
    size: int
    tracker: Any


class Backlog:
    """Sends, and counts what the slowest subscriber has not been sent yet.

    The last message of every few hundred is tracked: ZeroMQ lets go of it when nobody waits for
    it any more, and those before it went out earlier.

    Attributes: ``messages`` and ``size`` (bytes) as of the last `look`, and whether that is more
    than may be (``is_full``; ``is_heavy``, by its bytes); ``segments``, the number of segments that
    were ever sent.
    """

    def __init__(self, xpub: zmq.Socket[bytes]) -> None:
        self._send = multipart.sender(xpub)
        self._segments: list[_Segment] = []
        self.segments = 0
        self._open_messages = 0
        self._open_size = 0
        self.messages = 0
        self.size = 0
        self.is_full = False

    def send(self, frames: Sequence[Any], copy: bool, size: int) -> bool:
        """Send; return False if somebody's queue is full, and it was not."""
        messages, total = self._open_messages + 1, self._open_size + size
        last = None
        if messages >= _SEGMENT_MESSAGES or total >= _SEGMENT_BYTES:
            last = zmq.Frame(frames[-1], track=True, copy=False, copy_threshold=0)
            frames, copy = [*frames[:-1], last], False
        try:
            # Refused, if at all, at its first frame: within a message no queue grows.
            self._send(frames, copy, _NOBLOCK)
        except zmq.Again:
            return False
        self._open_messages, self._open_size = messages, total
        if last is not None:
            self.segments += 1
            self._segments.append(_Segment(self.segments, messages, total, last.tracker))
            self._open_messages = self._open_size = 0
            self.look()
        return True

    def look(self) -> None:
        """Count anew."""
        self._segments = [segment for segment in self._segments if not segment.tracker.done]
        self.messages = sum(segment.messages for segment in self._segments)
        self.size = sum(segment.size for segment in self._segments)
        self.is_full = not self.within(1)

    @property
    def is_heavy(self) -> bool:
        return self.size > BACKLOG_BYTES

    def waits_for(self, segment: int) -> bool:
        """Tell whether somebody has not been sent the segment of that number, or one before."""
        return bool(self._segments) and self._segments[0].number <= segment

    def within(self, share: float) -> bool:
        """Tell whether it is no longer than that share of what it may be."""
        return self.messages <= BACKLOG_MESSAGES * share and self.size <= BACKLOG_BYTES * share


class SlowReaders:
    """Publishes within the bound; beyond it, decides what is dropped, and says so.

    Args:
        xpub: the IOPub socket.
        notice: makes the frames of a ``stream`` message of a text, for the request that the
            given message belongs to.
        pause: waits a moment, and serves subscriptions meanwhile; False: wait no more.
    """

    def __init__(
        self,
        xpub: zmq.Socket[bytes],
        notice: Callable[[str, Sequence[bytes]], Sequence[bytes]],
        pause: Callable[[], bool],
        log: logging.Logger,
    ) -> None:
        self._socket = xpub
        self._backlog = Backlog(xpub)
        self._subscribers = SubscriberSockets()
        self._notice = notice
        self._pause = pause
        self._log = log
        self.dropping = False
        self._left_to_zeromq = False
        self._full_until = 0
        self._somebody_reads = False
        self._lost = 0
        self._example: Sequence[bytes] = []  # a message that was lost
        self._missed: collections.deque[Sequence[bytes]] = collections.deque(maxlen=MISSED)
        self._looked_at = 0.0
        self._refuse(True)

    def joined(self, topic: bytes, descriptor: int | None) -> None:
        """Somebody subscribed, over the connection ``descriptor``."""
        if descriptor is not None and b"stream".startswith(topic[:6]):
            self._subscribers.add(descriptor)
            if self.dropping:
                self._see_who_reads()  # who has just come must not go without

    def publish(self, frames: Sequence[Any], copy: bool, size: int) -> None:
        """Send a message of ``size`` bytes, after a wait or not at all if it has to be."""
        if self.dropping and time.monotonic() > self._looked_at + _LOOK_AGAIN:
            self.look()
            if self.dropping:
                self._see_who_reads()
        if not self.dropping:
            if self._is_sent(frames, copy, size):
                return
            self.dropping = True
            self._see_who_reads()
        self._send_past(frames, copy, size)

    def send_at_once(self, frames: Sequence[bytes]) -> None:
        """Send what is no output, whoever does not read."""
        size = multipart.check(frames)
        if not self._backlog.send(frames, True, size):
            self.dropping = True
            self._leave_to_zeromq()
            self._send_past(frames, True, size)

    def look(self) -> None:
        """While messages are dropped: see whether that is over."""
        self._looked_at = time.monotonic()
        self._backlog.look()
        if (
            not self._backlog.waits_for(self._full_until)
            if self._left_to_zeromq
            else self._backlog.within(0.5)
        ):
            self._recover()

    def _is_sent(self, frames: Sequence[Any], copy: bool, size: int) -> bool:
        """Send when there is room; return False if the slowest subscriber does not read."""
        backlog = self._backlog
        if not backlog.is_full and backlog.send(frames, copy, size):
            return True
        self._subscribers.somebody_reads()  # since now
        behind, deadline = backlog.messages, time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if not self._pause():
                self._refuse(False)  # the end: what there is room for
                return backlog.send(frames, copy, size)
            backlog.look()
            if not backlog.is_full and backlog.send(frames, copy, size):
                return True
            if backlog.messages < behind:
                behind, deadline = backlog.messages, time.monotonic() + PATIENCE
        return False

    def _send_past(self, frames: Sequence[Any], copy: bool, size: int) -> None:
        """Send to whom it can be sent, while somebody does not read."""
        msg_type = type_of(frames)
        if not self._left_to_zeromq:
            there_is_room = self._somebody_reads and not (size > SMALL and self._backlog.is_heavy)
            if msg_type in OUTPUT and not there_is_room:
                self._lose(frames)
                return
            if not self._somebody_reads:
                if self._missed or not self._backlog.send(frames, copy, size):
                    self._missed.append(frames)
                return
            if self._backlog.send(frames, copy, size):
                return
            self._leave_to_zeromq()
        if msg_type == "status":
            self._missed.append(frames)
        else:
            self._lose(frames)
        self._backlog.send(frames, copy, size)

    def _leave_to_zeromq(self) -> None:
        """From now on it drops for whose queue is full, and sends to the others.

        No way back before that queue has been read: ZeroMQ passes one over that it has dropped for,
        and refuses nothing for its sake.
        """
        self._left_to_zeromq = True
        self._refuse(False)
        # ZeroMQ opens a full queue again when half of it was read; a catch-up that comes
        # earlier would be lost, too. So: when everything that is in it now is out.
        self._full_until = self._backlog.segments

    def _lose(self, frames: Sequence[bytes]) -> None:
        self._lost += 1
        if self._lost == 1:
            self._example = frames
            self._log.warning(
                "IOPub: a subscriber does not read and is %d messages (%d MB) behind: output to it"
                " is dropped until it reads again",
                self._backlog.messages,
                self._backlog.size // 1_000_000,
            )
            # If it still has room for this, it will find it where the gap begins.
            self._tell(
                "a client has stopped reading; output that is not sent to it is lost from here"
            )

    def _see_who_reads(self) -> None:
        """If others do, they lose nothing; also who does now and then."""
        self._somebody_reads = self._subscribers.somebody_reads() or self._somebody_reads

    def _recover(self) -> None:
        self.dropping = self._left_to_zeromq = self._somebody_reads = False
        self._refuse(True)
        self._socket.getsockopt(zmq.EVENTS)  # has it learn what was read: it looks rarely
        # Others hear these again. A second idle disturbs nobody, a missing one is waited for.
        while self._missed and not self.dropping:
            self.send_at_once(self._missed.popleft())
        if self._lost:
            self._log.warning("IOPub: %d messages were lost to a subscriber", self._lost)
            self._tell(f"{self._lost} messages were not sent to a client that had stopped reading")
        self._lost, self._example = 0, []

    def _tell(self, text: str) -> None:
        frames = self._notice(f"[echokernel] {text}\n", self._example)
        if not self._backlog.send(frames, True, multipart.check(frames)):
            self._missed.append(frames)

    def _refuse(self, refuse: bool) -> None:
        """Have ZeroMQ refuse messages that it would drop for a subscriber; or drop them."""
        self._socket.setsockopt(zmq.XPUB_NODROP, int(refuse))


def type_of(frames: Sequence[Any]) -> str:
    """Return the ``msg_type`` of a message; empty if it is none."""
    try:
        header = json.loads(bytes(frames[list(frames).index(DELIMITER) + 2]))
        return str(header["msg_type"])
    except (ValueError, LookupError, TypeError):
        return ""
