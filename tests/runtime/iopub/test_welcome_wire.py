"""JEP 65 on the wire: every subscription to the installed kernel is welcomed."""

import pytest
import zmq
from support import KERNEL_PATH
from support.kernel_processes import KEY, start_classic
from support.waits import DEADLINE

from echokernel.conformance.raw_client import RawClient, receive_frames
from echokernel.conformance.raw_messages import BUSY, IDLE, build_message, endpoint, parse_message
from echokernel.conformance.raw_zmtp import IOPUB_JUNK, TOO_LONG_TOPIC, ZmtpPeer


def subscribe(context, connection, *topics):
    listener = context.socket(zmq.SUB)
    listener.linger = 0
    for topic in topics:
        listener.subscribe(topic)
    listener.connect(endpoint(connection, "iopub"))
    return listener


def welcome(listener, key, timeout=DEADLINE):
    """Return the next welcome; what else is published meanwhile is not of interest here."""
    while True:
        frames = receive_frames(listener, timeout)
        if b"iopub_welcome" in frames[frames.index(b"<IDS|MSG>") + 2]:
            return frames, parse_message(frames, key)


def test_every_client_is_welcomed(context, connection):
    """W1, W2: the second, third and fifth as the first; what a welcome looks like on the wire."""
    clients = [RawClient(context, connection) for _ in range(5)]  # each expects its welcome
    frames, got = welcome(clients[0].iopub, connection["key"])  # the second client's, broadcast
    assert frames[0] == b"<IDS|MSG>", "the empty topic has no frame of its own"
    assert got["header"]["version"] == "5.6"
    assert set(got["header"]) == {"msg_id", "msg_type", "session", "username", "date", "version"}
    assert (got["parent_header"], got["buffers"]) == ({}, [])
    for client in clients:
        client.close()


@pytest.mark.parametrize(
    "topic", ["kernel.", "stream.", "session.x", "ünïcode ☃", "a" * 1000, "\0"]
)
def test_a_topic_is_welcomed_by_its_name(topic, context, connection, client):
    """W2: the first frame is the topic; only its subscribers hear it; a second one is welcomed."""
    encoded = topic.encode()
    for _ in range(2):
        listener = subscribe(context, connection, encoded)
        frames, got = welcome(listener, connection["key"])
        assert frames[0] == encoded
        assert got["content"] == {"subscription": topic}
        listener.close()
    assert client.receive_on("iopub")["content"] == {"execution_state": "starting"}
    for _ in range(2):  # a subscriber of everything hears every welcome
        client.expect_welcome(encoded)


def test_a_topic_that_is_not_utf_8(context, connection, client):
    """W3: no welcome, and nobody is disturbed."""
    odd = subscribe(context, connection, b"\xff\xfe")
    after = subscribe(context, connection, b"\xff\xfe", b"after")
    assert welcome(after, connection["key"])[0][0] == b"after"
    assert not odd.poll(0)
    assert client.receive_on("iopub")["content"] == {"execution_state": "starting"}
    client.expect_welcome(b"after")
    client.expect_nothing_unread()


def test_the_topic_that_looks_like_a_delimiter(context, connection, client):
    """Ours: a welcome there would break the parsing of everybody who hears everything."""
    subscribe(context, connection, b"<IDS|MSG>")
    after = subscribe(context, connection, b"after")
    welcome(after, connection["key"])
    assert client.receive_on("iopub")["content"] == {"execution_state": "starting"}
    client.expect_welcome(b"after")
    client.expect_nothing_unread()


def test_starting_comes_once_to_the_first_who_can_hear_it(context, connection):
    """W5: after the first welcome; a kernel that nobody listens to runs all the same."""
    elsewhere = subscribe(context, connection, b"session.x")
    welcome(elsewhere, connection["key"])
    first = subscribe(context, connection, b"")
    assert parse_message(receive_frames(first), connection["key"])["msg_type"] == "iopub_welcome"
    starting = parse_message(receive_frames(first), connection["key"])
    assert starting["content"] == {"execution_state": "starting"}
    assert starting["parent_header"] == {}
    assert starting["topics"][0].endswith(b".status")
    client = RawClient(context, connection)
    client.expect_nothing_unread()
    assert not client.received_starting
    client.close()


def test_without_a_subscriber(context, connection):
    """W5."""
    shell = context.socket(zmq.DEALER)
    shell.connect(endpoint(connection, "shell"))
    msg_id, frames = build_message("kernel_info_request", {}, key=KEY)
    shell.send_multipart(frames)
    assert parse_message(receive_frames(shell), KEY)["parent_header"]["msg_id"] == msg_id


@pytest.mark.parametrize("kernel", ["ScriptedKernel", "AsyncScriptedKernel"])
@pytest.mark.parametrize("how", ["sleep_in_one_call", "sleep_async"])
def test_welcomes_while_user_code_runs(how, kernel, context, tmp_path, start):
    """W2: a busy main thread, or a cell that awaits, delays no welcome."""
    connection = start_classic(
        tmp_path,
        lambda path, *a: start(
            path, "--kernel-class", f"support.scripted_kernels:{kernel}", *a, **KERNEL_PATH
        ),
    )
    first = RawClient(context, connection)
    msg_id = first.execute(f"{how} 60")
    while first.receive_publication()["msg_type"] != "stream":  # it runs user code now
        pass
    for topic in (b"", b"late", b"", b"session.y"):
        listener = subscribe(context, connection, topic)
        assert welcome(listener, connection["key"])[1]["content"] == {
            "subscription": topic.decode()
        }
        listener.close()
    first.send("interrupt_request", {}, "control")
    assert first.receive_reply(msg_id)["content"]["ename"] == "KeyboardInterrupt"
    first.close()


def test_nothing_is_missed_after_a_welcome(context, connection, client):
    """W6: from its welcome on, a subscriber hears everything, while others come and go."""
    for number in range(50):
        late = RawClient(context, connection)
        msg_id = late.execute(f"cell {number}")
        heard = late.receive_until_idle(msg_id)
        assert [kind for kind, _ in heard] == ["status", "execute_input", "stream", "status"]
        late.close()


@pytest.mark.parametrize("junk", IOPUB_JUNK)
def test_junk_on_iopub(junk, context, connection):
    """W3, W4: whatever a peer sends, the kernel lives, answers, publishes and welcomes."""
    for kind in (b"SUB", b"XSUB"):
        with ZmtpPeer(connection["iopub_port"], socket_type=kind) as peer:
            try:
                peer.send_bytes(IOPUB_JUNK[junk])
            except OSError:  # the kernel has closed the connection
                assert junk == TOO_LONG_TOPIC
    another = RawClient(context, connection)
    msg_id = another.execute("still here")
    assert another.receive_until_idle(msg_id) == [
        BUSY,
        ("execute_input", {"code": "still here", "execution_count": 1}),
        ("stream", {"name": "stdout", "text": "still here"}),
        IDLE,
    ]
    another.close()


def test_an_unsubscribe_sends_nothing(context, connection, client):
    """W4."""
    listener = subscribe(context, connection, b"x")
    welcome(listener, connection["key"])
    listener.unsubscribe(b"x")
    listener.subscribe(b"y")
    assert welcome(listener, connection["key"])[0][0] == b"y"
    assert client.receive_on("iopub")["content"] == {"execution_state": "starting"}
    client.expect_welcome(b"x")
    client.expect_welcome(b"y")
    client.expect_nothing_unread()
