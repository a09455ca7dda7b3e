"""The public fakes: ark under the launcher, faulty launchers above the kernel, and each alone."""

import json
import os
import subprocess
import sys

import psutil
import pytest
import zmq
from jupyter_client import KernelManager
from jupyter_client.manager import start_new_kernel
from support.kernel_processes import KEY, mode_of
from support.kernelspecs import handshake_metadata
from support.managers import echoes, stop_manager
from support.ports import free_range
from support.programs import run_python
from support.waits import wait_for_exit

from echokernel.conformance.raw_client import RawClient
from echokernel.conformance.raw_launcher import RawLauncher
from echokernel.conformance.raw_messages import BUSY, CHANNELS, IDLE, build_message, sign_frames
from echokernel.protocol.errors import BadSignature, MalformedMessage
from echokernel.testing.fake_launcher import FakeLauncher, Fault

ARK = [sys.executable, "-m", "echokernel.testing.fake_ark", "-f", "{connection_file}"]


# --- the fake of ark ------------------------------------------------------------------------------


@pytest.fixture
def ark(kernelspecs):
    return kernelspecs("ark", argv=ARK, metadata=handshake_metadata(handshake="handshake-request"))


@pytest.fixture
def start_ark(tmp_path):
    """Start the fake on a startup file with these keys; return its process."""
    started = []

    def start(keys, *words):
        path = tmp_path / f"startup-{len(started)}.json"
        path.write_text(json.dumps(keys) if isinstance(keys, dict) else keys)
        argv = [word.replace("{connection_file}", str(path)) for word in ARK]
        started.append(subprocess.Popen([*argv, *words], stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def assert_panics(process, *words):
    """Check the end of ark: the exit status of a Rust panic, and one line."""
    _, stderr = process.communicate(timeout=20)
    assert process.returncode == 101, stderr
    assert len(stderr.splitlines()) == 1
    for word in ("fake ark:", *words):
        assert word in stderr
    assert KEY not in stderr


def test_ark_runs_under_the_launcher(ark):
    """L2, L6, L7: a kernel that sends handshake requests executes, restarts and shuts down."""
    manager, client = start_new_kernel(kernel_name=ark)
    assert client.kernel_info(reply=True, timeout=20)["content"]["implementation"] == "fake-ark"
    assert echoes(client, "hello")
    process = psutil.Process(manager.provisioner.pid)
    assert "registration-" in process.cmdline()[-1]
    for now in (False, True):
        manager.restart_kernel(now=now)
        client.stop_channels()  # ark ignores preferred ports: clients connect again
        client = manager.client()
        client.start_channels()
        client.wait_for_ready(timeout=20)
        assert echoes(client, "again")
    process = psutil.Process(manager.provisioner.pid)
    stop_manager(manager, client)
    assert not process.is_running()


def test_ark_accepts_a_connection_file(kernelspecs):
    """F5, L7: the fake can be started classic."""
    name = kernelspecs("ark", argv=ARK)
    manager, client = start_new_kernel(kernel_name=name)
    assert echoes(client, "hello")
    stop_manager(manager, client)


def test_ark_refuses_five_ports_and_a_registration_port(start_ark, context, tmp_path):
    """For ark, such a file is a connection file, and its launcher would wait forever."""
    keys = RawLauncher(context, tmp_path, "handshake-request", key=KEY).build_file()
    ports = {f"{name}_port": 0 for name in CHANNELS}
    assert_panics(start_ark({**keys, **ports}), "five ports and a registration_port")


@pytest.mark.parametrize("port", ["5000", 70000, -1, 1.5, True, None])
def test_ark_requires_a_u16(port, start_ark, context, tmp_path):
    """Ark refuses the numeric string that xeus requires (spec.md, section 1)."""
    keys = RawLauncher(context, tmp_path, "handshake-request", key=KEY).build_file()
    assert_panics(start_ark({**keys, "registration_port": port}), "u16")


def test_ark_requires_a_readable_file(start_ark, context, tmp_path):
    keys = RawLauncher(context, tmp_path, "handshake-request", key=KEY).build_file()
    assert_panics(start_ark("{"), "cannot be read")
    assert_panics(start_ark("[]"), "has no transport")
    assert_panics(
        start_ark({name: value for name, value in keys.items() if name != "key"}), "has no key"
    )


def test_ark_registers_and_welcomes(start_ark, context, tmp_path):
    """The ports are integers, without a kernel_id, from a REQ socket (spec.md, section 1)."""
    launcher = RawLauncher(context, tmp_path, "handshake-request", key=KEY)
    process = start_ark(launcher.build_file())
    connection = launcher.receive_registration()
    launcher.send_receipt()
    client = RawClient(context, connection)
    assert client.request("kernel_info_request", {})["implementation"] == "fake-ark"
    heart = client.connect("hb", zmq.REQ)
    heart.send(b"beat")
    assert heart.recv() == b"beat"
    msg_id = client.send("shutdown_request", {"restart": False}, "control")
    assert client.receive_reply(msg_id, "control")["content"] == {"status": "ok", "restart": False}
    assert client.receive_until_idle(msg_id) == [BUSY, IDLE]
    assert process.wait(20) == 0
    client.close()


def test_ark_ends_without_a_valid_reply(start_ark, context, tmp_path):
    launcher = RawLauncher(context, tmp_path, "handshake-request", key=KEY)
    for answer, words in (
        (None, "no handshake_reply within 0.5 s"),
        (launcher.build_receipt(key="another key"), "cannot be read"),
        (launcher.build_receipt(status="error"), "'error'"),
    ):
        process = start_ark(
            launcher.build_file(), *([] if answer else ["--receipt-timeout", "0.5"])
        )
        launcher.receive_registration()
        if answer is None:
            assert_panics(process, words)
            launcher.send_receipt()  # a REP must answer before it receives again
        else:
            launcher.send(answer)
            assert_panics(process, words)


def test_ark_ends_without_a_subscriber(start_ark, context, tmp_path):
    """Ark ends although its launcher has replied (spec.md, section 1)."""
    launcher = RawLauncher(context, tmp_path, "handshake-request", key=KEY)
    process = start_ark(launcher.build_file(), "--subscriber-timeout", "0.5")
    launcher.receive_registration()
    launcher.send_receipt()
    assert_panics(process, "no client subscribed to IOPub within 0.5 s")


def test_the_launchers_error_contains_arks_stderr(kernelspecs):
    """L4: the error contains the last lines of stderr."""
    argv = [*ARK, "--subscriber-timeout", "x"]
    kernelspecs("ark", argv=argv, metadata=handshake_metadata(handshake="handshake-request"))
    manager = KernelManager(kernel_name="ark")
    with pytest.raises(RuntimeError, match="invalid float value"):
        manager.start_kernel()
    manager.context.destroy(linger=0)


def test_ark_reports_a_used_port(start_ark, context):
    other = context.socket(zmq.REP)
    port = other.bind_to_random_port("tcp://127.0.0.1")
    low = free_range(4)
    ports = dict(
        zip((f"{name}_port" for name in CHANNELS), (port, *range(low, low + 4)), strict=True)
    )
    keys = {"transport": "tcp", "ip": "127.0.0.1", "signature_scheme": "hmac-sha256", "key": KEY}
    assert_panics(start_ark({**keys, **ports}), "cannot bind")


def test_ark_ends_with_its_parent(kernelspecs, tmp_path):
    """The fake watches its parent, so that it does not outlive an author's test."""
    kernelspecs("ark", argv=ARK, metadata=handshake_metadata(handshake="handshake-request"))
    code = (
        "import os\n"
        "from jupyter_client.manager import start_new_kernel\n"
        "manager, client = start_new_kernel(kernel_name='ark')\n"
        "print(manager.provisioner.pid, manager.connection_file, flush=True)\n"
        "os._exit(0)"
    )
    completed = run_python("-c", code)
    pid, connection_file = completed.stdout.split()
    wait_for_exit(int(pid))
    os.unlink(connection_file)  # its launcher has ended


# --- the fake launchers ---------------------------------------------------------------------------


@pytest.fixture(params=["signed-frame", "handshake-request"])
def fake(request):
    with FakeLauncher(request.param, key=KEY, late=8) as launcher:
        yield launcher


def test_the_kernel_runs_under_a_correct_fake_launcher(fake, start, context, tmp_path):
    """H2: both forms of the handshake are complete."""
    file = fake.write_file(tmp_path / "registration.json")
    assert mode_of(file) == 0o600
    process = start(file)
    ports = fake.receive_registration()
    assert len(set(ports.values())) == 5
    fake.answer()
    client = RawClient(context, {"transport": "tcp", "ip": "127.0.0.1", "key": KEY, **ports})
    client.shut_down()
    assert process.wait_for_end()[0] == 0
    client.close()


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.NONE])
def test_the_kernel_ends_under_a_faulty_launcher(fault, fake, start, tmp_path):
    """H3, H4: for every fault, the kernel reports the reason in one line."""
    file = fake.write_file(tmp_path / "registration.json")
    ignored = fault in (Fault.WRONG_SIGNATURE, Fault.MALFORMED)
    timeout = "20" if fault is Fault.REFUSAL else "3" if ignored else "0.7"
    process = start(file, "--handshake-timeout", timeout)
    fake.receive_registration()
    fake.answer(fault)
    status, stderr = process.wait_for_end()
    assert status == 1
    assert len(stderr.splitlines()) == 1
    if fault is Fault.REFUSAL:
        assert FakeLauncher.REASON in stderr
    else:
        assert ("1 invalid answer(s) were ignored" if ignored else "no answer") in stderr


def test_a_fake_launcher_checks_registrations(context):
    """It checks signature, frames, types and kernel_id."""
    ports = {f"{name}_port": 5000 + n for n, name in enumerate(CHANNELS)}
    strings = {name: str(port) for name, port in ports.items()}
    good = {**strings, "kernel_id": FakeLauncher.KERNEL_ID}
    for form, frames, error in (
        ("signed-frame", sign_frames(KEY, json.dumps({**good, **ports}).encode()), AssertionError),
        ("signed-frame", sign_frames(KEY, json.dumps(strings).encode()), AssertionError),
        ("signed-frame", sign_frames("x", json.dumps(good).encode()), BadSignature),
        ("signed-frame", [b"<IDS|MSG>"], MalformedMessage),
        (
            "handshake-request",
            build_message("handshake_request", strings, key=KEY)[1],
            AssertionError,
        ),
        ("handshake-request", build_message("another_request", ports, key=KEY)[1], AssertionError),
        ("handshake-request", build_message("handshake_request", ports, key="x")[1], BadSignature),
    ):
        with FakeLauncher(form, key=KEY) as launcher:
            kernel = context.socket(zmq.DEALER if form == "signed-frame" else zmq.REQ)
            kernel.connect(f"tcp://127.0.0.1:{launcher.port}")
            kernel.send_multipart(frames)
            with pytest.raises(error):
                launcher.receive_registration()
            kernel.close(linger=0)


def test_a_fake_launcher_without_a_registration_times_out():
    with FakeLauncher("signed-frame") as launcher, pytest.raises(TimeoutError, match=r"0\.1 s"):
        launcher.receive_registration(timeout=0.1)
    with pytest.raises(ValueError, match="must be one of signed-frame, handshake-request"):
        FakeLauncher("bogus")


def test_an_unknown_fault_is_refused():
    with pytest.raises(ValueError, match="bogus"):
        Fault("bogus")
