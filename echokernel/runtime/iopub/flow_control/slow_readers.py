"""Decides what is sent while a subscriber does not read (P3). It runs in the publisher's thread.

ZeroMQ keeps a queue for each subscriber and does not report its length. `Backlog` counts the
messages that the slowest subscriber has not received, and within the limits nothing is lost.
Beyond them, the publisher waits while that subscriber reads. If the subscriber stops reading, it
loses output but not the status messages.

ZeroMQ's high-water mark is above our limits. libzmq learns only every half of the mark that a
subscriber has received messages, so a queue can count as full at half of its length. libzmq then
refuses the next message (ZMQ_XPUB_NODROP); without that option it would drop messages, idle status
included, without an error. While a queue is full, other subscribers are served by dropping: libzmq
drops messages only for the full queue.
https://libzmq.readthedocs.io/en/latest/zmq_setsockopt.html
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
"""Bytes. Smaller output is sent even if the backlog exceeds its limit of bytes."""

NO_OUTPUT = (b"comm", b"session.", b"websocket.")
"""Topics that begin with these do not receive output."""

OUTPUT = {"stream", "display_data", "update_display_data", "execute_result"}
"""Types of the messages that are dropped first."""

_LOOK_AGAIN = 0.05  # seconds

_STEP = 0.1
"""Seconds between two checks; if more time passed, the kernel itself was stopped."""


class SlowReaders:
    """Publishes within the limits; beyond them, decides which messages are dropped, and reports it.

    Args:
        xpub: the IOPub socket.
        notice: returns a ``stream`` message with a text, for the request of another message.
        pause: waits for a moment and handles subscriptions; False: the publisher stops.
        limits: of the backlog and of the messages that are held.
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
        self._was_left = False  # since the first loss: the count of lost messages is an upper bound
        self._full_until = 0
        self._somebody_reads = False
        self._lost = 0
        self._example: Sequence[bytes] = []  # a message that was lost
        self._missed = Missed(self._lose, limits.held_messages)
        self._due: collections.deque[Sequence[bytes]] = collections.deque()
        self._looked_at = 0.0
        self._refuse(True)

    def subscribed(self, topic: bytes, descriptor: int | None) -> None:
        """Apply a subscription that arrived over the connection ``descriptor``."""
        if descriptor is not None and not topic.startswith(NO_OUTPUT):
            self._subscribers.add(descriptor)
            if self.dropping:
                self._see_who_reads()  # the new subscriber must receive output

    def publish(self, frames: Sequence[Any], copy: bool, size: int) -> None:
        """Send a message of ``size`` bytes; it can be delayed, held or dropped."""
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
        """Send a message that is not output, such as a welcome, before any output.

        If a subscriber's queue is full, the message waits for the next `publish` or `poll`. The
        call can come from within `pause`.
        """
        if self._due or not self._backlog.send(frames, True, zmq_multipart.check(frames)):
            self._due.append(frames)

    @property
    def is_waiting(self) -> bool:
        """Whether `poll` must be called from time to time."""
        return self.dropping or bool(self._due)

    def poll(self) -> None:
        """Check whether the blocked subscriber has caught up, and send waiting messages."""
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
        """Send a message when there is room; return False if the slowest peer does not read."""
        backlog = self._backlog
        if not backlog.is_full and backlog.send(frames, copy, size):
            return True
        self._subscribers.any_reads()  # the next call reports progress since now
        behind, patience = backlog.messages, Patience(self._limits.patience)
        while patience.lasts():
            if not self._pause():
                self._refuse(False)  # the publisher stops: send what fits
                return backlog.send(frames, copy, size)
            backlog.look()
            if not backlog.is_full and backlog.send(frames, copy, size):
                return True
            if backlog.messages < behind:
                behind, patience = backlog.messages, Patience(self._limits.patience)
        return False

    def _send_past(self, frames: Sequence[Any], copy: bool, size: int) -> None:
        """Send a message to the other subscribers, while one does not read."""
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
        """Let libzmq drop this message for the full queue, and send it to the others.

        libzmq then skips that queue until half of it has been read. Only its subscriber loses the
        messages that follow.
        """
        self._left_to_zeromq = self._was_left = True
        self._refuse(False)
        self._backlog.send(frames, copy, size)
        self._refuse(True)
        # Held messages are sent when the whole queue of this moment has been read. After half of
        # it, libzmq could drop them again.
        self._full_until = self._backlog.segments

    def _is_sent_to_others(self, frames: Sequence[Any], copy: bool, size: int) -> bool:
        """Send a message when there is room; return False if no blocked subscriber reads."""
        if self._backlog.send(frames, copy, size):
            return True
        self._subscribers.any_progress()  # the next call reports progress since now
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
            # If there is room for this notice, the subscriber sees it where the gap begins.
            self._tell(
                "a client has stopped reading; output that is not sent to it is lost from here"
            )

    def _see_who_reads(self) -> None:
        """Note whether other subscribers read; those must not lose output."""
        somebody_reads = self._subscribers.any_reads() and len(self._subscribers) > 1
        self._somebody_reads = self._somebody_reads or somebody_reads

    def _recover(self) -> None:
        self.dropping = self._left_to_zeromq = self._somebody_reads = False
        self._refuse(True)
        self._socket.getsockopt(zmq.EVENTS)  # libzmq checks what was read only when it is used
        # Other subscribers receive these again. A repeated idle is harmless; a client waits for a
        # missing one.
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
        """Let libzmq refuse the messages that it would otherwise drop for a subscriber."""
        self._socket.setsockopt(zmq.XPUB_NODROP, int(refuse))


class Patience:
    """A timeout that counts only while the kernel runs.

    After a suspended laptop or a frozen container resumes, no subscriber has read during that time.
    The pause must not count against them.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left = seconds
        self._looked_at = clock()

    def lasts(self) -> bool:
        """Return True if time is left; the caller asks at short intervals."""
        before, self._looked_at = self._looked_at, self._clock()
        self._left -= min(self._looked_at - before, _STEP)
        return self._left > 0


def type_of(frames: Sequence[Any]) -> str:
    """Return the ``msg_type`` of a message; empty if ``frames`` is not a message."""
    return str(peek(frames, HEADER).get("msg_type", ""))
