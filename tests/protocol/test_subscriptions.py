"""subscriptions.py: report of an XPUB socket -> event -> welcome."""

from __future__ import annotations

import pytest
from support.vectors import params, to_bytes, to_frames

from echokernel.protocol.subscriptions import (
    WELCOME,
    Malformed,
    Subscribed,
    Unsubscribed,
    parse,
    welcome,
    welcome_content,
)
from echokernel.protocol.wire import Signer, pack_message

EVENTS = {"subscribed": Subscribed, "unsubscribed": Unsubscribed}


@pytest.mark.parametrize("vector", params("subscriptions"))
def test_a_subscription_frame_is_an_event_with_or_without_a_welcome(vector):
    """W2, W3, W4: the vectors."""
    event = parse(to_frames(vector["frames"]))
    if vector["event"] == "malformed":
        assert isinstance(event, Malformed)
    else:
        assert event == EVENTS[vector["event"]](to_bytes(vector["topic"]))

    content = welcome_content(event)
    expected = vector["welcome"]
    if expected is None:
        assert content is None
    else:
        assert content == {"subscription": expected["subscription"]}
        signer = Signer(to_bytes(vector["key"]))
        frames = pack_message(welcome(event, content, vector["header"]), signer)
        assert frames == to_frames(expected["frames"])


@pytest.mark.parametrize(
    ("frames", "reason"),
    [
        ([], "0 frames instead of one"),
        ([b"\x01", b"a"], "2 frames instead of one"),
        ([b""], "an empty frame"),
        ([b"\x02"], "first byte 2, neither 0 nor 1"),
    ],
)
def test_a_malformed_subscription_has_a_reason(frames, reason):
    """W3: the frames are ignored; the reason is for the log."""
    assert parse(frames) == Malformed(reason)


def test_the_welcome_reaches_exactly_the_subscribers_of_its_topic():
    """W2: the first frame is the topic; the empty topic has no frame; parent_header is {}."""
    named, everything = (
        welcome(Subscribed(topic), {}, {"msg_type": WELCOME}) for topic in (b"a", b"")
    )
    assert (named.identities, everything.identities) == ([b"a"], [])
    assert named.parent_header == {}
    assert named.msg_type == "iopub_welcome"
