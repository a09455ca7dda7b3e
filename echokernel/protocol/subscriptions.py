"""What an XPUB socket reports, and what it means (JEP 65).

An XPUB socket hands its owner one message for each subscription and each unsubscription:
one frame, first byte 1 (joined) or 0 (left), then the topic. A peer writes what it likes, so
everything else is `Malformed`, and is ignored by whoever reads it.

`Subscribers` knows who is there, as far as comms need it (C1, C4).
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from .wire import DELIMITER, JsonObject, Message

WELCOME = "iopub_welcome"
"""``msg_type`` of the welcome."""

COMM = b"comm-"
"""Comm messages go out on the topic ``comm-<comm_id>``."""

PRESENCE = b"session."
"""C4 (ours): who subscribes to ``session.<session id>`` says who it is."""


@dataclass(frozen=True)
class Subscribed:
    """Somebody joined ``topic``; ``b""`` is everything."""

    topic: bytes


@dataclass(frozen=True)
class Unsubscribed:
    """A subscriber of ``topic`` left."""

    topic: bytes


@dataclass(frozen=True)
class Malformed:
    """A peer sent something that is no subscription; ``why`` in words."""

    why: str


Event = Subscribed | Unsubscribed | Malformed


def parse(frames: Sequence[bytes]) -> Event:
    """Read one message that was received from an XPUB socket."""
    # W3: empty frames, another first byte and several frames are nobody's subscription.
    if len(frames) != 1:
        return Malformed(f"{len(frames)} frames instead of one")
    frame = frames[0]
    if not frame:
        return Malformed("an empty frame")
    if frame[0] == 1:
        return Subscribed(frame[1:])
    if frame[0] == 0:
        return Unsubscribed(frame[1:])
    return Malformed(f"first byte {frame[0]}, neither 0 nor 1")


def welcome_content(event: Event) -> JsonObject | None:
    """Return the content of the welcome that ``event`` asks for; None if it asks for none."""
    if not isinstance(event, Subscribed):
        # W4: an unsubscribe sends nothing.
        return None
    if event.topic == DELIMITER:
        # Ours: as first frame it would be taken for the delimiter by everybody who subscribes
        # to everything; any stranger could break their parsing.
        return None
    try:
        return {"subscription": event.topic.decode("utf-8")}
    except UnicodeDecodeError:
        # W3: a topic that is not UTF-8 cannot be named in JSON: no welcome.
        return None


def welcome(event: Subscribed, content: JsonObject, header: JsonObject) -> Message:
    """Build the welcome for ``event``.

    W2: the first frame is the topic itself, so that exactly the topic's subscribers get it; for
    the empty topic there is none. ``parent_header`` is ``{}``: a JSON null there crashes
    jupyter_console on the first message it sees.
    """
    return Message(
        header=header,
        parent_header={},
        content=content,
        identities=[event.topic] if event.topic else [],
    )


@dataclass(frozen=True)
class SessionLeft:
    """C4: a session's presence topic has lost its last subscriber."""

    session: str


@dataclass(frozen=True)
class EveryoneLeft:
    """C1: a topic by which comms could be heard has lost its last subscriber.

    ``heard``: the topics by which some can still be heard.
    """

    heard: frozenset[bytes]

    def concerns(self, topic: bytes) -> bool:
        """Tell whether nobody was left to hear what goes out on ``topic``."""
        return not _reaches(self.heard, topic)


@dataclass
class _There:
    """Who listens to one topic: connections by name, and how many nobody can name."""

    named: dict[Hashable, None] = field(default_factory=dict)  # in the order of their joining
    nameless: int = 0

    def remove(self, connection: Hashable | None) -> None:
        if connection is not None:
            self.named.pop(connection, None)
        elif self.nameless:
            self.nameless -= 1


class Subscribers:
    """Who listens, to the topics that matter to comms: presence, and those that comms reach.

    A connection is whatever names one to the caller; None where it cannot be named. One thread
    writes; any thread may ask `hears` and `is_present`.
    """

    def __init__(self) -> None:
        self._there: dict[bytes, _There] = {}
        self._comm_topics: set[bytes] = set()

    def joined(self, topic: bytes, connection: Hashable | None) -> None:
        """Take note of a subscription; the same one again changes nothing."""
        if not matters(topic):
            return
        there = self._there.setdefault(topic, _There())
        if connection is None:
            there.nameless += 1
        else:
            there.named[connection] = None
        if _hears_comms(topic):
            self._comm_topics.add(topic)

    def left(
        self, topic: bytes, connection: Hashable | None = None
    ) -> list[SessionLeft | EveryoneLeft]:
        """Take note of an unsubscription; return what it means for comms.

        Nobody can send others away: a peer may unsubscribe what it has never subscribed to, and
        libzmq reports it. Only the leave of a connection that is there counts.
        """
        there = self._there.get(topic)
        if there is None:
            return []
        there.remove(connection)
        return self._without([topic])

    def gone(self, connections: AbstractSet[Hashable]) -> list[SessionLeft | EveryoneLeft]:
        """Take note that connections have ended; return what it means for comms."""
        concerned = [
            topic for topic, there in self._there.items() if not connections.isdisjoint(there.named)
        ]
        for topic in concerned:
            for connection in connections:
                self._there[topic].named.pop(connection, None)
        return self._without(concerned)

    def _without(self, topics: Sequence[bytes]) -> list[SessionLeft | EveryoneLeft]:
        """Forget those of ``topics`` that nobody listens to any more."""
        sessions: list[SessionLeft | EveryoneLeft] = []
        comms_were_heard = len(self._comm_topics)
        for topic in topics:
            there = self._there[topic]
            if there.named or there.nameless:
                continue
            del self._there[topic]
            if topic in self._comm_topics:
                self._comm_topics.discard(topic)
            else:
                sessions.append(SessionLeft(topic[len(PRESENCE) :].decode("utf-8", "replace")))
        if len(self._comm_topics) == comms_were_heard:
            return sessions
        return [EveryoneLeft(frozenset(self._comm_topics)), *sessions]

    def has(self, topic: bytes) -> bool:
        """Tell whether somebody listens to ``topic`` itself, one that matters."""
        return topic in self._there

    def hears(self, topic: bytes) -> bool:
        """Tell whether somebody hears what goes out on ``topic``, a comm's."""
        return _reaches(self._comm_topics, topic)

    def is_present(self, session: str) -> bool:
        """Tell whether somebody listens to the presence topic of ``session``."""
        return PRESENCE + session.encode("utf-8", "replace") in self._there


def matters(topic: bytes) -> bool:
    """Tell whether it matters to comms who listens to ``topic``."""
    return _hears_comms(topic) or topic.startswith(PRESENCE)


def _hears_comms(topic: bytes) -> bool:
    return COMM.startswith(topic) or topic.startswith(COMM)


def _reaches(subscriptions: Collection[bytes], topic: bytes) -> bool:
    """Tell whether one of ``subscriptions`` is how ``topic`` begins."""
    # The first line is for ten thousand comms at once.
    return bool(subscriptions) and any(
        topic[:length] in subscriptions for length in range(len(topic) + 1)
    )
