"""Measures how far the slowest subscriber of IOPub is behind (P3). It decides nothing."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import zmq

from ....protocol.flow_control import FlowLimits
from ... import zmq_multipart

_SEGMENT_MESSAGES = 500
_SEGMENT_BYTES = 1024 * 1024
_NOBLOCK = int(zmq.NOBLOCK)


class _Segment(NamedTuple):
    number: int
    messages: int
    size: int
    tracker: Any


class Backlog:
    """Sends messages, and counts those that ZeroMQ has not yet sent to the slowest subscriber.

    The last message of every few hundred is tracked: ZeroMQ releases it when it has been sent to
    every subscriber. Earlier messages were sent before it.

    Attributes: ``messages`` and ``size`` (bytes) at the last `look`, ``is_full`` (either exceeds
    its limit), ``is_heavy`` (``size`` exceeds its limit), ``segments`` (number of segments sent so
    far).
    """

    def __init__(self, xpub: zmq.Socket[bytes], limits: FlowLimits) -> None:
        self._limits = limits
        self._send = zmq_multipart.sender(xpub)
        self._segments: list[_Segment] = []
        self.segments = 0
        self._open_messages = 0
        self._open_size = 0
        self.messages = 0
        self.size = 0
        self.is_full = False

    def send(self, frames: Sequence[Any], copy: bool, size: int) -> bool:
        """Send a message; return False if a subscriber's queue is full and nothing was sent."""
        messages, total = self._open_messages + 1, self._open_size + size
        last = None
        if messages >= _SEGMENT_MESSAGES or total >= _SEGMENT_BYTES:
            last = zmq.Frame(frames[-1], track=True, copy=False, copy_threshold=0)
            frames, copy = [*frames[:-1], last], False
        try:
            # ZeroMQ refuses a message at its first frame only: queues do not grow within a message.
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
        """Update the counts."""
        self._segments = [segment for segment in self._segments if not segment.tracker.done]
        self.messages = sum(segment.messages for segment in self._segments)
        self.size = sum(segment.size for segment in self._segments)
        self.is_full = not self.within(1)

    @property
    def is_heavy(self) -> bool:
        return self.size > self._limits.backlog_bytes

    def waits_for(self, segment: int) -> bool:
        """Return True if this segment, or an earlier one, is not yet sent to every subscriber."""
        return bool(self._segments) and self._segments[0].number <= segment

    def within(self, share: float) -> bool:
        """Return True if messages and bytes are within this share of their limits."""
        limits = self._limits
        return (
            self.messages <= limits.backlog_messages * share
            and self.size <= limits.backlog_bytes * share
        )
