"""comm_lifecycle.py and Subscribers: disconnects and ``now`` -> failed requests, closed comms."""

from __future__ import annotations

import pytest

from echokernel.protocol.comm_lifecycle import (
    NO_SUBSCRIBER,
    SESSION_ENDED,
    CommLifecycle,
    EndedComms,
    LiveComm,
)
from echokernel.protocol.subscriptions import LastSubscriberLeft, SessionDisconnected, Subscribers

EVERYTHING = b""


def comm(name, session=None, persistent=False):
    return LiveComm(name, b"comm-" + name.encode(), session, persistent)


@pytest.fixture
def subscribers():
    return Subscribers()


@pytest.fixture
def lifecycle(subscribers):
    lifecycle = CommLifecycle(subscribers, grace=1)
    for live in (comm("a", "s1"), comm("b", "s2"), comm("kept", "s1", persistent=True)):
        lifecycle.opened(live, now=0)
    return lifecycle


# --- subscribers --------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", [b"", b"c", b"comm-", b"comm-a", b"comm-abc"])
def test_only_the_last_subscriber_of_a_comm_is_reported(topic, subscribers):
    """C1, C7: the first of two unsubscribes changes nothing; the second is reported."""
    subscribers.add(topic, 1)
    subscribers.add(topic, 2)
    assert subscribers.has_subscriber(b"comm-abc")
    assert subscribers.remove(topic, 1) == []
    assert subscribers.has_subscriber(b"comm-abc")
    assert subscribers.remove(topic, 2) == [LastSubscriberLeft(frozenset())]
    assert not subscribers.has_subscriber(b"comm-abc")


def test_a_comm_with_another_subscribed_topic_is_not_concerned(subscribers):
    """C1: the report names the topics that still have a subscriber."""
    for number, topic in enumerate((b"", b"comm-b", b"stream")):
        subscribers.add(topic, number)
    [left] = subscribers.remove(b"", 0)
    assert left == LastSubscriberLeft(frozenset({b"comm-b"}))
    assert left.concerns(b"comm-a")
    assert not left.concerns(b"comm-b")


@pytest.mark.parametrize("topic", [b"stream", b"commx", b"kernel.", b"d", b"session"])
def test_topics_that_match_no_comm_are_not_recorded(topic, subscribers):
    """C1."""
    subscribers.add(topic, 1)
    assert not subscribers.has_subscriber(b"comm-a")
    assert not subscribers.has(topic)
    assert subscribers.remove(topic, 1) == []


def test_a_presence_topic_identifies_a_session(subscribers):
    """C4: the topic is session.<id>; it matches no comm."""
    subscribers.add(b"session.s1", 1)
    assert subscribers.is_present("s1")
    assert not subscribers.has_subscriber(b"comm-a")
    assert subscribers.remove(b"session.s1", 1) == [SessionDisconnected("s1")]
    assert not subscribers.is_present("s1")
    subscribers.add(b"session.\xff", 1)
    assert subscribers.remove(b"session.\xff", 1) == [SessionDisconnected("\ufffd")]


def test_an_unsubscribe_without_a_subscription_changes_nothing(subscribers):
    """C1: libzmq reports the unsubscribe of an unauthenticated peer, too."""
    assert subscribers.remove(b"", 5) == []
    subscribers.add(b"", 1)
    assert subscribers.remove(b"", 5) == []
    assert subscribers.remove(b"") == [], "no unidentified connection has subscribed"
    assert subscribers.has_subscriber(b"comm-a")
    assert subscribers.has(b"")


def test_unidentified_connections_are_counted(subscribers):
    """C1: on an operating system where connections cannot be distinguished."""
    subscribers.add(b"", None)
    subscribers.add(b"", None)
    assert subscribers.remove(b"") == []
    assert subscribers.remove(b"") == [LastSubscriberLeft(frozenset())]


def test_closed_connections_lose_all_their_topics(subscribers):
    """C1, C4: the loss of all topics is reported together, and once."""
    for topic in (b"session.s1", b"", b"comm-a", b"session.both"):
        subscribers.add(topic, 1)
    subscribers.add(b"comm-a", 2)
    for topic in (b"session.both", b"comm-b"):
        subscribers.add(topic, 3)
    assert subscribers.remove_connections({1, 2, 4}) == [
        LastSubscriberLeft(frozenset({b"comm-b"})),
        SessionDisconnected("s1"),
    ]
    assert subscribers.remove_connections({1, 2, 4}) == []
    assert subscribers.remove(b"", 1) == []
    assert subscribers.remove_connections({3}) == [
        LastSubscriberLeft(frozenset()),
        SessionDisconnected("both"),
    ]


def test_a_repeated_subscription_counts_once(subscribers):
    """C1."""
    subscribers.add(b"", 1)
    subscribers.add(b"", 1)
    assert subscribers.remove(b"", 1) == [LastSubscriberLeft(frozenset())]


# --- the lifecycle ------------------------------------------------------------------------------


def test_comms_close_after_the_grace_period(lifecycle):
    """C1-C3: all requests fail immediately; then the comms close, except persistent comms."""
    ended = lifecycle.apply(LastSubscriberLeft(frozenset()), now=10)
    assert ended == EndedComms(("a", "b", "kept"), NO_SUBSCRIBER)
    assert lifecycle.due_at == 11
    assert lifecycle.due(now=10.9) == []
    assert lifecycle.due(now=11) == [EndedComms(("a", "b"), NO_SUBSCRIBER)]
    assert lifecycle.due_at is None


def test_a_limit_defers_the_other_comms(lifecycle):
    """C2: the end of ten thousand comms does not block the kernel."""
    lifecycle.apply(LastSubscriberLeft(frozenset()), now=10)
    assert lifecycle.due(now=12, limit=1) == [EndedComms(("a",), NO_SUBSCRIBER)]
    assert lifecycle.due_at == 11
    assert lifecycle.due(now=12) == [EndedComms(("b",), NO_SUBSCRIBER)]


def test_only_comms_without_a_subscriber_are_concerned(lifecycle):
    """C1, C7."""
    ended = lifecycle.apply(LastSubscriberLeft(frozenset({b"comm-a"})), now=10)
    assert ended.comm_ids == ("b", "kept")
    assert lifecycle.due(now=11) == [EndedComms(("b",), NO_SUBSCRIBER)]


def test_a_comm_stays_open_if_a_subscriber_reconnects_in_time(lifecycle, subscribers):
    """C2: a SUB socket that reconnects looks like an unsubscribe and a subscribe."""
    lifecycle.apply(LastSubscriberLeft(frozenset()), now=10)
    subscribers.add(b"comm-a", 1)
    assert lifecycle.due(now=11) == [EndedComms(("b",), NO_SUBSCRIBER)]


def test_a_second_disconnect_begins_a_new_grace_period(lifecycle):
    """C2: a subscriber may have reconnected between the two."""
    lifecycle.apply(LastSubscriberLeft(frozenset()), now=10)
    lifecycle.apply(LastSubscriberLeft(frozenset()), now=10.5)
    assert lifecycle.due(now=11) == []
    assert lifecycle.due_at == 11.5
    assert lifecycle.due(now=11.5) == [EndedComms(("a", "b"), NO_SUBSCRIBER)]


def test_the_comms_of_a_disconnected_session_close(lifecycle, subscribers):
    """C4: exactly its comms close, although they have other subscribers; none if it reconnects."""
    subscribers.add(EVERYTHING, 1)
    assert lifecycle.apply(SessionDisconnected("s1"), now=10) == EndedComms(
        ("a", "kept"), SESSION_ENDED
    )
    assert lifecycle.due(now=11) == [EndedComms(("a",), SESSION_ENDED)]
    lifecycle.apply(SessionDisconnected("s2"), now=20)
    subscribers.add(b"session.s2", 2)
    assert lifecycle.due(now=21) == []


def test_a_comm_that_ends_for_two_reasons_closes_once(lifecycle):
    """C2, C4."""
    lifecycle.apply(SessionDisconnected("s1"), now=10)
    lifecycle.apply(LastSubscriberLeft(frozenset()), now=10)
    assert lifecycle.due(now=11) == [
        EndedComms(("a",), SESSION_ENDED),
        EndedComms(("b",), NO_SUBSCRIBER),
    ]


def test_a_comm_that_closed_during_the_grace_period_is_ignored(lifecycle):
    """C2."""
    lifecycle.apply(LastSubscriberLeft(frozenset()), now=10)
    lifecycle.closed("a")
    lifecycle.closed("b")
    lifecycle.opened(comm("b"), now=10.5)  # another comm with the same id
    assert lifecycle.due(now=11) == []
    assert lifecycle.apply(LastSubscriberLeft(frozenset()), now=20).comm_ids == ("kept", "b")
