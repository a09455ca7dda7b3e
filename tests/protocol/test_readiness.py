"""readiness.py: when a wait sends a request, and when it ends (S2). The tests set the time."""

from __future__ import annotations

import pytest

from echokernel.protocol import readiness
from echokernel.protocol.readiness import Readiness, promises_welcome

CLIENT = "the client"
OLD, NEW = "a process that has exited", "the process that answers"
OTHER_REQUEST = "a request of another client"


def reply(to="first", session=NEW, **content):
    return message("kernel_info_reply", to, session, content)


def message(msg_type="status", parent=None, session=NEW, content=None):
    return {
        "msg_type": msg_type,
        "header": {"session": session},
        "parent_header": {"msg_id": parent} if parent else {},
        "content": content or {},
    }


def started_wait(*msg_ids, now=0.0):
    wait = Readiness(CLIENT)
    for msg_id in msg_ids or ("first",):
        wait.sent(msg_id, now)
    return wait


def test_one_request_is_sent_immediately():
    """S2: the next request is due when the first has no reply in time."""
    wait = Readiness(CLIENT)
    assert wait.due_in(100.0) == 0
    wait.sent("first", 100.0)
    assert wait.due_in(100.0) == readiness.REPLY_TIMEOUT
    assert wait.requests == 1


@pytest.mark.parametrize("order", [("reply", "message"), ("message", "reply")])
@pytest.mark.parametrize("msg_type", ["iopub_welcome", "status", "stream"])
def test_any_message_of_the_kernel_that_replied_proves_the_subscription(order, msg_type):
    """S2: a message of any type, for any client."""
    wait = started_wait()
    for step in order:
        assert not wait.is_over
        if step == "reply":
            wait.replied(reply(), 0.0)
        else:
            wait.received(message(msg_type, parent=OTHER_REQUEST))
    assert wait.is_over


def test_a_message_of_the_kernel_before_a_restart_proves_nothing():
    """S2: it may still be in the socket; the new kernel has its own subscription."""
    wait = started_wait()
    wait.received(message(session=OLD))
    wait.replied(reply(), 0.0)
    assert not wait.is_over
    wait.received(message("iopub_welcome"))
    assert wait.is_over


def test_after_a_restart_during_the_wait_the_new_kernel_counts():
    """S2: only a message of the kernel that replied last is a proof."""
    wait = started_wait("first", "second")
    wait.replied(reply("first", session=OLD), 0.0)
    wait.replied(reply("second", session=NEW), 0.0)
    wait.received(message(session=OLD))
    assert not wait.is_over
    wait.received(message(session=NEW))
    assert wait.is_over


@pytest.mark.parametrize("session", [CLIENT, None])
def test_a_kernel_without_a_session_id_is_recognized_by_the_request(session):
    """S2: some kernels write the client's session id, or none; the request's status is a proof."""
    wait = started_wait()
    wait.received(message(session=session, parent=OTHER_REQUEST))
    wait.replied(reply(session=session), 0.0)
    assert not wait.is_over
    wait.received(message(session=session, parent="first"))
    assert wait.is_over


def test_a_welcome_can_have_null_as_its_parent_header():
    """S2: xeus-python sends such a welcome."""
    wait = started_wait()
    wait.received({**message("iopub_welcome"), "parent_header": None})
    wait.replied(reply(), 0.0)
    assert wait.is_over


@pytest.mark.parametrize(
    "other", [reply(OTHER_REQUEST), message("execute_reply", "first")], ids=["parent", "type"]
)
def test_a_reply_to_another_request_is_ignored(other):
    """S2: so is a reply of another type."""
    wait = started_wait()
    wait.replied(other, 0.0)
    wait.received(message())
    assert wait.reply is None
    assert not wait.is_over


def test_the_wait_for_a_promised_welcome_is_bounded():
    """S2: ark and async-kernel welcome only the first client."""
    wait = started_wait()
    wait.replied(reply(protocol_version="5.6"), 10.0)
    assert wait.due_in(10.0) == pytest.approx(readiness.WELCOME_TIMEOUT)
    assert wait.due_in(10.0 + readiness.WELCOME_TIMEOUT) == 0


def test_a_reply_without_a_message_starts_the_retry_loop():
    """S2: the next request is due soon, then after longer and longer pauses."""
    wait, now, pauses = started_wait(), 0.0, []
    for number in range(12):
        wait.replied(reply("first" if number == 0 else f"{number}"), now)
        pauses.append(wait.due_in(now))
        now += pauses[-1]
        assert wait.due_in(now) == 0
        wait.sent(f"{number + 1}", now)
    assert pauses[:4] == pytest.approx([0.01, 0.02, 0.04, 0.08])
    assert pauses[-1] == pytest.approx(readiness.MAX_TIMEOUT)


def test_without_a_reply_the_request_is_repeated_after_longer_and_longer_pauses():
    """S2: a restart can lose a request; a busy kernel must not be flooded."""
    wait, now, pauses = Readiness(CLIENT), 0.0, []
    for number in range(6):
        wait.sent(f"{number}", now)
        pauses.append(wait.due_in(now))
        now += pauses[-1]
    assert pauses == pytest.approx([1, 2, 4, 8, 8, 8])


@pytest.mark.parametrize(
    ("info", "promised"),
    [
        ({"protocol_version": "5.6"}, True),
        ({"protocol_version": "5.5.1"}, True),
        ({"protocol_version": "5.10"}, True),
        ({"protocol_version": "6.0"}, True),
        ({"protocol_version": "5.4", "supported_features": ["iopub_welcome"]}, True),
        ({"protocol_version": "5.3", "supported_features": ["debugger"]}, False),
        ({"protocol_version": "5"}, False),
        ({"protocol_version": "new"}, False),
        ({"protocol_version": None, "supported_features": None}, False),
        ({}, False),
    ],
)
def test_a_welcome_is_promised_by_version_or_by_feature(info, promised):
    """S2: protocol 5.5 or later, or ``iopub_welcome`` in the features."""
    assert promises_welcome(info) is promised
