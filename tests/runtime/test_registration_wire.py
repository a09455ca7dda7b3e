"""The handshake on the wire: the installed kernel and a raw launcher, in both forms."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import zmq
from support import KERNEL_PATH
from support.kernel_processes import KEY, ends_with_one_line, mode_of
from support.ports import free_port, free_range
from support.waits import DEADLINE, poll_until, read_when_written

from echokernel.conformance.raw_client import RawClient, receive_frames
from echokernel.conformance.raw_launcher import FORMS, RawLauncher
from echokernel.conformance.raw_messages import BUSY, CHANNELS, IDLE, endpoint, sign_frames


def test_every_port_answers_when_the_registration_arrives(launcher, start, context, runtime_dir):
    """F1, H1, H2, H6: every registered port can be used; after the receipt the kernel runs."""
    path = launcher.write_file()
    process = start(path, "--handshake-timeout", "60")
    connection = launcher.receive_registration()

    # The receipt has not been sent.
    for channel in CHANNELS:
        with socket.create_connection(("127.0.0.1", connection[f"{channel}_port"]), timeout=20):
            pass
    heartbeat = context.socket(zmq.REQ)
    heartbeat.connect(endpoint(connection, "hb"))
    heartbeat.send(b"ping")
    assert receive_frames(heartbeat) == [b"ping"]
    heartbeat.close(linger=0)
    client = RawClient(context, connection)  # expects the welcome
    assert not list(runtime_dir.glob("kernel-*.json")), "a connection file before the receipt"

    launcher.send_receipt()
    msg_id = client.execute("hello, world")
    assert client.receive_until_idle(msg_id) == [
        BUSY,
        ("execute_input", {"code": "hello, world", "execution_count": 1}),
        ("stream", {"name": "stdout", "text": "hello, world"}),
        IDLE,
    ]
    assert client.receive_reply(msg_id)["content"]["status"] == "ok"

    own = runtime_dir / f"kernel-{process.pid}.json"
    assert mode_of(own) == 0o600
    written = json.loads(own.read_text())
    assert {name: written[name] for name in connection} == connection
    client.expect_nothing_unread()
    client.shut_down()
    client.close()
    assert process.wait_for_end() == (0, "")
    assert not own.exists()


def test_the_registration_file_may_name_the_connection_file(
    signed_frame_launcher, start, context, tmp_path
):
    """H6 (ours): ``connection_file``, with the ``kernel_name`` that launchers write."""
    named = tmp_path / "folder" / "mine.json"
    path = signed_frame_launcher.write_file(connection_file=str(named), kernel_name="echo")
    process = start(path, JPY_SESSION_NAME="my.ipynb")
    connection = signed_frame_launcher.receive_registration()
    assert not named.exists()
    signed_frame_launcher.send_receipt()
    written = json.loads(read_when_written(named))
    assert mode_of(named) == 0o600
    assert written["shell_port"] == connection["shell_port"]
    assert (written["kernel_name"], written["jupyter_session"]) == ("echo", "my.ipynb")
    client = RawClient(context, connection)
    client.shut_down()
    client.close()
    assert process.wait_for_end()[0] == 0
    assert not named.exists()


@pytest.mark.parametrize("key", ["", "kéy ☃"])
@pytest.mark.parametrize("form", FORMS)
def test_an_empty_key_causes_one_warning_and_any_text_is_a_key(form, key, context, tmp_path, start):
    """F4: with an empty key no message is signed."""
    launcher = RawLauncher(context, tmp_path, form, key=key)
    process = start(launcher.write_file())
    connection = launcher.receive_registration()
    launcher.send_receipt()
    client = RawClient(context, connection)
    assert client.request("kernel_info_request", {})["status"] == "ok"
    client.shut_down()
    client.close()
    status, stderr = process.wait_for_end()
    assert status == 0
    assert stderr.count("\n") == (0 if key else 1)
    assert ("key is empty" in stderr) is not bool(key)


@pytest.mark.parametrize("scheme", ["hmac-sha512", "hmac-md5"])
def test_every_hash_that_an_hmac_can_use_is_a_signature_scheme(
    scheme, signed_frame_launcher, start
):
    """F3."""
    start(signed_frame_launcher.write_file(signature_scheme=scheme))
    _, delimiter, signature, _ = receive_frames(signed_frame_launcher.socket)
    assert delimiter == b"<IDS|MSG>"
    assert len(signature) == {"hmac-sha512": 128, "hmac-md5": 32}[scheme]


def test_registration_port_can_be_a_number(signed_frame_launcher, start):
    """F2: the messaging documentation writes a number; xeus requires a string."""
    start(signed_frame_launcher.write_file(registration_port=signed_frame_launcher.port))
    signed_frame_launcher.receive_registration()


@pytest.mark.parametrize("drop", [("ip",), ("registration_ip",)])
def test_either_address_is_sufficient(drop, signed_frame_launcher, start):
    """F2: registration_ip, otherwise ip; without ip, loopback if the launcher is on loopback."""
    start(signed_frame_launcher.write_file(drop))
    connection = signed_frame_launcher.receive_registration()
    socket.create_connection(("127.0.0.1", connection["shell_port"]), timeout=1).close()


def test_preferred_ports_are_bound_if_they_are_free(signed_frame_launcher, start):
    """L6 (ours): a port that is not free is replaced by any free port."""
    preferred = {f"{channel}_port": free_port() for channel in CHANNELS}
    with socket.socket() as other_server:
        other_server.bind(("127.0.0.1", preferred["shell_port"]))
        other_server.listen()
        start(signed_frame_launcher.write_file(preferred_ports=preferred))
        connection = signed_frame_launcher.receive_registration()
    assert connection["shell_port"] != preferred["shell_port"]
    for channel in CHANNELS[1:]:
        assert connection[f"{channel}_port"] == preferred[f"{channel}_port"]


def test_invalid_receipts_are_ignored(launcher, start, context):
    """H3: wrong signature, malformed, unsigned: the wait continues until the valid receipt."""
    if launcher.form == "handshake-request":
        # A REP socket sends one answer; a ROUTER socket can send any number.
        launcher.socket = context.socket(zmq.ROUTER)
        launcher.port = launcher.socket.bind_to_random_port("tcp://127.0.0.1")
    process = start(launcher.write_file(), "--log-level", "DEBUG", "--handshake-timeout", "60")
    frames = receive_frames(launcher.socket)
    route = frames[: frames.index(b"<IDS|MSG>")]
    assert route[1:] == ([b""] if launcher.form == "handshake-request" else [])
    good = launcher.build_receipt()
    bad = [
        launcher.build_receipt(key="another key"),
        launcher.build_receipt(key=""),
        [good[0], good[1].upper(), *good[2:]],
        good[:-1],
        [*good, b"more"],
        good[1:],
        [b""],
        [b"\xff\x00" * 1000],
        [b"x" * 1_000_000],
        [good[0]],
        sign_frames(KEY, b"x")[:2],
    ]
    for frames in bad:
        launcher.socket.send_multipart([*route, *frames])
    if launcher.form == "handshake-request":
        unknown = launcher.build_receipt(status="maybe")
        launcher.socket.send_multipart([*route, *unknown])
    with pytest.raises(psutil.TimeoutExpired):
        psutil.Process(process.pid).wait(1)
    launcher.socket.send_multipart([*route, *good])
    runtime = os.environ["JUPYTER_RUNTIME_DIR"]
    own = Path(runtime, f"kernel-{process.pid}.json")
    connection = json.loads(read_when_written(own))
    client = RawClient(context, connection)
    client.shut_down()
    client.close()
    status, stderr = process.wait_for_end()
    assert status == 0
    assert KEY not in stderr


def test_without_a_receipt_the_kernel_exits_at_the_deadline(launcher, start):
    """H4: one line, no files, and an exit status that is not 0."""
    path = launcher.write_file()
    process = start(path, "--handshake-timeout", "0.5")
    ends_with_one_line(process, 1, f"127.0.0.1:{launcher.port}", "within 0.5 s")
    assert not path.exists()


def test_invalid_receipts_do_not_extend_the_deadline(launcher, start):
    """H3, H4."""
    process = start(launcher.write_file(), "--handshake-timeout", "10")
    launcher.receive_registration()
    launcher.send(launcher.build_receipt(key="another key"))
    ends_with_one_line(process, 1, "1 invalid answer(s) were ignored")


def test_the_default_deadline_is_five_seconds(signed_frame_launcher, start):
    """H4."""
    process = start(signed_frame_launcher.write_file())
    ends_with_one_line(process, 1, "within 5 s")


def test_a_receipt_in_time_counts_even_if_the_kernel_class_loads_longer(
    signed_frame_launcher, start, context
):
    """H4: the deadline is that of the arrival, not that of the read."""
    process = start(
        signed_frame_launcher.write_file(),
        *("--handshake-timeout", "0.5", "--kernel-class", "support.slow_kernel:SlowKernel"),
        **KERNEL_PATH,
    )
    connection = signed_frame_launcher.receive_registration()
    signed_frame_launcher.send_receipt()
    client = RawClient(context, connection)
    client.shut_down()
    client.close()
    assert process.wait_for_end()[0] == 0


def test_a_reflected_registration_is_not_a_receipt(signed_frame_launcher, start):
    """H3: its signature is valid, but an unauthenticated peer can send it back."""
    process = start(signed_frame_launcher.write_file(), "--handshake-timeout", "10")
    frames = receive_frames(signed_frame_launcher.socket)
    signed_frame_launcher.socket.send_multipart(frames)
    ends_with_one_line(process, 1, "1 invalid answer(s) were ignored")


@pytest.mark.parametrize(
    "reason", [{"error": f"no\n\x1b[31mroom, {KEY}"}, {"evalue": "no room"}, {}]
)
def test_a_refusal_ends_the_kernel_immediately(reason, launcher, start):
    """F4, H4: the line contains the launcher's reason, without control characters and the key."""
    path = launcher.write_file()
    process = start(path, "--handshake-timeout", "60")
    launcher.receive_registration()
    launcher.send(launcher.build_receipt(status="error", **reason))
    words = "room" if reason else "no reason given"
    assert "\x1b" not in ends_with_one_line(process, 1, "refused", words)
    assert not path.exists()


def test_an_unreachable_launcher_ends_the_kernel_at_the_deadline(signed_frame_launcher, start):
    """H4: the kernel cannot distinguish it from a slow launcher before the deadline."""
    path = signed_frame_launcher.write_file(registration_port=free_port())
    process = start(path, "--handshake-timeout", "0.5")
    ends_with_one_line(process, 1, "no answer")
    assert not path.exists()


def test_an_impossible_registration_ip_ends_the_kernel_with_one_line(signed_frame_launcher, start):
    """H4."""
    path = signed_frame_launcher.write_file(registration_ip="no such host")
    ends_with_one_line(start(path), 1, "no such host")


def test_a_second_kernel_with_the_same_registration_file_gets_no_receipt(
    signed_frame_launcher, start
):
    """H4: the second kernel exits at its deadline; the first kernel is not affected."""
    path = signed_frame_launcher.write_file()
    first = start(path)
    signed_frame_launcher.receive_registration()
    signed_frame_launcher.send_receipt()
    second = start(path, "--handshake-timeout", "0.5")
    ends_with_one_line(second, 1, "no valid receipt")
    assert first.popen.poll() is None
    os.kill(first.pid, signal.SIGTERM)
    assert first.wait_for_end()[0] == -signal.SIGTERM


def test_an_exhausted_port_range_ends_the_kernel_with_one_line(
    signed_frame_launcher, start, tmp_path
):
    """H4: four ports for five sockets; the registration file is removed."""
    low = free_range(4)
    path = signed_frame_launcher.write_file()
    process = start(path, "--port-range", f"{low}-{low + 3}")
    ends_with_one_line(process, 1, "every port of the range is in use", f"{low}-{low + 3}")
    assert not path.exists()


def test_all_ports_are_in_the_port_range(signed_frame_launcher, start):
    """H1."""
    low = free_range(8)
    start(signed_frame_launcher.write_file(), "--port-range", f"{low}-{low + 7}")
    connection = signed_frame_launcher.receive_registration()
    assert all(low <= connection[f"{channel}_port"] < low + 8 for channel in CHANNELS)


def test_a_replacement_port_is_not_the_preferred_port_of_another_channel(
    signed_frame_launcher, start
):
    """L6: shell's port is in use, and the first free port is the preferred port of hb."""
    low = free_range(8)
    preferred = {"shell_port": low + 7, "hb_port": low}
    path = signed_frame_launcher.write_file(preferred_ports=preferred)
    with socket.create_server(("127.0.0.1", low + 7)):
        start(path, "--port-range", f"{low}-{low + 7}")
        connection = signed_frame_launcher.receive_registration()
    assert connection["hb_port"] == low
    assert low < connection["shell_port"] < low + 7


def test_a_kernel_that_cannot_write_its_connection_file_does_not_register(
    signed_frame_launcher, start, tmp_path
):
    """H6: otherwise the launcher would assume that the kernel runs."""
    file = tmp_path / "a file"
    file.write_text("")
    path = signed_frame_launcher.write_file()
    process = start(path, JUPYTER_RUNTIME_DIR=str(file / "runtime"))
    ends_with_one_line(process, 1, "connection file", str(file))
    assert not signed_frame_launcher.socket.poll(0)
    assert not path.exists()


PARENT = """
import os, subprocess, sys
argv = sys.argv[1:]
child = subprocess.Popen(argv, env={**os.environ, "JPY_PARENT_PID": str(os.getpid())},
                         start_new_session=True)
print(child.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("receipt", [False, True], ids=["before", "after the receipt"])
def test_the_kernel_exits_when_its_launcher_dies(receipt, signed_frame_launcher, runtime_dir):
    """H7: also while it waits for the receipt; it removes its files."""
    path = signed_frame_launcher.write_file()
    kernel = [sys.executable, "-m", "echokernel", "-f", str(path), "--handshake-timeout", "60"]
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, *kernel],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as parent:
        child = psutil.Process(int(parent.stdout.readline()))
        signed_frame_launcher.receive_registration()
        if receipt:
            signed_frame_launcher.send_receipt()
            poll_until(lambda: list(runtime_dir.glob("kernel-*.json")), "the kernel runs")
        parent.kill()
        _, alive = psutil.wait_procs([child], timeout=DEADLINE)
        assert not alive
        assert parent.stderr.read() == ""
    # After the receipt the launcher removes the file (L5), but it died before that.
    assert path.exists() is receipt


def test_curve_keys_encrypt_all_sockets(signed_frame_launcher, context, start):
    """F6: with keys in the file, the registration socket and the kernel's sockets use CURVE."""
    public, secret = zmq.curve_keypair()
    launcher = signed_frame_launcher
    launcher.socket.close()
    launcher.socket = context.socket(zmq.ROUTER)
    launcher.socket.curve_server = True
    launcher.socket.curve_publickey, launcher.socket.curve_secretkey = public, secret
    launcher.port = launcher.socket.bind_to_random_port("tcp://127.0.0.1")
    path = launcher.write_file(curve_publickey=public.decode(), curve_secretkey=secret.decode())
    process = start(path)
    connection = launcher.receive_registration()

    def peer(kind, encrypted):
        sock = context.socket(kind)
        sock.linger = 0
        if encrypted:
            sock.curve_serverkey = public
            sock.curve_publickey, sock.curve_secretkey = zmq.curve_keypair()
        return sock

    launcher.send_receipt()
    for encrypted in (False, True):
        heartbeat, subscriber = peer(zmq.REQ, encrypted), peer(zmq.SUB, encrypted)
        subscriber.subscribe(b"")
        heartbeat.connect(endpoint(connection, "hb"))
        subscriber.connect(endpoint(connection, "iopub"))
        heartbeat.send(b"ping")
        if encrypted:
            assert receive_frames(heartbeat) == [b"ping"]
            assert b"iopub_welcome" in receive_frames(subscriber)[2]
        else:
            assert not heartbeat.poll(500)
            assert not subscriber.poll(500)
        heartbeat.close()
        subscriber.close()
    os.kill(process.pid, signal.SIGTERM)
    status, stderr = process.wait_for_end()
    assert status == -signal.SIGTERM
    assert secret.decode() not in stderr


@pytest.mark.parametrize("form", FORMS)
def test_a_handshake_over_ipc(form, context, tmp_path, start):
    """F7: every address is ``ipc://{ip}-{port}``, including that of the registration socket."""
    launcher = RawLauncher(context, tmp_path, form, key=KEY)
    launcher.socket.bind(f"ipc://{tmp_path}/k-1")
    keys = {"transport": "ipc", "ip": f"{tmp_path}/k", "registration_port": 1}
    if form == "signed-frame":
        keys |= {"registration_ip": f"{tmp_path}/k", "registration_port": "1"}
    process = start(launcher.write_file(**keys))
    connection = launcher.receive_registration() | {"transport": "ipc", "ip": f"{tmp_path}/k"}
    launcher.send_receipt()
    client = RawClient(context, connection)
    assert client.request("kernel_info_request", {})["protocol_version"] == "5.6"
    client.shut_down()
    client.close()
    assert process.wait_for_end() == (0, "")
    names = [path.name for path in tmp_path.glob("k-*")]
    assert names == ["k-1"], "the kernel did not remove its sockets"
