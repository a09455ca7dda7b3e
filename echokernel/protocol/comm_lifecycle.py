"""Which comms end when a subscriber disconnects (C1-C4): an event and ``now`` in, comm ids out.

Requests over them fail immediately. After the grace period, if no subscriber has returned, the
comms are closed unless they are persistent. A SUB socket that reconnects looks like one that
unsubscribes and subscribes. JEP 65 ignores unsubscribes; this module is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .subscriptions import LastSubscriberLeft, SessionDisconnected, Subscribers

NO_SUBSCRIBER = "no subscriber receives comm messages any more"
SESSION_ENDED = "the session that the comm belongs to has disconnected"

MAX_ENDED_SESSIONS = 1000
"""Sessions that have disconnected and are remembered."""


class LiveComm(NamedTuple):
    """An open comm.

    Attributes: ``topic`` (on which its messages are published), ``session`` (id of the session
    that opened it, or in whose request the kernel opened it; None: no session), ``persistent``
    (its state outlives its view, C3).
    """

    comm_id: str
    topic: bytes
    session: str | None = None
    persistent: bool = False


class EndedComms(NamedTuple):
    """Comms that end, and the reason in words."""

    comm_ids: tuple[str, ...]
    reason: str


class CommLifecycle:
    """The open comms, and the deadlines of those that will be closed.

    Args:
        subscribers: the current subscribers.
        grace: seconds between a disconnect and the closing.
    """

    def __init__(self, subscribers: Subscribers, grace: float) -> None:
        self._subscribers = subscribers
        self._grace = grace
        self._open: dict[str, LiveComm] = {}
        # Deadlines by comm and reason, the earliest first: the period is the same for all.
        self._closing: dict[tuple[str, str], float] = {}
        self._ended_sessions: dict[str, None] = {}  # the most recent at the end
        self._subscribers_left = False  # at least once, of those that receive comms

    def opened(self, comm: LiveComm, now: float) -> None:
        """Note an open comm; an earlier comm with its id does not matter."""
        for reason in (NO_SUBSCRIBER, SESSION_ENDED):
            self._closing.pop((comm.comm_id, reason), None)
        self._open[comm.comm_id] = comm
        # C2, C4: the client can disconnect before its comm_open, which waited behind a long cell,
        # is handled.
        if comm.session in self._ended_sessions and not self._is_back(comm, SESSION_ENDED):
            self._will_close(comm, SESSION_ENDED, now)
        if self._subscribers_left and not self._is_back(comm, NO_SUBSCRIBER):
            self._will_close(comm, NO_SUBSCRIBER, now)

    def closed(self, comm_id: str) -> None:
        """Remove a comm."""
        self._open.pop(comm_id, None)

    def apply(self, event: SessionDisconnected | LastSubscriberLeft, now: float) -> EndedComms:
        """Return the comms whose requests fail now (C1); begin their grace period (C2)."""
        is_concerned: Callable[[LiveComm], bool]
        if isinstance(event, SessionDisconnected):
            # C4: exactly the comms that this session opened, even if other clients stay.
            reason, session = SESSION_ENDED, event.session
            self._ended_sessions.pop(session, None)
            self._ended_sessions[session] = None
            if len(self._ended_sessions) > MAX_ENDED_SESSIONS:
                del self._ended_sessions[next(iter(self._ended_sessions))]
            is_concerned = lambda comm: comm.session == session  # noqa: E731
        else:
            # C7: nothing changes for a comm that still has a subscriber.
            reason, concerns = NO_SUBSCRIBER, event.concerns
            self._subscribers_left = True
            is_concerned = lambda comm: concerns(comm.topic)  # noqa: E731
        comms = [comm for comm in self._open.values() if is_concerned(comm)]
        for comm in comms:
            self._will_close(comm, reason, now)
        return EndedComms(tuple(comm.comm_id for comm in comms), reason)

    def _will_close(self, comm: LiveComm, reason: str, now: float) -> None:
        if not comm.persistent:  # C3
            self._closing.pop((comm.comm_id, reason), None)  # it moves to the end
            self._closing[comm.comm_id, reason] = now + self._grace

    @property
    def due_at(self) -> float | None:
        """The time of the next deadline; None if there is none."""
        return next(iter(self._closing.values()), None)

    def due(self, now: float, limit: int = 1000) -> list[EndedComms]:
        """Return the comms to close (C2): the period is over, and no subscriber has returned.

        Args:
            limit: deadlines to handle in this call; `due_at` is in the past if there are more.
        """
        ended: dict[str, str] = {}
        for _ in range(limit):
            if (due_at := self.due_at) is None or due_at > now:
                break
            comm_id, reason = key = next(iter(self._closing))
            del self._closing[key]
            comm = self._open.get(comm_id)
            if comm is not None and not self._is_back(comm, reason):
                ended.setdefault(comm_id, reason)
        return [
            EndedComms(tuple(comm_id for comm_id in ended if ended[comm_id] == reason), reason)
            for reason in dict.fromkeys(ended.values())
        ]

    def _is_back(self, comm: LiveComm, reason: str) -> bool:
        if reason == SESSION_ENDED:
            return comm.session is not None and self._subscribers.is_present(comm.session)
        return self._subscribers.has_subscriber(comm.topic)
