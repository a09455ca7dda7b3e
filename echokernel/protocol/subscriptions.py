"""Subscriptions of IOPub: what an XPUB socket reports, and what follows from it (JEP 65).

`parse` reads one report; `welcome` builds the answer to it; `Subscribers` knows which topics that
concern comms have subscribers, and what it means for comms when one disconnects (C1, C4).

Source: https://github.com/jupyter/enhancement-proposals/pull/65
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from .wire import DELIMITER, JsonObject, Message

WELCOME = "iopub_welcome"

COMM = b"comm-"
"""Comm messages are published on the topic ``comm-<comm_id>``."""

PRESENCE = b"session."
"""C4 (ours): a client identifies itself by subscribing to ``session.<session id>``."""


@dataclass(frozen=True)
class Subscribed:
    """A peer subscribed to ``topic``; ``b""`` is every topic."""

    topic: bytes


@dataclass(frozen=True)
class Unsubscribed:
    """A peer unsubscribed from ``topic``, or disconnected."""

    topic: bytes


@dataclass(frozen=True)
class Malformed:
    """A peer sent a frame that is not a subscription; ``reason`` in words."""

    reason: str


Event = Subscribed | Unsubscribed | Malformed


def parse(frames: Sequence[bytes]) -> Event:
    """Parse one message that was received from an XPUB socket (W3)."""
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
    """Return the content of the welcome that answers ``event``; None if it gets no welcome."""
    if not isinstance(event, Subscribed):
        # W4: an unsubscribe is not answered.
        return None
    if event.topic == DELIMITER:
        # Ours: every subscriber of the empty topic would take this first frame for the delimiter,
        # so an unauthenticated peer could break the messages that others receive.
        return None
    try:
        return {"subscription": event.topic.decode("utf-8")}
    except UnicodeDecodeError:
        # W3: JSON cannot name a topic that is not UTF-8.
        return None


def welcome(event: Subscribed, content: JsonObject, header: JsonObject) -> Message:
    """Build the welcome for ``event`` (W2).

    Its first frame is the topic itself, so that exactly the topic's subscribers receive it; the
    empty topic has no such frame. ``parent_header`` is ``{}``: jupyter_console 6.6 ends at the
    first message whose ``parent_header`` is null.
    """
    return Message(
        header=header,
        parent_header={},
        content=content,
        identities=[event.topic] if event.topic else [],
    )


@dataclass(frozen=True)
class SessionDisconnected:
    """The presence topic of ``session`` has lost its last subscriber (C4)."""

    session: str


@dataclass(frozen=True)
class LastSubscriberLeft:
    """A topic on which comm messages are received has lost its last subscriber (C1).

    ``remaining``: the topics of that kind that still have subscribers.
    """

    remaining: frozenset[bytes]

    def concerns(self, topic: bytes) -> bool:
        """Return True if a message published on ``topic`` reaches no subscriber any more."""
        return not _reaches(self.remaining, topic)


@dataclass
class _TopicSubscribers:
    """The subscribers of one topic: connections, and a count of those that have no name."""

    named: dict[Hashable, None] = field(default_factory=dict)  # in the order of subscription
    unnamed: int = 0

    def remove(self, connection: Hashable | None) -> None:
        if connection is not None:
            self.named.pop(connection, None)
        elif self.unnamed:
            self.unnamed -= 1


class Subscribers:
    """The subscribers of the topics that concern comms: presence topics and comm topics.

    A connection is any hashable object that identifies one to the caller; None where a connection
    cannot be identified. One thread writes; any thread may call `has_subscriber` and `is_present`.
    """

    def __init__(self) -> None:
        self._topics: dict[bytes, _TopicSubscribers] = {}
        self._comm_topics: set[bytes] = set()

    def add(self, topic: bytes, connection: Hashable | None) -> None:
        """Apply a subscription; a repeated one changes nothing."""
        if not is_comm_topic(topic):
            return
        subscribers = self._topics.setdefault(topic, _TopicSubscribers())
        if connection is None:
            subscribers.unnamed += 1
        else:
            subscribers.named[connection] = None
        if _receives_comms(topic):
            self._comm_topics.add(topic)

    def remove(
        self, topic: bytes, connection: Hashable | None = None
    ) -> list[SessionDisconnected | LastSubscriberLeft]:
        """Apply an unsubscription; return the consequences for comms.

        No peer can end the subscriptions of others: libzmq also reports an unsubscription of a
        topic to which the peer never subscribed. Only that of a subscribed connection counts.
        """
        subscribers = self._topics.get(topic)
        if subscribers is None:
            return []
        subscribers.remove(connection)
        return self._drop_empty([topic])

    def remove_connections(
        self, connections: AbstractSet[Hashable]
    ) -> list[SessionDisconnected | LastSubscriberLeft]:
        """Apply the end of connections; return the consequences for comms."""
        topics = [
            topic
            for topic, subscribers in self._topics.items()
            if not connections.isdisjoint(subscribers.named)
        ]
        for topic in topics:
            for connection in connections:
                self._topics[topic].named.pop(connection, None)
        return self._drop_empty(topics)

    def _drop_empty(
        self, topics: Sequence[bytes]
    ) -> list[SessionDisconnected | LastSubscriberLeft]:
        """Remove those of ``topics`` that have no subscriber any more."""
        sessions: list[SessionDisconnected | LastSubscriberLeft] = []
        comm_topics_before = len(self._comm_topics)
        for topic in topics:
            subscribers = self._topics[topic]
            if subscribers.named or subscribers.unnamed:
                continue
            del self._topics[topic]
            if topic in self._comm_topics:
                self._comm_topics.discard(topic)
            else:
                session = topic[len(PRESENCE) :].decode("utf-8", "replace")
                sessions.append(SessionDisconnected(session))
        if len(self._comm_topics) == comm_topics_before:
            return sessions
        return [LastSubscriberLeft(frozenset(self._comm_topics)), *sessions]

    def has(self, topic: bytes) -> bool:
        """Return True if exactly ``topic``, one that concerns comms, has a subscriber."""
        return topic in self._topics

    def has_subscriber(self, topic: bytes) -> bool:
        """Return True if a message on ``topic``, a comm's, reaches a subscriber."""
        return _reaches(self._comm_topics, topic)

    def is_present(self, session: str) -> bool:
        """Return True if the presence topic of ``session`` has a subscriber."""
        return PRESENCE + session.encode("utf-8", "replace") in self._topics


def is_comm_topic(topic: bytes) -> bool:
    """Return True if a subscription to ``topic`` concerns comms."""
    return _receives_comms(topic) or topic.startswith(PRESENCE)


def _receives_comms(topic: bytes) -> bool:
    return COMM.startswith(topic) or topic.startswith(COMM)


def _reaches(subscriptions: Collection[bytes], topic: bytes) -> bool:
    """Return True if ``topic`` starts with one of ``subscriptions``."""
    # The first condition makes this cheap for ten thousand comms without a subscriber.
    return bool(subscriptions) and any(
        topic[:length] in subscriptions for length in range(len(topic) + 1)
    )
