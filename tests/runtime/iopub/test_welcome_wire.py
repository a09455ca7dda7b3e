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
    subscriber = context.socket(zmq.SUB)
    subscriber.linger = 0
    for topic in topics:
        subscriber.subscribe(topic)
    subscriber.connect(endpoint(connection, "iopub"))
    return subscriber


def receive_welcome(subscriber, key, timeout=DEADLINE):
    """Return the next welcome, as frames and parsed; other messages are skipped."""
    while True:
        frames = receive_frames(subscriber, timeout)
        if b"iopub_welcome" in frames[frames.index(b"<IDS|MSG>") + 2]:
            return frames, parse_message(frames, key)


def test_every_client_is_welcomed(context, connection):
    """W1, W2: not only the first client; the frames and fields of a welcome."""
    clients = [RawClient(context, connection) for _ in range(5)]  # each expects its welcome
    # The first client also receives the welcome of the second.
    frames, welcome = receive_welcome(clients[0].iopub, connection["key"])
    header = welcome["header"]
    assert frames[0] == b"<IDS|MSG>", "the empty topic has a frame of its own"
    assert header["version"] == "5.6"
    assert set(header) == {"msg_id", "msg_type", "session", "username", "date", "version"}
    assert (welcome["parent_header"], welcome["buffers"]) == ({}, [])
    for client in clients:
        client.close()


@pytest.mark.parametrize(
    "topic", ["kernel.", "stream.", "session.x", "ünïcode ☃", "a" * 1000, "\0"]
)
def test_the_first_frame_of_a_welcome_is_its_topic(topic, context, connection, client):
    """W1, W2: a second subscriber of the topic is welcomed, too."""
    encoded = topic.encode()
    for _ in range(2):
        subscriber = subscribe(context, connection, encoded)
        frames, welcome = receive_welcome(subscriber, connection["key"])
        assert frames[0] == encoded
        assert welcome["content"] == {"subscription": topic}
        subscriber.close()
    assert client.receive_on("iopub")["content"] == {"execution_state": "starting"}
    for _ in range(2):  # a subscriber of every topic receives every welcome
        client.expect_welcome(encoded)


def test_a_topic_that_is_not_utf_8_gets_no_welcome(context, connection, client):
    """W3: other peers are not disturbed."""
    odd = subscribe(context, connection, b"\xff\xfe")
    after = subscribe(context, connection, b"\xff\xfe", b"after")
    assert receive_welcome(after, connection["key"])[0][0] == b"after"
    assert not odd.poll(0)
    assert client.receive_on("iopub")["content"] == {"execution_state": "starting"}
    client.expect_welcome(b"after")
    client.expect_nothing_unread()


def test_a_topic_that_equals_the_delimiter_gets_no_welcome(context, connection, client):
    """W2: the welcome would break the parsing of subscribers of every topic."""
    subscribe(context, connection, b"<IDS|MSG>")
    after = subscribe(context, connection, b"after")
    receive_welcome(after, connection["key"])
    assert client.receive_on("iopub")["content"] == {"execution_state": "starting"}
    client.expect_welcome(b"after")
    client.expect_nothing_unread()


def test_starting_is_published_once_when_a_subscriber_can_receive_it(context, connection):
    """W5: after the first welcome of a subscriber whose topic matches the status."""
    other = subscribe(context, connection, b"session.x")
    receive_welcome(other, connection["key"])
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


def test_a_kernel_without_a_subscriber_runs(context, connection):
    """W5."""
    shell = context.socket(zmq.DEALER)
    shell.connect(endpoint(connection, "shell"))
    msg_id, frames = build_message("kernel_info_request", {}, key=KEY)
    shell.send_multipart(frames)
    assert parse_message(receive_frames(shell), KEY)["parent_header"]["msg_id"] == msg_id


@pytest.mark.parametrize("kernel", ["ScriptedKernel", "AsyncScriptedKernel"])
@pytest.mark.parametrize("how", ["sleep_in_one_call", "sleep_async"])
def test_welcomes_are_sent_while_user_code_runs(how, kernel, context, tmp_path, start):
    """W2: neither a busy main thread nor a cell that awaits delays a welcome."""
    connection = start_classic(
        tmp_path,
        lambda path, *a: start(
            path, "--kernel-class", f"support.scripted_kernels:{kernel}", *a, **KERNEL_PATH
        ),
    )
    first = RawClient(context, connection)
    msg_id = first.execute(f"{how} 60")
    while first.receive_publication()["msg_type"] != "stream":  # then user code runs
        pass
    for topic in (b"", b"late", b"", b"session.y"):
        subscriber = subscribe(context, connection, topic)
        _, welcome = receive_welcome(subscriber, connection["key"])
        assert welcome["content"] == {"subscription": topic.decode()}
        subscriber.close()
    first.send("interrupt_request", {}, "control")
    assert first.receive_reply(msg_id)["content"]["ename"] == "KeyboardInterrupt"
    first.close()


def test_a_subscriber_receives_every_message_after_its_welcome(context, connection, client):
    """W6: while other subscribers connect and disconnect."""
    for number in range(50):
        late = RawClient(context, connection)
        msg_id = late.execute(f"cell {number}")
        published = late.receive_until_idle(msg_id)
        assert [kind for kind, _ in published] == ["status", "execute_input", "stream", "status"]
        late.close()


@pytest.mark.parametrize("junk", IOPUB_JUNK)
def test_the_kernel_survives_junk_on_iopub(junk, context, connection):
    """W3, W4: it still answers, publishes and welcomes."""
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


def test_the_kernel_sends_nothing_on_an_unsubscribe(context, connection, client):
    """W4."""
    subscriber = subscribe(context, connection, b"x")
    receive_welcome(subscriber, connection["key"])
    subscriber.unsubscribe(b"x")
    subscriber.subscribe(b"y")
    assert receive_welcome(subscriber, connection["key"])[0][0] == b"y"
    assert client.receive_on("iopub")["content"] == {"execution_state": "starting"}
    client.expect_welcome(b"x")
    client.expect_welcome(b"y")
    client.expect_nothing_unread()
