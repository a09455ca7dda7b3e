"""comm_lifecycle.py and Subscribers: leaves and ``now`` -> requests that fail, comms that close."""

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
    made = CommLifecycle(subscribers, grace=1)
    for each in (comm("a", "s1"), comm("b", "s2"), comm("kept", "s1", persistent=True)):
        made.opened(each, now=0)
    return made


# --- who listens --------------------------------------------------------------------------------


@pytest.mark.parametrize("topic", [b"", b"c", b"comm-", b"comm-a", b"comm-abc"])
def test_the_last_who_hears_a_comm(topic, subscribers):
    """C1, C7: the leave of one of two changes nothing, that of the last is told."""
    subscribers.add(topic, 1)
    subscribers.add(topic, 2)
    assert subscribers.has_subscriber(b"comm-abc")
    assert subscribers.remove(topic, 1) == []
    assert subscribers.has_subscriber(b"comm-abc")
    assert subscribers.remove(topic, 2) == [LastSubscriberLeft(frozenset())]
    assert not subscribers.has_subscriber(b"comm-abc")


def test_what_the_others_can_still_hear(subscribers):
    """C1: by topic; a comm that somebody hears by another one is not concerned."""
    for number, topic in enumerate((b"", b"comm-b", b"stream")):
        subscribers.add(topic, number)
    [left] = subscribers.remove(b"", 0)
    assert left == LastSubscriberLeft(frozenset({b"comm-b"}))
    assert left.concerns(b"comm-a")
    assert not left.concerns(b"comm-b")


@pytest.mark.parametrize("topic", [b"stream", b"commx", b"kernel.", b"d", b"session"])
def test_topics_that_do_not_matter(topic, subscribers):
    subscribers.add(topic, 1)
    assert not subscribers.has_subscriber(b"comm-a")
    assert not subscribers.has(topic)
    assert subscribers.remove(topic, 1) == []


def test_presence(subscribers):
    """C4: the topic session.<id>; it hears no comms."""
    subscribers.add(b"session.s1", 1)
    assert subscribers.is_present("s1")
    assert not subscribers.has_subscriber(b"comm-a")
    assert subscribers.remove(b"session.s1", 1) == [SessionDisconnected("s1")]
    assert not subscribers.is_present("s1")
    subscribers.add(b"session.\xff", 1)
    assert subscribers.remove(b"session.\xff", 1) == [SessionDisconnected("\ufffd")]


def test_who_was_never_there_cannot_leave(subscribers):
    """C1: libzmq reports a stranger's unsubscription, too."""
    assert subscribers.remove(b"", 5) == []
    subscribers.add(b"", 1)
    assert subscribers.remove(b"", 5) == []
    assert subscribers.remove(b"") == [], "nobody without a name is there"
    assert subscribers.has_subscriber(b"comm-a")
    assert subscribers.has(b"")


def test_connections_without_a_name_are_counted(subscribers):
    """Where the system cannot tell one connection from another."""
    subscribers.add(b"", None)
    subscribers.add(b"", None)
    assert subscribers.remove(b"") == []
    assert subscribers.remove(b"") == [LastSubscriberLeft(frozenset())]


def test_connections_that_have_ended(subscribers):
    """C1, C4: everything that they listened to is left at once, and told once."""
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


def test_the_same_subscription_twice_is_one(subscribers):
    subscribers.add(b"", 1)
    subscribers.add(b"", 1)
    assert subscribers.remove(b"", 1) == [LastSubscriberLeft(frozenset())]


# --- what ends ----------------------------------------------------------------------------------


def test_everyone_left(lifecycle):
    """C1-C3: all requests fail at once; after the grace period what is not persistent closes."""
    ended = lifecycle.apply(LastSubscriberLeft(frozenset()), now=10)
    assert ended == EndedComms(("a", "b", "kept"), NO_SUBSCRIBER)
    assert lifecycle.due_at == 11
    assert lifecycle.due(now=10.9) == []
    assert lifecycle.due(now=11) == [EndedComms(("a", "b"), NO_SUBSCRIBER)]
    assert lifecycle.due_at is None


def test_a_few_at_a_time(lifecycle):
    """C2: ten thousand comms do not keep the kernel."""
    lifecycle.apply(LastSubscriberLeft(frozenset()), now=10)
    assert lifecycle.due(now=12, limit=1) == [EndedComms(("a",), NO_SUBSCRIBER)]
    assert lifecycle.due_at == 11
    assert lifecycle.due(now=12) == [EndedComms(("b",), NO_SUBSCRIBER)]


def test_only_comms_that_nobody_hears_are_concerned(lifecycle):
    """C1, C7."""
    ended = lifecycle.apply(LastSubscriberLeft(frozenset({b"comm-a"})), now=10)
    assert ended.comm_ids == ("b", "kept")
    assert lifecycle.due(now=11) == [EndedComms(("b",), NO_SUBSCRIBER)]


def test_somebody_comes_back_in_time(lifecycle, subscribers):
    """C2: a SUB socket that reconnects looks like a leave and a join."""
    lifecycle.apply(LastSubscriberLeft(frozenset()), now=10)
    subscribers.add(b"comm-a", 1)
    assert lifecycle.due(now=11) == [EndedComms(("b",), NO_SUBSCRIBER)]


def test_a_second_leave_begins_a_new_grace_period(lifecycle):
    """C2: what had come back between the two had its requests sent to it."""
    lifecycle.apply(LastSubscriberLeft(frozenset()), now=10)
    lifecycle.apply(LastSubscriberLeft(frozenset()), now=10.5)
    assert lifecycle.due(now=11) == []
    assert lifecycle.due_at == 11.5
    assert lifecycle.due(now=11.5) == [EndedComms(("a", "b"), NO_SUBSCRIBER)]


def test_a_session_left(lifecycle, subscribers):
    """C4: exactly its comms, though others hear them; not when it comes back."""
    subscribers.add(EVERYTHING, 1)
    assert lifecycle.apply(SessionDisconnected("s1"), now=10) == EndedComms(
        ("a", "kept"), SESSION_ENDED
    )
    assert lifecycle.due(now=11) == [EndedComms(("a",), SESSION_ENDED)]
    lifecycle.apply(SessionDisconnected("s2"), now=20)
    subscribers.add(b"session.s2", 2)
    assert lifecycle.due(now=21) == []


def test_both_at_once_close_a_comm_once(lifecycle):
    lifecycle.apply(SessionDisconnected("s1"), now=10)
    lifecycle.apply(LastSubscriberLeft(frozenset()), now=10)
    assert lifecycle.due(now=11) == [
        EndedComms(("a",), SESSION_ENDED),
        EndedComms(("b",), NO_SUBSCRIBER),
    ]


def test_what_is_closed_meanwhile_is_left_alone(lifecycle):
    lifecycle.apply(LastSubscriberLeft(frozenset()), now=10)
    lifecycle.closed("a")
    lifecycle.closed("b")
    lifecycle.opened(comm("b"), now=10.5)  # another one under the same id
    assert lifecycle.due(now=11) == []
    assert lifecycle.apply(LastSubscriberLeft(frozenset()), now=20).comm_ids == ("kept", "b")
