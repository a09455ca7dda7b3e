"""The launcher's side, through stock jupyter_client (L1-L5): nothing of ours is called directly."""

import asyncio
import json
import os
import re
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
import zmq
from jupyter_client import AsyncKernelManager, KernelManager
from jupyter_client.manager import start_new_async_kernel, start_new_kernel
from support.kernel_processes import mode_of
from support.kernelspecs import handshake_metadata
from support.managers import (
    SPY,
    close_event_loop,
    connect_client,
    echoes,
    start_manager,
    stop_manager,
)
from support.ports import OWN_ADDRESS
from support.waits import poll_until, poll_until_async

from echokernel.conformance.raw_messages import build_message, sign_frames


@pytest.fixture
def spied(kernelspecs, tmp_path):
    """A kernelspec whose process first notes its startup file, then becomes the real kernel."""

    def make(name="spied", *, handshake=None, **more):
        seen = tmp_path / f"{name}.seen.json"
        kernel = ["-m", "echokernel", "-f", "{connection_file}"]
        config = {} if handshake is None else {"handshake": handshake}
        kernelspecs(
            name,
            argv=[sys.executable, "-c", SPY, "{connection_file}", str(seen), *kernel],
            metadata={**handshake_metadata(**config), "supported_encryption": ["curve"]},
            kernel_protocol_version="5.6",
            **more,
        )
        return name, lambda: json.loads(seen.read_text())

    return make


def test_start_new_kernel(runtime_dir):
    """L1, L5: the installed kernelspec, a stock manager and client."""
    manager, client = start_new_kernel(kernel_name="echo-handshake")
    assert echoes(client)
    process = psutil.Process(manager.provisioner.pid)
    startup_file = process.cmdline()[-1]
    assert "registration-" in startup_file, "seen from outside: it was not given a connection file"
    assert not os.path.exists(startup_file), "removed after the receipt"
    [left] = runtime_dir.iterdir()
    assert str(left) == manager.connection_file
    assert mode_of(left) == 0o600
    written = json.loads(left.read_text())
    listening = {c.laddr.port for c in process.net_connections() if c.status == "LISTEN"}
    assert {written[f"{name}_port"] for name in ("shell", "iopub", "stdin", "control", "hb")} == (
        listening
    )
    assert written["kernel_name"] == "echo-handshake"
    assert client.kernel_info(reply=True, timeout=20)["content"]["protocol_version"] == "5.6"
    stop_manager(manager, client)


@pytest.mark.parametrize("form", ["signed-frame", "handshake-request"])
def test_both_forms(form, spied):
    """L2, L5, L7: what the process was given, by its own witness."""
    name, seen = spied(handshake=form)
    manager, client = start_new_kernel(kernel_name=name)
    assert echoes(client)
    witness = seen()
    keys = witness["keys"]
    assert witness["mode"] & 0o777 == 0o600
    assert not any(f"{channel}_port" in keys for channel in ("shell", "iopub", "hb"))
    assert keys["key"] == manager.session.key.decode()
    if form == "signed-frame":
        assert isinstance(keys["registration_port"], str)
        assert keys["kernel_id"].startswith(manager.kernel_id)
        assert keys["registration_ip"] == keys["ip"] == "127.0.0.1"
    else:
        assert isinstance(keys["registration_port"], int)
        assert "kernel_id" not in keys
        assert "registration_ip" not in keys
    stop_manager(manager, client)


@pytest.mark.parametrize(
    ("version", "handshake", "registers"),
    [("5.6", None, True), ("5.10", None, True), ("6.0", None, True), ("5.5", None, False),
     ("", None, False), ("5.x", None, False), ("5.6", "none", False),
     ("5.0", "signed-frame", True)],
)  # fmt: skip
def test_which_way_is_chosen(version, handshake, registers, kernelspecs, tmp_path):
    """L7: the configuration says, else the version; a version below 5.6 means classic."""
    seen = tmp_path / "seen.json"
    kernelspecs(
        "chosen",
        argv=[sys.executable, "-c", SPY, "{connection_file}", str(seen), "-m", "echokernel", "-f",
              "{connection_file}"],
        metadata=handshake_metadata(
            guess_timeout=60, **({"handshake": handshake} if handshake else {})
        ),
        kernel_protocol_version=version,
    )  # fmt: skip
    manager, client = start_new_kernel(kernel_name="chosen")
    assert echoes(client)
    assert ("registration_port" in json.loads(seen.read_text())["keys"]) is registers
    stop_manager(manager, client)


async def test_asyncio():
    """L1: the asyncio manager and client."""
    manager, client = await start_new_async_kernel(kernel_name="echo-handshake")
    reply = await client.execute_interactive("hello", timeout=20, output_hook=lambda _: None)
    assert reply["content"]["status"] == "ok"
    client.stop_channels()
    await manager.shutdown_kernel()
    manager.context.destroy(linger=0)


def test_several_at_once():
    """L2: threads, each with a manager and event loop of its own, share one socket."""

    def one(number):
        manager, client = start_new_kernel(kernel_name="echo-handshake")
        heard = echoes(client, f"thread {number}")
        stop_manager(manager, client)
        close_event_loop()
        return heard

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(one, range(6)))


async def test_several_on_one_loop():
    """L2."""
    started = await asyncio.gather(
        *(start_new_async_kernel(kernel_name="echo-handshake") for _ in range(4))
    )
    ports = [manager.shell_port for manager, _ in started]
    assert len(set(ports)) == 4
    for _, client in started:
        client.stop_channels()
    await asyncio.gather(*(manager.shutdown_kernel(now=True) for manager, _ in started))
    for manager, _ in started:
        manager.context.destroy(linger=0)


def test_restart_keeps_clients_connected():
    """L6: a fresh handshake, the same ports, the same client."""
    manager = KernelManager(kernel_name="echo-handshake", ip=OWN_ADDRESS)
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=20)
    ports = manager.ports
    for now in (False, True):
        pid = manager.provisioner.pid
        manager.restart_kernel(now=now)
        client.wait_for_ready(timeout=20)
        assert echoes(client)
        assert manager.ports == ports
        assert manager.provisioner.pid != pid
        assert os.path.exists(manager.connection_file)
    stop_manager(manager, client)


def test_encryption_is_not_forgotten(spied):
    """L8, F6: ``transport_encryption`` with the handshake, the registration included."""
    name, seen = spied()
    manager = KernelManager(kernel_name=name, transport_encryption="required")
    manager.start_kernel()
    assert seen()["keys"]["curve_publickey"] == manager.curve_publickey.decode()
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=20)
    assert echoes(client)
    stop_manager(manager, client)


def test_over_ipc(spied):
    """L8, F7."""
    name, seen = spied()
    manager = KernelManager(kernel_name=name, transport="ipc")
    manager.start_kernel()
    assert seen()["keys"]["transport"] == "ipc"
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=20)
    assert echoes(client)
    stop_manager(manager, client)


# --- failures -----------------------------------------------------------------------------------


def dying(kernelspecs, code, **config):
    argv = [sys.executable, "-c", code, "{connection_file}"]
    metadata = handshake_metadata(handshake="signed-frame", **config)
    return kernelspecs("dying", argv=argv, metadata=metadata)


DYING = "import sys; print('line one\\nthe cause', file=sys.stderr); sys.exit(3)"


@pytest.mark.parametrize("stderr", [None, -3, "file"], ids=["inherited", "DEVNULL", "a file"])
def test_a_kernel_that_dies(stderr, kernelspecs, runtime_dir, tmp_path, capfd):
    """L4: at once, with exit status, elapsed time, what was tried and the last of stderr."""
    dying(kernelspecs, DYING)
    manager = KernelManager(kernel_name="dying")
    with open(tmp_path / "stderr", "w") as file:
        given = {} if stderr is None else {"stderr": file if stderr == "file" else stderr}
        with pytest.raises(RuntimeError) as caught:
            manager.start_kernel(**given)
    error = caught.value
    assert error.exit_status == 3
    assert 0 < error.elapsed < 60
    assert error.stderr_tail == "line one\nthe cause\n"
    for word in ("exited with status 3", "dying", "signed-frame", "the cause"):
        assert word in str(error)
    assert manager.session.key.decode() not in str(error)
    assert not manager.has_kernel
    # stderr went where it was to go, too.
    passed_on = capfd.readouterr().err if stderr is None else (tmp_path / "stderr").read_text()
    assert ("the cause" in passed_on) is (stderr != -3)
    manager.context.destroy(linger=0)


def test_a_kernel_that_is_killed(kernelspecs):
    """L4."""
    dying(kernelspecs, "import os; os.kill(os.getpid(), 9)")
    manager = KernelManager(kernel_name="dying")
    with pytest.raises(RuntimeError, match="killed by SIGKILL"):
        manager.start_kernel()
    manager.context.destroy(linger=0)


def test_a_kernel_that_cannot_be_started(kernelspecs):
    kernelspecs(
        "missing", argv=["/no/such/program"], metadata=handshake_metadata(handshake="signed-frame")
    )
    manager = KernelManager(kernel_name="missing")
    with pytest.raises(FileNotFoundError):
        manager.start_kernel()
    manager.context.destroy(linger=0)


HANGING = """
import os, sys
sys.stderr.write(f'pid {os.getpid()}\\n')
sys.stdin.close()
import threading; threading.Event().wait()
"""


def test_a_kernel_that_hangs(kernelspecs):
    """L4: at the deadline the process is stopped, and what it said is told."""
    dying(kernelspecs, HANGING, launch_timeout=8)
    manager = KernelManager(kernel_name="dying")
    with pytest.raises(RuntimeError, match=r"did not register its ports within 8 s") as caught:
        manager.start_kernel()
    assert not psutil.pid_exists(int(caught.value.stderr_tail.split()[1]))
    manager.context.destroy(linger=0)


def test_the_timeout_of_a_launch(kernelspecs):
    """L4: KERNEL_LAUNCH_TIMEOUT in the launch's environment, as gateways set it."""
    dying(kernelspecs, HANGING)
    manager = KernelManager(kernel_name="dying")
    with pytest.raises(RuntimeError, match=r"within 0\.5 s"):
        manager.start_kernel(env={**os.environ, "KERNEL_LAUNCH_TIMEOUT": "0.5"})
    manager.context.destroy(linger=0)


async def test_a_start_that_is_cancelled(kernelspecs, capfd):
    """L8: no process is left, no file, no wait."""
    dying(kernelspecs, HANGING)
    manager = AsyncKernelManager(kernel_name="dying")
    starting = asyncio.ensure_future(manager.start_kernel())
    said = ""

    def pid_in_stderr():
        nonlocal said
        said += capfd.readouterr().err
        return re.search(r"pid (\d+)\n", said)

    pid = int((await poll_until_async(pid_in_stderr, "the process has started"))[1])
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not psutil.pid_exists(pid)
    with pytest.raises(RuntimeError, match="cancelled"):
        await asyncio.wait_for(manager.ready, 5)
    manager.context.destroy(linger=0)


def test_the_runtime_directory_cannot_be_written(tmp_path, monkeypatch):
    """One clear line; nothing was started."""
    file = tmp_path / "a file"
    file.write_text("")
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(file / "runtime"))
    manager = KernelManager(kernel_name="echo-handshake")
    with pytest.raises(RuntimeError, match="Not a directory"):
        manager.start_kernel()
    manager.context.destroy(linger=0)


def test_two_kernels_with_the_same_id():
    """L2: each launch has an id of its own; both kernels run, and share no file."""
    managers = [KernelManager(kernel_name="echo-handshake") for _ in range(2)]
    for manager in managers:
        manager.start_kernel(kernel_id="the-same")
    assert managers[0].connection_file != managers[1].connection_file
    for manager in managers:
        assert manager.is_alive()
        manager.shutdown_kernel()  # in peace: one that is killed may leave half a connection file
        manager.context.destroy(linger=0)


# --- strangers at the registration socket -----------------------------------------------------

WAITING = """
import json, os, sys
with open(sys.argv[1]) as file:
    keys = json.load(file)
sys.stderr.write(f"registers at {keys['registration_port']} {keys['kernel_id']}\\n")
import threading; threading.Event().wait()
"""


def registrations(kernel_id, key):
    """Yield what a stranger, or a broken kernel, may send."""
    ports = {
        f"{name}_port": str(5000 + n)
        for n, name in enumerate(("shell", "iopub", "stdin", "control", "hb"))
    }
    good = {"kernel_id": kernel_id, **ports}

    def frame(body, signing_key=key):
        return sign_frames(signing_key, json.dumps(body).encode())

    yield frame(good, "another key")
    yield frame(good, "")
    yield [b"<IDS|MSG>", b"", json.dumps(good).encode()]
    yield frame({**good, "kernel_id": "somebody else"})
    yield frame({**good, "kernel_id": 5})
    for port in ("0", "65536", "-1", "x", "1.5", "", "\u0665", 5.0, True, None, [], "5001"):
        yield frame({**good, "shell_port": port})
    yield frame({name: port for name, port in good.items() if name != "hb_port"})
    yield frame([])
    yield frame("text")
    yield [*frame(good), b"more"]
    yield frame(good)[:2]
    yield frame(good)[1:]
    yield [b""]
    yield [b"\xff" * 1000]
    yield [b"x" * 1_000_000]
    yield build_message("handshake_request", ports, key="another key")[1]
    yield build_message("another_request", ports, key=key)[1]


def test_strangers_do_not_end_or_stall_a_launch(kernelspecs, context, capfd):
    """L3: ignored, and the wait goes on; then the true registration is accepted, once."""
    argv = [sys.executable, "-c", WAITING, "{connection_file}"]
    kernelspecs("waiting", argv=argv, metadata=handshake_metadata(handshake="signed-frame"))
    manager = KernelManager(kernel_name="waiting")
    result = {}

    def start():
        manager.start_kernel()
        result["ports"] = manager.ports
        close_event_loop()

    starting = threading.Thread(target=start)
    starting.start()
    said = ""

    def registration_in_stderr():
        nonlocal said
        said += capfd.readouterr().err
        return re.search(r"registers at (\S+) (\S+)\n", said)

    port, kernel_id = poll_until(registration_in_stderr, "the process has started").groups()
    key = manager.session.key.decode()
    stranger = context.socket(zmq.DEALER)
    stranger.connect(f"tcp://127.0.0.1:{port}")
    for frames in registrations(kernel_id, key):
        if len(frames[0]) == 1_000_000:  # the socket hangs up on who sends that
            rude = context.socket(zmq.DEALER)
            rude.connect(f"tcp://127.0.0.1:{port}")
            rude.send_multipart(frames)
        else:
            stranger.send_multipart(frames)

    # Meanwhile another kernel starts at the same socket.
    other, client = start_new_kernel(kernel_name="echo-handshake")
    assert echoes(client)
    stop_manager(other, client)

    assert starting.is_alive()
    assert not stranger.poll(0), "strangers get no answer"
    names = ("shell", "iopub", "stdin", "control", "hb")
    good = {"kernel_id": kernel_id, **{f"{n}_port": str(6000 + i) for i, n in enumerate(names)}}
    frames = sign_frames(key, json.dumps(good).encode())
    stranger.send_multipart(frames)
    assert stranger.poll(20_000)
    assert stranger.recv_multipart() == sign_frames(key, b"ACK")
    starting.join(10)
    assert sorted(result["ports"]) == list(range(6000, 6005))
    stranger.send_multipart(frames)  # a second time: ignored
    assert not stranger.poll(300)
    manager.shutdown_kernel(now=True)
    manager.context.destroy(linger=0)


def test_a_port_thief_changes_nothing():
    """H1: between choosing a port and holding it there is no moment for a thief."""
    stop_thief = threading.Event()
    held = []

    def thief():
        while not stop_thief.is_set() and len(held) < 3000:
            each = socket.socket()
            each.bind((OWN_ADDRESS, 0))  # and not what other tests' kernels have chosen
            held.append(each)

    stealing = threading.Thread(target=thief)
    stealing.start()
    try:
        for _ in range(3):
            manager = start_manager("echo-handshake", ip=OWN_ADDRESS)
            stop_manager(manager, connect_client(manager))
    finally:
        stop_thief.set()
        stealing.join()
        for each in held:
            each.close()
