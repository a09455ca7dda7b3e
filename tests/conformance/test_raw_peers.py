"""The raw peers themselves: they fail where they must, and say what they expected."""

import json
import socket
import threading

import pytest
import zmq
from support.fake_kernel_thread import FakeKernel
from support.kernel_processes import KEY
from support.programs import run_python

from echokernel.conformance.raw_client import RawClient, receive_frames
from echokernel.conformance.raw_launcher import FORMS, KERNEL_ID, RawLauncher
from echokernel.conformance.raw_messages import (
    CHANNELS,
    DELIMITER,
    PeerError,
    PeerTimeout,
    build_message,
    parse_message,
    sign_frames,
)
from echokernel.conformance.raw_zmtp import ZmtpPeer, encode_frame
from echokernel.protocol.wire import Signer, unpack_message

SHORT = 0.1  # seconds, for waits that end in a failure


def test_they_use_no_other_part_of_echokernel():
    """Nor pytest: authors of other kernels run them from their own programs."""
    code = (
        "import sys\n"
        "from echokernel.conformance import raw_client, raw_launcher, raw_messages, raw_zmtp\n"
        "print(*sorted(m for m in sys.modules if m.partition('.')[0] in ('echokernel', 'pytest')))"
    )
    assert run_python("-c", code).stdout.split() == [
        "echokernel",
        "echokernel.conformance",
        "echokernel.conformance.raw_client",
        "echokernel.conformance.raw_launcher",
        "echokernel.conformance.raw_messages",
        "echokernel.conformance.raw_zmtp",
    ]


def test_two_implementations_agree():
    """What the raw peers build is what the kernel's own wire code reads."""
    msg_id, frames = build_message("kernel_info_request", {"a": "ü"}, key=KEY, session="s")
    message = unpack_message(frames, Signer(KEY.encode()))
    assert (message.header["msg_id"], message.content) == (msg_id, {"a": "ü"})
    parsed = parse_message([b"topic", *frames, b"\0raw"], KEY)
    assert parsed["header"] == message.header
    assert (parsed["topics"], parsed["buffers"]) == ([b"topic"], [b"\0raw"])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda frames: frames[1:], "a message with a delimiter"),
        (lambda frames: frames[:5], "signature, header, parent header, metadata and content"),
        (lambda frames: [*frames[:5], b'{"b": 1}'], "signed with the connection's key"),
        (lambda frames: [frames[0], b"", *frames[2:]], "signed with the connection's key"),
        (lambda frames: sign_frames(KEY, *[b"{"] * 4), "UTF-8 JSON"),
        (lambda frames: sign_frames(KEY, *[b"\xff"] * 4), "UTF-8 JSON"),
        (lambda frames: sign_frames(KEY, *[b"[]"] * 4), "a header with a msg_type"),
        (lambda frames: sign_frames(KEY, *[b"{}"] * 4), "a header with a msg_type"),
    ],
)
def test_a_message_that_is_malformed(change, expected):
    _, frames = build_message("status", {"a": 1}, key=KEY)
    with pytest.raises(PeerError, match=expected) as caught:
        parse_message(change(frames), KEY)
    assert caught.value.received is not None
    assert KEY not in str(caught.value)


def test_a_message_that_is_missing(context):
    with pytest.raises(PeerTimeout, match=r"expected a message within 0\.1 s; received None"):
        receive_frames(context.socket(zmq.DEALER), SHORT)


def test_an_error_that_shows_much_is_cut():
    shown = str(PeerError("little", "x" * 10_000))
    assert len(shown) < 1000
    assert "10002 characters" in shown


def test_a_kernel_that_does_not_welcome(context):
    """W2."""
    with FakeKernel(context, welcomes=False) as kernel:
        client = RawClient(context, kernel.connection, topics=())
        client.iopub.subscribe(b"")
        with pytest.raises(PeerTimeout):
            client.expect_welcome(b"", SHORT)


def test_an_answer_to_another_request(context):
    with FakeKernel(context) as kernel:
        client = RawClient(context, kernel.connection)
        client.send("kernel_info_request", {})
        with pytest.raises(PeerError, match="the reply to another"):
            client.receive_reply("another")
        with pytest.raises(PeerError, match="a message for another"):
            client.receive_until_idle("another")


def test_an_unread_message_is_reported(context, connection):
    client = RawClient(context, connection)
    client.execute("unread")
    with pytest.raises(PeerError):
        client.expect_nothing_unread()


PORTS = {f"{name}_port": 5000 + number for number, name in enumerate(CHANNELS)}
STRINGS = {name: str(port) for name, port in PORTS.items()}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"kernel_id": KERNEL_ID, **PORTS}, "each port as str"),
        ({"kernel_id": "another", **STRINGS}, "the file's kernel_id"),
        ({**STRINGS}, "the file's kernel_id"),
        ({"kernel_id": KERNEL_ID, **STRINGS, "hb_port": "5000"}, "five different ports"),
        ({"kernel_id": KERNEL_ID, **STRINGS, "more": "1"}, "the five ports"),
    ],
)
def test_a_signed_frame_that_is_wrong(content, expected, context, tmp_path):
    """H2, L3."""
    register(context, tmp_path, FORMS[0], sign_frames(KEY, json.dumps(content).encode()), expected)


@pytest.mark.parametrize(
    ("msg_type", "content", "expected"),
    [
        ("handshake_request", STRINGS, "each port as int"),
        ("another_request", PORTS, "a handshake_request"),
        ("handshake_request", [], "the five ports"),
    ],
)
def test_a_handshake_request_that_is_wrong(msg_type, content, expected, context, tmp_path):
    """H2, L3."""
    frames = build_message(msg_type, content, key=KEY)[1]
    register(context, tmp_path, FORMS[1], frames, expected)


@pytest.mark.parametrize("form", FORMS)
def test_a_registration_with_another_key(form, context, tmp_path):
    """L3."""
    frames = {
        FORMS[0]: sign_frames("another key", b"{}"),
        FORMS[1]: build_message("handshake_request", PORTS, key="another key")[1],
    }[form]
    register(context, tmp_path, form, frames, "signed with the")
    register(context, tmp_path, form, [b"no delimiter"], "a registration with a delimiter")


def register(context, folder, form, frames, expected):
    """Send a registration to a raw launcher, which must refuse it for this reason."""
    launcher = RawLauncher(context, folder, form, key=KEY)
    kernel = context.socket(zmq.DEALER if form == FORMS[0] else zmq.REQ)
    kernel.connect(f"tcp://127.0.0.1:{launcher.port}")
    kernel.send_multipart(frames)
    with pytest.raises(PeerError, match=expected):
        launcher.receive_registration()


def test_the_zmtp_of_a_subscriber(context):
    """Against libzmq: an XPUB socket reports what the peer has sent."""
    publisher = context.socket(zmq.XPUB)
    port = publisher.bind_to_random_port("tcp://127.0.0.1")
    with ZmtpPeer(port) as peer:
        peer.send(b"\x01" + b"t" * 300)
        assert receive_frames(publisher) == [b"\x01" + b"t" * 300]
        peer.send(b"\x00" + b"t" * 300)
        assert receive_frames(publisher) == [b"\x00" + b"t" * 300]
    assert encode_frame(b"a", more=True) == b"\x01\x01a"
    assert encode_frame(DELIMITER) == b"\x00\x09" + DELIMITER


def test_a_peer_that_closes_the_connection():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        closing = threading.Thread(target=lambda: server.accept()[0].close())
        closing.start()
        with pytest.raises((PeerError, ConnectionError)):
            ZmtpPeer(port)
        closing.join()
