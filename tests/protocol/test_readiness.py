"""readiness.py: when a wait asks, and what ends it (S2). Transcripts, with a clock of their own."""

from __future__ import annotations

import pytest

from echokernel.protocol import readiness
from echokernel.protocol.readiness import Readiness, promises_welcome

MINE = "the client"
OLD, NEW = "a process that is no more", "the process that answers"


def reply(to="first", session=NEW, **content):
    return message("kernel_info_reply", to, session, content)


def message(msg_type="status", parent=None, session=NEW, content=None):
    return {
        "msg_type": msg_type,
        "header": {"session": session},
        "parent_header": {"msg_id": parent} if parent else {},
        "content": content or {},
    }


def asked(*msg_ids, now=0.0):
    wait = Readiness(MINE)
    for msg_id in msg_ids or ("first",):
        wait.sent(msg_id, now)
    return wait


def test_it_asks_at_once_and_once():
    """S2: one request."""
    wait = Readiness(MINE)
    assert wait.due_in(100.0) == 0
    wait.sent("first", 100.0)
    assert wait.due_in(100.0) == readiness.REPLY_TIMEOUT
    assert wait.requests == 1


@pytest.mark.parametrize("order", [("answer", "message"), ("message", "answer")])
@pytest.mark.parametrize("what", ["iopub_welcome", "status", "stream"])
def test_any_message_of_the_kernel_that_answered_is_the_proof(order, what):
    """S2: whatever it is, and whoever it is for."""
    wait = asked()
    for step in order:
        assert not wait.is_over
        if step == "answer":
            wait.replied(reply(), 0.0)
        else:
            wait.received(message(what, parent="of somebody else"))
    assert wait.is_over


def test_what_a_kernel_said_before_its_restart_is_no_proof():
    """S2: it may still lie in the socket; the subscription at the new kernel is another one."""
    wait = asked()
    wait.received(message(session=OLD))
    wait.replied(reply(), 0.0)
    assert not wait.is_over
    wait.received(message("iopub_welcome"))
    assert wait.is_over


def test_a_restart_during_the_wait():
    """S2: what counts is who answered last."""
    wait = asked("first", "second")
    wait.replied(reply("first", session=OLD), 0.0)
    wait.replied(reply("second", session=NEW), 0.0)
    wait.received(message(session=OLD))
    assert not wait.is_over
    wait.received(message(session=NEW))
    assert wait.is_over


@pytest.mark.parametrize("session", [MINE, None])
def test_a_kernel_whose_messages_do_not_tell_who_it_is(session):
    """S2: some write the client's session id, or none; the status of our request is the proof."""
    wait = asked()
    wait.received(message(session=session, parent="of somebody else"))
    wait.replied(reply(session=session), 0.0)
    assert not wait.is_over
    wait.received(message(session=session, parent="first"))
    assert wait.is_over


def test_a_parent_header_that_is_null():
    """S2: xeus-python's welcome."""
    wait = asked()
    wait.received({**message("iopub_welcome"), "parent_header": None})
    wait.replied(reply(), 0.0)
    assert wait.is_over


@pytest.mark.parametrize(
    "other", [reply("of somebody else"), message("execute_reply", "first")], ids=["parent", "type"]
)
def test_what_is_no_answer(other):
    wait = asked()
    wait.replied(other, 0.0)
    wait.received(message())
    assert wait.reply is None
    assert not wait.is_over


def test_a_kernel_that_promises_a_welcome_is_waited_for():
    """S2: but not for ever; ark and async-kernel welcome nobody but the first client."""
    wait = asked()
    wait.replied(reply(protocol_version="5.6"), 10.0)
    assert wait.due_in(10.0) == pytest.approx(readiness.WELCOME_TIMEOUT)
    assert wait.due_in(10.0 + readiness.WELCOME_TIMEOUT) == 0


def test_the_known_loop():
    """S2: an answer without a message: ask again soon, then less and less often."""
    wait, now, pauses = asked(), 0.0, []
    for number in range(12):
        wait.replied(reply("first" if number == 0 else f"{number}"), now)
        pauses.append(wait.due_in(now))
        now += pauses[-1]
        assert wait.due_in(now) == 0
        wait.sent(f"{number + 1}", now)
    assert pauses[:4] == pytest.approx([0.01, 0.02, 0.04, 0.08])
    assert pauses[-1] == pytest.approx(readiness.MAX_TIMEOUT)


def test_no_answer():
    """S2: a request may be lost when its kernel restarts; a busy one is not flooded."""
    wait, now, pauses = Readiness(MINE), 0.0, []
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
def test_who_promises_a_welcome(info, promised):
    """S2: by number or by name."""
    assert promises_welcome(info) is promised
