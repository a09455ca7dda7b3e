"""The handshake on the wire: the installed kernel against a bare launcher, in both forms."""

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
    """H1, H2, H6, F1: no port is told before it can be used; then the kernel simply works."""
    path = launcher.write_file()
    process = start(path, "--handshake-timeout", "60")
    connection = launcher.receive_registration()

    # The receipt is not given yet.
    for channel in CHANNELS:
        with socket.create_connection(("127.0.0.1", connection[f"{channel}_port"]), timeout=20):
            pass
    heartbeat = context.socket(zmq.REQ)
    heartbeat.connect(endpoint(connection, "hb"))
    heartbeat.send(b"ping")
    assert receive_frames(heartbeat) == [b"ping"]
    heartbeat.close(linger=0)
    client = RawClient(context, connection)  # expects the welcome
    assert not list(runtime_dir.glob("kernel-*.json")), "no attaching before the receipt"

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
def test_other_keys(form, key, context, tmp_path, start):
    """F4: without a key nothing is signed, and the kernel says so once; any text is a key."""
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
def test_other_signature_schemes(scheme, signed_frame_launcher, start):
    """F3: every hash that an HMAC can use is a signature scheme."""
    start(signed_frame_launcher.write_file(signature_scheme=scheme))
    _, delimiter, signature, _ = receive_frames(signed_frame_launcher.socket)
    assert delimiter == b"<IDS|MSG>"
    assert len(signature) == {"hmac-sha512": 128, "hmac-md5": 32}[scheme]


def test_a_number_is_a_port_too(signed_frame_launcher, start):
    """F2: the messaging docs write ``registration_port`` as a number, xeus as a string."""
    start(signed_frame_launcher.write_file(registration_port=signed_frame_launcher.port))
    signed_frame_launcher.receive_registration()


@pytest.mark.parametrize("drop", [("ip",), ("registration_ip",)])
def test_either_address_will_do(drop, signed_frame_launcher, start):
    """F2: registration_ip, else ip; without ip, loopback when the launcher is on loopback."""
    start(signed_frame_launcher.write_file(drop))
    connection = signed_frame_launcher.receive_registration()
    socket.create_connection(("127.0.0.1", connection["shell_port"]), timeout=1).close()


def test_preferred_ports_are_taken_where_free(signed_frame_launcher, start):
    """L6 (ours): the last ports if they are free, a free port for the rest."""
    wanted = {f"{channel}_port": free_port() for channel in CHANNELS}
    with socket.socket() as thief:
        thief.bind(("127.0.0.1", wanted["shell_port"]))
        thief.listen()
        start(signed_frame_launcher.write_file(preferred_ports=wanted))
        got = signed_frame_launcher.receive_registration()
    assert got["shell_port"] != wanted["shell_port"]
    for channel in CHANNELS[1:]:
        assert got[f"{channel}_port"] == wanted[f"{channel}_port"]


def test_invalid_receipts_are_ignored(launcher, start, context):
    """H3: wrong signature, malformed, unsigned: the wait goes on, and the true one counts."""
    if launcher.form == "handshake-request":
        # A REP answers once; a ROUTER in its place can say as much as it likes.
        launcher.socket = context.socket(zmq.ROUTER)
        launcher.port = launcher.socket.bind_to_random_port("tcp://127.0.0.1")
    process = start(launcher.write_file(), "--log-level", "DEBUG", "--handshake-timeout", "60")
    frames = receive_frames(launcher.socket)
    way_back = frames[: frames.index(b"<IDS|MSG>")]
    assert way_back[1:] == ([b""] if launcher.form == "handshake-request" else [])
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
        launcher.socket.send_multipart([*way_back, *frames])
    if launcher.form == "handshake-request":
        unknown = launcher.build_receipt(status="maybe")
        launcher.socket.send_multipart([*way_back, *unknown])
    with pytest.raises(psutil.TimeoutExpired):
        psutil.Process(process.pid).wait(1)
    launcher.socket.send_multipart([*way_back, *good])
    runtime = os.environ["JUPYTER_RUNTIME_DIR"]
    own = Path(runtime, f"kernel-{process.pid}.json")
    connection = json.loads(read_when_written(own))
    client = RawClient(context, connection)
    client.shut_down()
    client.close()
    status, stderr = process.wait_for_end()
    assert status == 0
    assert KEY not in stderr


def test_no_receipt(launcher, start):
    """H4: after the deadline one line, no files, and an exit status that says failure."""
    path = launcher.write_file()
    process = start(path, "--handshake-timeout", "0.5")
    ends_with_one_line(process, 1, f"127.0.0.1:{launcher.port}", "within 0.5 s")
    assert not path.exists()


def test_only_wrong_receipts(launcher, start):
    """H3, H4: they do not lengthen the wait either."""
    process = start(launcher.write_file(), "--handshake-timeout", "10")
    launcher.receive_registration()
    launcher.send(launcher.build_receipt(key="another key"))
    ends_with_one_line(process, 1, "1 invalid answer(s) were ignored")


def test_the_default_deadline_is_five_seconds(signed_frame_launcher, start):
    """H4."""
    process = start(signed_frame_launcher.write_file())
    ends_with_one_line(process, 1, "within 5 s")


def test_a_language_that_loads_for_longer_than_the_deadline(signed_frame_launcher, start, context):
    """H4 is about the launcher's answer: one that came in time counts whenever it is read."""
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


def test_our_own_words_are_no_receipt(signed_frame_launcher, start):
    """H3: a stranger who reflects the registration has our signature on it."""
    process = start(signed_frame_launcher.write_file(), "--handshake-timeout", "10")
    frames = receive_frames(signed_frame_launcher.socket)
    signed_frame_launcher.socket.send_multipart(frames)
    ends_with_one_line(process, 1, "1 invalid answer(s) were ignored")


@pytest.mark.parametrize(
    "reason", [{"error": f"no\n\x1b[31mroom, {KEY}"}, {"evalue": "no room"}, {}]
)
def test_refused(reason, launcher, start):
    """H4, F4: ``status: error`` ends it at once, with the launcher's reason on one line."""
    path = launcher.write_file()
    process = start(path, "--handshake-timeout", "60")
    launcher.receive_registration()
    launcher.send(launcher.build_receipt(status="error", **reason))
    words = "room" if reason else "no reason given"
    assert "\x1b" not in ends_with_one_line(process, 1, "refused", words)
    assert not path.exists()


def test_nobody_listens_at_the_registration_port(signed_frame_launcher, start):
    """H4: an unreachable launcher is told from a slow one by nothing but the deadline."""
    path = signed_frame_launcher.write_file(registration_port=free_port())
    process = start(path, "--handshake-timeout", "0.5")
    ends_with_one_line(process, 1, "no answer")
    assert not path.exists()


def test_an_address_that_cannot_exist(signed_frame_launcher, start):
    path = signed_frame_launcher.write_file(registration_ip="no such host")
    ends_with_one_line(start(path), 1, "no such host")


def test_two_kernels_with_one_registration_file(signed_frame_launcher, start):
    """L3, H4: the id is taken; the second kernel gets no receipt and says so."""
    path = signed_frame_launcher.write_file()
    first = start(path)
    signed_frame_launcher.receive_registration()
    signed_frame_launcher.send_receipt()
    second = start(path, "--handshake-timeout", "0.5")
    ends_with_one_line(second, 1, "no valid receipt")
    assert first.popen.poll() is None
    os.kill(first.pid, signal.SIGTERM)
    assert first.wait_for_end()[0] == -signal.SIGTERM


def test_the_range_of_ports_is_exhausted(signed_frame_launcher, start, tmp_path):
    """Four ports for five sockets: one line, nothing left."""
    low = free_range(4)
    path = signed_frame_launcher.write_file()
    process = start(path, "--port-range", f"{low}-{low + 3}")
    ends_with_one_line(process, 1, "every port of the range is in use", f"{low}-{low + 3}")
    assert not path.exists()


def test_the_range_of_ports_is_kept(signed_frame_launcher, start):
    low = free_range(8)
    start(signed_frame_launcher.write_file(), "--port-range", f"{low}-{low + 7}")
    got = signed_frame_launcher.receive_registration()
    assert all(low <= got[f"{channel}_port"] < low + 8 for channel in CHANNELS)


def test_a_chosen_port_is_none_that_another_channel_keeps(signed_frame_launcher, start):
    """L6: shell's port is taken, and the first that is free is the one that hb is to keep."""
    low = free_range(8)
    wanted = {"shell_port": low + 7, "hb_port": low}
    path = signed_frame_launcher.write_file(preferred_ports=wanted)
    with socket.create_server(("127.0.0.1", low + 7)):
        start(path, "--port-range", f"{low}-{low + 7}")
        got = signed_frame_launcher.receive_registration()
    assert got["hb_port"] == low
    assert low < got["shell_port"] < low + 7


def test_the_runtime_directory_cannot_be_written(signed_frame_launcher, start, tmp_path):
    """The kernel says so before it registers: a launcher must not believe that it runs."""
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
def test_the_launcher_dies(receipt, signed_frame_launcher, runtime_dir):
    """H7: the kernel ends with its parent, also while it waits, and leaves nothing behind."""
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
    # Once it runs, the file is the launcher's to remove (L5); it did not get round to it.
    assert path.exists() is receipt


def test_encrypted(signed_frame_launcher, context, start):
    """F6: keys in the file make all five sockets, and the registration socket, CURVE."""
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
        made = context.socket(kind)
        made.linger = 0
        if encrypted:
            made.curve_serverkey = public
            made.curve_publickey, made.curve_secretkey = zmq.curve_keypair()
        return made

    launcher.send_receipt()
    for encrypted in (False, True):
        heartbeat, listener = peer(zmq.REQ, encrypted), peer(zmq.SUB, encrypted)
        listener.subscribe(b"")
        heartbeat.connect(endpoint(connection, "hb"))
        listener.connect(endpoint(connection, "iopub"))
        heartbeat.send(b"ping")
        if encrypted:
            assert receive_frames(heartbeat) == [b"ping"]
            assert b"iopub_welcome" in receive_frames(listener)[2]
        else:
            assert not heartbeat.poll(500)
            assert not listener.poll(500)
        heartbeat.close()
        listener.close()
    os.kill(process.pid, signal.SIGTERM)
    status, stderr = process.wait_for_end()
    assert status == -signal.SIGTERM
    assert secret.decode() not in stderr


@pytest.mark.parametrize("form", FORMS)
def test_over_ipc(form, context, tmp_path, start):
    """F7: every address is ``ipc://{ip}-{port}``, the registration socket's too."""
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
    assert [path.name for path in tmp_path.glob("k-*")] == ["k-1"], "the launcher's alone is left"
