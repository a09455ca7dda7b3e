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
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import zmq

from ....protocol.flow_control import FlowLimits
from ....protocol.wire import HEADER, peek
from ... import zmq_multipart
from .backlog import Backlog
from .missed import Missed
from .reader_progress import ReaderProgress

log = logging.getLogger("echokernel")

SMALL = 1024
"""Bytes of output that goes on to everybody where only bytes are the matter."""

NO_OUTPUT = (b"comm", b"session.", b"websocket.")
"""What topics begin with whose subscribers hear no output."""

OUTPUT = {"stream", "display_data", "update_display_data", "execute_result"}
"""Types of messages that are dropped first."""

_LOOK_AGAIN = 0.05  # seconds

_STEP = 0.1
"""Seconds between two looks; where it was more, the kernel itself stood still."""


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
        limits: FlowLimits,
    ) -> None:
        self._socket = xpub
        self._limits = limits
        self._backlog = Backlog(xpub, limits)
        self._subscribers = ReaderProgress()
        self._notice = notice
        self._pause = pause
        self.dropping = False
        self._left_to_zeromq = False
        self._was_left = False  # since the first loss: it may have had some of what was counted
        self._full_until = 0
        self._somebody_reads = False
        self._lost = 0
        self._example: Sequence[bytes] = []  # a message that was lost
        self._missed = Missed(self._lose, limits.held_messages)
        self._due: collections.deque[Sequence[bytes]] = collections.deque()
        self._looked_at = 0.0
        self._refuse(True)

    def subscribed(self, topic: bytes, descriptor: int | None) -> None:
        """Somebody subscribed, over the connection ``descriptor``."""
        if descriptor is not None and not topic.startswith(NO_OUTPUT):
            self._subscribers.add(descriptor)
            if self.dropping:
                self._see_who_reads()  # who has just come must not go without

    def publish(self, frames: Sequence[Any], copy: bool, size: int) -> None:
        """Send a message of ``size`` bytes, after a wait or not at all if it has to be."""
        if self._due:
            self._publish_due()
        self._publish(frames, copy, size)

    def _publish_due(self) -> None:
        while self._due:
            frames = self._due.popleft()
            self._publish(frames, True, zmq_multipart.check(frames))

    def _publish(self, frames: Sequence[Any], copy: bool, size: int) -> None:
        if self.dropping and time.monotonic() > self._looked_at + _LOOK_AGAIN:
            self._see_whether_it_is_over()
            if self.dropping:
                self._see_who_reads()
        if not self.dropping:
            if self._is_sent(frames, copy, size):
                return
            self.dropping = True
            self._see_who_reads()
        self._send_past(frames, copy, size)

    def send_now(self, frames: Sequence[bytes]) -> None:
        """Send what is no output, before anything else: a welcome, say; it may be in a `pause`.

        At once if nobody's queue is full, and else as soon as that is decided.
        """
        if self._due or not self._backlog.send(frames, True, zmq_multipart.check(frames)):
            self._due.append(frames)

    @property
    def is_waiting(self) -> bool:
        """Whether to `look` from time to time."""
        return self.dropping or bool(self._due)

    def poll(self) -> None:
        """See whether what `is_waiting` is for is over."""
        if self.dropping:
            self._see_whether_it_is_over()
        self._publish_due()

    def _see_whether_it_is_over(self) -> None:
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
        self._subscribers.any_reads()  # since now
        behind, patience = backlog.messages, Patience(self._limits.patience)
        while patience.lasts():
            if not self._pause():
                self._refuse(False)  # the end: what there is room for
                return backlog.send(frames, copy, size)
            backlog.look()
            if not backlog.is_full and backlog.send(frames, copy, size):
                return True
            if backlog.messages < behind:
                behind, patience = backlog.messages, Patience(self._limits.patience)
        return False

    def _send_past(self, frames: Sequence[Any], copy: bool, size: int) -> None:
        """Send to whom it can be sent, while somebody does not read."""
        msg_type = type_of(frames)
        others_read = self._somebody_reads or self._left_to_zeromq
        there_is_room = others_read and not (size > SMALL and self._backlog.is_heavy)
        if msg_type in OUTPUT and not there_is_room:
            self._lose(frames)
            return
        if not others_read:
            if self._missed or not self._backlog.send(frames, copy, size):
                self._missed.append(frames, msg_type)
            return
        is_sent = self._is_sent_to_others(frames, copy, size)
        if is_sent and not self._left_to_zeromq:
            return
        if msg_type == "status":
            self._missed.append(frames, msg_type)
        else:
            self._lose(frames)
        if not is_sent:
            self._leave_to_zeromq(frames, copy, size)

    def _leave_to_zeromq(self, frames: Sequence[Any], copy: bool, size: int) -> None:
        """Have it drop this for whose queue is full, and send it to the others.

        It then passes that queue over until it hears that half of it was read, and refuses nothing
        for its sake: it alone loses what comes now.
        """
        self._left_to_zeromq = self._was_left = True
        self._refuse(False)
        self._backlog.send(frames, copy, size)
        self._refuse(True)
        # A catch-up that comes when half of it was read would be lost again, the other half may
        # never be. So: when everything that is in it now is out.
        self._full_until = self._backlog.segments

    def _is_sent_to_others(self, frames: Sequence[Any], copy: bool, size: int) -> bool:
        """Send when there is room; return False if nobody whose queue is full reads."""
        if self._backlog.send(frames, copy, size):
            return True
        self._subscribers.any_progress()  # since now
        patience = Patience(self._limits.patience)
        while patience.lasts() and self._pause():
            if self._backlog.send(frames, copy, size):
                return True
            if self._subscribers.any_progress():
                patience = Patience(self._limits.patience)
        return False

    def _lose(self, frames: Sequence[bytes]) -> None:
        self._lost += 1
        if self._lost == 1:
            self._example = frames
            log.warning(
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
        somebody_reads = self._subscribers.any_reads() and len(self._subscribers) > 1
        self._somebody_reads = self._somebody_reads or somebody_reads

    def _recover(self) -> None:
        self.dropping = self._left_to_zeromq = self._somebody_reads = False
        self._refuse(True)
        self._socket.getsockopt(zmq.EVENTS)  # has it learn what was read: it looks rarely
        # Others hear these again. A second idle disturbs nobody, a missing one is waited for.
        for frames in self._missed.take():
            self.send_now(frames)
        if self._lost:
            number = f"up to {self._lost}" if self._was_left else str(self._lost)
            log.warning("IOPub: %s messages were lost to a subscriber", number)
            self._tell(f"{number} messages were not sent to a client that had stopped reading")
        self._lost, self._example, self._was_left = 0, [], False

    def _tell(self, text: str) -> None:
        frames = self._notice(f"[echokernel] {text}\n", self._example)
        if not self._backlog.send(frames, True, zmq_multipart.check(frames)):
            self._missed.append(frames, "stream")

    def _refuse(self, refuse: bool) -> None:
        """Have ZeroMQ refuse messages that it would drop for a subscriber; or drop them."""
        self._socket.setsockopt(zmq.XPUB_NODROP, int(refuse))


class Patience:
    """Seconds of waiting, which count only while the kernel runs.

    A laptop that slept, or a container that was frozen, for longer had its readers lose 43,000 of
    170,000 messages: nobody had read anything meanwhile.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left = seconds
        self._looked_at = clock()

    def lasts(self) -> bool:
        """Tell whether there is some left; to be asked all the time."""
        before, self._looked_at = self._looked_at, self._clock()
        self._left -= min(self._looked_at - before, _STEP)
        return self._left > 0


def type_of(frames: Sequence[Any]) -> str:
    """Return the ``msg_type`` of a message; empty if ``frames`` is not a message."""
    return str(peek(frames, HEADER).get("msg_type", ""))
