"""Which comms end when a subscriber leaves (SPEC C1-C4): a leave and ``now`` -> ids of comms.

At once: their requests fail. After the grace period, if nobody has come back: they are closed,
unless they are persistent. A SUB socket that reconnects looks like one that leaves and joins.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .subscriptions import EveryoneLeft, SessionLeft, Subscribers

NOBODY_LISTENS = "nobody listens to comm messages any more"
SESSION_LEFT = "the session that it belongs to has left"

MOST_GONE = 1000
"""Sessions that are remembered when they have left."""


class LiveComm(NamedTuple):
    """An open comm.

    Attributes: ``topic`` (what its messages go out on), ``session`` (id of the session that
    opened it, or in whose request the kernel did; None: nobody's), ``persistent`` (C3: state that
    outlives its view).
    """

    comm_id: str
    topic: bytes
    session: str | None = None
    persistent: bool = False


class Ended(NamedTuple):
    """What a leave, or the end of its grace period, does: ``reason`` is for a person."""

    comm_ids: tuple[str, ...]
    reason: str


class CommLifecycle:
    """The open comms, and those of them that will be closed.

    Args:
        subscribers: who listens now.
        grace: seconds between a leave and the closing.
    """

    def __init__(self, subscribers: Subscribers, grace: float) -> None:
        self._subscribers = subscribers
        self._grace = grace
        self._open: dict[str, LiveComm] = {}
        # Deadlines by comm and cause; the earliest first, since all wait for the same time.
        self._closing: dict[tuple[str, str], float] = {}
        self._gone: dict[str, None] = {}  # sessions, the last to leave at the end
        self._somebody_left = False  # of those who hear comms

    def opened(self, comm: LiveComm, now: float) -> None:
        """Take note of a comm; an earlier one of that id has nothing to do with it."""
        for reason in (NOBODY_LISTENS, SESSION_LEFT):
            self._closing.pop((comm.comm_id, reason), None)
        self._open[comm.comm_id] = comm
        # C2, C4: its client may have left before its comm_open, behind a long cell, was handled.
        if comm.session in self._gone and not self._is_back(comm, SESSION_LEFT):
            self._will_close(comm, SESSION_LEFT, now)
        if self._somebody_left and not self._is_back(comm, NOBODY_LISTENS):
            self._will_close(comm, NOBODY_LISTENS, now)

    def closed(self, comm_id: str) -> None:
        """Forget a comm."""
        self._open.pop(comm_id, None)

    def left(self, event: SessionLeft | EveryoneLeft, now: float) -> Ended:
        """Return the comms whose requests fail now (C1); begin the grace period of some (C2)."""
        concerned: Callable[[LiveComm], bool]
        if isinstance(event, SessionLeft):
            # C4: exactly those which that session opened, even though others stay.
            reason, session = SESSION_LEFT, event.session
            self._gone.pop(session, None)
            self._gone[session] = None
            if len(self._gone) > MOST_GONE:
                del self._gone[next(iter(self._gone))]
            concerned = lambda comm: comm.session == session  # noqa: E731
        else:
            # C7: as long as others can hear a comm, nothing changes.
            reason, concerns = NOBODY_LISTENS, event.concerns
            self._somebody_left = True
            concerned = lambda comm: concerns(comm.topic)  # noqa: E731
        found = [comm for comm in self._open.values() if concerned(comm)]
        for comm in found:
            self._will_close(comm, reason, now)
        return Ended(tuple(comm.comm_id for comm in found), reason)

    def _will_close(self, comm: LiveComm, reason: str, now: float) -> None:
        if not comm.persistent:  # C3
            self._closing.pop((comm.comm_id, reason), None)  # to be the last
            self._closing[comm.comm_id, reason] = now + self._grace

    @property
    def due_at(self) -> float | None:
        """When `due` will have something to say."""
        return next(iter(self._closing.values()), None)

    def due(self, now: float, at_most: int = 1000) -> list[Ended]:
        """Return comms to close (C2): their time is over, and nobody has come back.

        Args:
            at_most: how many to look at; `due_at` tells whether there are more.
        """
        ended: dict[str, str] = {}
        for _ in range(at_most):
            if (due_at := self.due_at) is None or due_at > now:
                break
            comm_id, reason = key = next(iter(self._closing))
            del self._closing[key]
            comm = self._open.get(comm_id)
            if comm is not None and not self._is_back(comm, reason):
                ended.setdefault(comm_id, reason)
        return [
            Ended(tuple(each for each in ended if ended[each] == reason), reason)
            for reason in dict.fromkeys(ended.values())
        ]

    def _is_back(self, comm: LiveComm, reason: str) -> bool:
        if reason == SESSION_LEFT:
            return comm.session is not None and self._subscribers.is_present(comm.session)
        return self._subscribers.hears(comm.topic)
