"""JEP 65 on the wire: every subscription to the installed kernel is welcomed."""

import socket
import struct

import pytest
import zmq
from support import KERNEL_PATH
from support.kernel_processes import start_classic
from support.raw_client import BUSY, IDLE, Client, message, parse, receive, url
from support.waits import DEADLINE


def subscribe(context, connection, *topics):
    listener = context.socket(zmq.SUB)
    listener.linger = 0
    for topic in topics:
        listener.subscribe(topic)
    listener.connect(url(connection, "iopub"))
    return listener


def welcome(listener, key, timeout=DEADLINE):
    """Return the next welcome; what else is published meanwhile is not of interest here."""
    while True:
        frames = receive(listener, timeout)
        if b"iopub_welcome" in frames[frames.index(b"<IDS|MSG>") + 2]:
            return frames, parse(frames, key)


def test_every_client_is_welcomed(context, connection):
    """W1, W2: the second, third and fifth as the first; what a welcome looks like on the wire."""
    clients = [Client(context, connection) for _ in range(5)]  # each expects its welcome
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
    assert parse(receive(client.iopub), client.key)["content"] == {"execution_state": "starting"}
    for _ in range(2):  # a subscriber of everything hears every welcome
        client.expect_welcome(encoded)


def test_a_topic_that_is_not_utf_8(context, connection, client):
    """W3: no welcome, and nobody is disturbed."""
    odd = subscribe(context, connection, b"\xff\xfe")
    after = subscribe(context, connection, b"\xff\xfe", b"after")
    assert welcome(after, connection["key"])[0][0] == b"after"
    assert not odd.poll(0)
    assert parse(receive(client.iopub), client.key)["content"] == {"execution_state": "starting"}
    client.expect_welcome(b"after")
    client.nothing_left()


def test_the_topic_that_looks_like_a_delimiter(context, connection, client):
    """Ours: a welcome there would break the parsing of everybody who hears everything."""
    subscribe(context, connection, b"<IDS|MSG>")
    after = subscribe(context, connection, b"after")
    welcome(after, connection["key"])
    assert parse(receive(client.iopub), client.key)["content"] == {"execution_state": "starting"}
    client.expect_welcome(b"after")
    client.nothing_left()


def test_starting_comes_once_to_the_first_who_can_hear_it(context, connection):
    """W5: after the first welcome; a kernel that nobody listens to runs all the same."""
    elsewhere = subscribe(context, connection, b"session.x")
    welcome(elsewhere, connection["key"])
    first = subscribe(context, connection, b"")
    assert parse(receive(first), connection["key"])["msg_type"] == "iopub_welcome"
    starting = parse(receive(first), connection["key"])
    assert starting["content"] == {"execution_state": "starting"}
    assert starting["parent_header"] == {}
    assert starting["topics"][0].endswith(b".status")
    client = Client(context, connection)
    client.nothing_left()
    assert not client.seen_starting
    client.close()


def test_without_a_subscriber(context, connection):
    """W5."""
    shell = context.socket(zmq.DEALER)
    shell.connect(url(connection, "shell"))
    msg_id, frames = message("kernel_info_request", {})
    shell.send_multipart(frames)
    assert parse(receive(shell))["parent_header"]["msg_id"] == msg_id


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
    first = Client(context, connection)
    msg_id = first.execute(f"{how} 60")
    while first.publication()["msg_type"] != "stream":  # it runs user code now
        pass
    for topic in (b"", b"late", b"", b"session.y"):
        listener = subscribe(context, connection, topic)
        assert welcome(listener, connection["key"])[1]["content"] == {
            "subscription": topic.decode()
        }
        listener.close()
    first.send("interrupt_request", {}, "control")
    assert first.reply(msg_id)["content"]["ename"] == "KeyboardInterrupt"
    first.close()


def test_nothing_is_missed_after_a_welcome(context, connection, client):
    """W6: from its welcome on, a subscriber hears everything, while others come and go."""
    for number in range(50):
        late = Client(context, connection)
        msg_id = late.execute(f"cell {number}")
        heard = late.transcript(msg_id)
        assert [kind for kind, _ in heard] == ["status", "execute_input", "stream", "status"]
        late.close()


def zmtp_connection(connection, kind=b"SUB"):
    """Speak ZMTP 3.0 by hand: libzmq's own SUB would never send what we are about to."""
    raw = socket.create_connection(("127.0.0.1", connection["iopub_port"]), timeout=DEADLINE)
    raw.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00NULL" + bytes(16) + bytes(1) + bytes(31))
    greeting = b""
    while len(greeting) < 64:
        greeting += raw.recv(64 - len(greeting))
    name = b"\x05READY\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind
    raw.sendall(b"\x04" + bytes([len(name)]) + name)
    assert raw.recv(1) == b"\x04"
    raw.recv(raw.recv(1)[0])
    return raw


def frame(body, more=False):
    flags = (1 if more else 0) | (2 if len(body) > 255 else 0)
    size = struct.pack(">Q", len(body)) if len(body) > 255 else bytes([len(body)])
    return bytes([flags]) + size + body


JUNK = {
    "empty": frame(b""),
    "first byte 2": frame(b"\x02topic"),
    "first byte 255": frame(b"\xff"),
    "several frames": frame(b"\x01a", more=True) + frame(b"b"),
    "several frames, empty first": frame(b"", more=True) + frame(b"\x01b"),
    "a whole message": frame(b"<IDS|MSG>", more=True) + frame(b"{}"),
    "unsubscribed without a subscription": frame(b"\x00never"),
    "unsubscribed in pieces": frame(b"\x00", more=True) + frame(b""),
    "10 MB of topic": frame(b"\x01" + b"x" * 10_000_000),
    "no frame at all": b"\x00\xff\xff\xff",
    "half a frame": b"\x00\x64\x01",
    "not ZMTP": b"GET / HTTP/1.0\r\n\r\n",
}


@pytest.mark.parametrize("junk", JUNK)
def test_junk_on_iopub(junk, context, connection):
    """W3, W4: whatever a peer sends, the kernel lives, answers, publishes and welcomes."""
    for kind in (b"SUB", b"XSUB"):
        with zmtp_connection(connection, kind) as raw:
            try:
                raw.sendall(JUNK[junk])
            except OSError:  # too much for the kernel: it hung up on us
                assert "10 MB" in junk
    another = Client(context, connection)
    msg_id = another.execute("still here")
    assert another.transcript(msg_id) == [
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
    assert parse(receive(client.iopub), client.key)["content"] == {"execution_state": "starting"}
    client.expect_welcome(b"x")
    client.expect_welcome(b"y")
    client.nothing_left()
