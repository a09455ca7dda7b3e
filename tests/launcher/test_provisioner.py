"""The launcher, driven through stock jupyter_client; the launcher's code is not called (L1-L8)."""

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
    """A kernelspec whose process first records its startup file, then becomes the real kernel."""

    def write(name="spied", *, handshake=None, **spec):
        record = tmp_path / f"{name}.startup.json"
        kernel = ["-m", "echokernel", "-f", "{connection_file}"]
        config = {} if handshake is None else {"handshake": handshake}
        kernelspecs(
            name,
            argv=[sys.executable, "-c", SPY, "{connection_file}", str(record), *kernel],
            metadata={**handshake_metadata(**config), "supported_encryption": ["curve"]},
            kernel_protocol_version="5.6",
            **spec,
        )
        return name, lambda: json.loads(record.read_text())

    return write


def test_start_new_kernel_uses_a_handshake(runtime_dir):
    """L1, L5: the installed kernelspec needs only a stock manager and client."""
    manager, client = start_new_kernel(kernel_name="echo-handshake")
    assert echoes(client)
    process = psutil.Process(manager.provisioner.pid)
    startup_file = process.cmdline()[-1]
    assert "registration-" in startup_file, "its startup file is not a connection file"
    assert not os.path.exists(startup_file), "removed after the receipt"
    [connection_file] = runtime_dir.iterdir()
    assert str(connection_file) == manager.connection_file
    assert mode_of(connection_file) == 0o600
    written = json.loads(connection_file.read_text())
    listening = {c.laddr.port for c in process.net_connections() if c.status == "LISTEN"}
    assert {written[f"{name}_port"] for name in ("shell", "iopub", "stdin", "control", "hb")} == (
        listening
    )
    assert written["kernel_name"] == "echo-handshake"
    assert client.kernel_info(reply=True, timeout=20)["content"]["protocol_version"] == "5.6"
    stop_manager(manager, client)


@pytest.mark.parametrize("form", ["signed-frame", "handshake-request"])
def test_the_registration_file_of_each_form(form, spied):
    """L2, L5, L7: the configuration selects the form, and the file has the keys of that form."""
    name, startup = spied(handshake=form)
    manager, client = start_new_kernel(kernel_name=name)
    assert echoes(client)
    recorded = startup()
    keys = recorded["keys"]
    assert recorded["mode"] & 0o777 == 0o600
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
def test_the_start_mode_that_is_chosen(version, handshake, registers, kernelspecs, tmp_path):
    """L7: the configuration decides, otherwise the version; below 5.6 the start is classic."""
    record = tmp_path / "startup.json"
    kernelspecs(
        "chosen",
        argv=[sys.executable, "-c", SPY, "{connection_file}", str(record), "-m", "echokernel", "-f",
              "{connection_file}"],
        metadata=handshake_metadata(
            guess_timeout=60, **({"handshake": handshake} if handshake else {})
        ),
        kernel_protocol_version=version,
    )  # fmt: skip
    manager, client = start_new_kernel(kernel_name="chosen")
    assert echoes(client)
    assert ("registration_port" in json.loads(record.read_text())["keys"]) is registers
    stop_manager(manager, client)


async def test_the_asyncio_manager_and_client():
    """L1: jupyter_client's asyncio classes start the kernel and execute."""
    manager, client = await start_new_async_kernel(kernel_name="echo-handshake")
    reply = await client.execute_interactive("hello", timeout=20, output_hook=lambda _: None)
    assert reply["content"]["status"] == "ok"
    client.stop_channels()
    await manager.shutdown_kernel()
    manager.context.destroy(linger=0)


def test_threads_launch_concurrently():
    """L2: threads, each with its own manager and event loop, share one registration socket."""

    def launch(number):
        manager, client = start_new_kernel(kernel_name="echo-handshake")
        echoed = echoes(client, f"thread {number}")
        stop_manager(manager, client)
        close_event_loop()
        return echoed

    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(launch, range(6)))


async def test_one_event_loop_launches_concurrently():
    """L2: four launches overlap on one event loop."""
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
    """L6: a restart is a new handshake with the same ports; the same client goes on."""
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


def test_the_handshake_is_encrypted(spied):
    """L8, F6: ``transport_encryption`` also covers the registration."""
    name, startup = spied()
    manager = KernelManager(kernel_name=name, transport_encryption="required")
    manager.start_kernel()
    assert startup()["keys"]["curve_publickey"] == manager.curve_publickey.decode()
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=20)
    assert echoes(client)
    stop_manager(manager, client)


def test_over_ipc(spied):
    """L8, F7: the handshake works over ipc."""
    name, startup = spied()
    manager = KernelManager(kernel_name=name, transport="ipc")
    manager.start_kernel()
    assert startup()["keys"]["transport"] == "ipc"
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
def test_the_error_of_a_kernel_that_dies(stderr, kernelspecs, runtime_dir, tmp_path, capfd):
    """L4: the error comes immediately, with exit status, elapsed time, start mode and stderr."""
    dying(kernelspecs, DYING)
    manager = KernelManager(kernel_name="dying")
    with open(tmp_path / "stderr", "w") as file:
        arguments = {} if stderr is None else {"stderr": file if stderr == "file" else stderr}
        with pytest.raises(RuntimeError) as caught:
            manager.start_kernel(**arguments)
    error = caught.value
    assert error.exit_status == 3
    assert 0 < error.elapsed < 60
    assert error.stderr_tail == "line one\nthe cause\n"
    for word in ("exited with status 3", "dying", "signed-frame", "the cause"):
        assert word in str(error)
    assert manager.session.key.decode() not in str(error)
    assert not manager.has_kernel
    # stderr was also written to its destination.
    forwarded = capfd.readouterr().err if stderr is None else (tmp_path / "stderr").read_text()
    assert ("the cause" in forwarded) is (stderr != -3)
    manager.context.destroy(linger=0)


def test_the_error_names_the_signal_that_killed_a_kernel(kernelspecs):
    """L4: the error contains the signal's name, not only a number."""
    dying(kernelspecs, "import os; os.kill(os.getpid(), 9)")
    manager = KernelManager(kernel_name="dying")
    with pytest.raises(RuntimeError, match="killed by SIGKILL"):
        manager.start_kernel()
    manager.context.destroy(linger=0)


def test_a_program_that_does_not_exist(kernelspecs):
    """L8: the launch raises FileNotFoundError, as with the local provisioner."""
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


def test_a_hanging_kernel_is_stopped_at_the_deadline(kernelspecs):
    """L4: the process is stopped, and the error contains its stderr."""
    dying(kernelspecs, HANGING, launch_timeout=8)
    manager = KernelManager(kernel_name="dying")
    with pytest.raises(RuntimeError, match=r"did not register its ports within 8 s") as caught:
        manager.start_kernel()
    assert not psutil.pid_exists(int(caught.value.stderr_tail.split()[1]))
    manager.context.destroy(linger=0)


def test_kernel_launch_timeout_is_the_deadline(kernelspecs):
    """L4: gateways set KERNEL_LAUNCH_TIMEOUT in the launch's environment."""
    dying(kernelspecs, HANGING)
    manager = KernelManager(kernel_name="dying")
    with pytest.raises(RuntimeError, match=r"within 0\.5 s"):
        manager.start_kernel(env={**os.environ, "KERNEL_LAUNCH_TIMEOUT": "0.5"})
    manager.context.destroy(linger=0)


async def test_a_cancelled_start_leaves_nothing(kernelspecs, capfd):
    """L8: no process, no file and no wait for `ready` remains."""
    dying(kernelspecs, HANGING)
    manager = AsyncKernelManager(kernel_name="dying")
    starting = asyncio.ensure_future(manager.start_kernel())
    stderr = ""

    def pid_in_stderr():
        nonlocal stderr
        stderr += capfd.readouterr().err
        return re.search(r"pid (\d+)\n", stderr)

    pid = int((await poll_until_async(pid_in_stderr, "the process has started"))[1])
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not psutil.pid_exists(pid)
    with pytest.raises(RuntimeError, match="cancelled"):
        await asyncio.wait_for(manager.ready, 5)
    manager.context.destroy(linger=0)


def test_an_unwritable_runtime_directory_fails_the_launch(tmp_path, monkeypatch):
    """L8: the error is one sentence that names the fault."""
    file = tmp_path / "a file"
    file.write_text("")
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(file / "runtime"))
    manager = KernelManager(kernel_name="echo-handshake")
    with pytest.raises(RuntimeError, match="Not a directory"):
        manager.start_kernel()
    manager.context.destroy(linger=0)


def test_two_kernels_with_the_same_kernel_id():
    """L2: each launch has its own registration id; both kernels run, and share no file."""
    managers = [KernelManager(kernel_name="echo-handshake") for _ in range(2)]
    for manager in managers:
        manager.start_kernel(kernel_id="the-same")
    assert managers[0].connection_file != managers[1].connection_file
    for manager in managers:
        assert manager.is_alive()
        manager.shutdown_kernel()  # a killed kernel can leave a partly written file
        manager.context.destroy(linger=0)


# --- unauthenticated peers at the registration socket -----------------------------------------

WAITING = """
import json, os, sys
with open(sys.argv[1]) as file:
    keys = json.load(file)
sys.stderr.write(f"registers at {keys['registration_port']} {keys['kernel_id']}\\n")
import threading; threading.Event().wait()
"""


def invalid_registrations(kernel_id, key):
    """Yield messages that an unauthenticated peer, or a broken kernel, can send."""
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
    yield frame({**good, "kernel_id": "another kernel"})
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


def test_invalid_registrations_do_not_end_or_stall_a_launch(kernelspecs, context, capfd):
    """L3: they are ignored; then the valid registration is accepted, once."""
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
    stderr = ""

    def registration_in_stderr():
        nonlocal stderr
        stderr += capfd.readouterr().err
        return re.search(r"registers at (\S+) (\S+)\n", stderr)

    port, kernel_id = poll_until(registration_in_stderr, "the process has started").groups()
    key = manager.session.key.decode()
    peer = context.socket(zmq.DEALER)
    peer.connect(f"tcp://127.0.0.1:{port}")
    for frames in invalid_registrations(kernel_id, key):
        if len(frames[0]) == 1_000_000:  # the socket disconnects the peer that sends this
            oversized = context.socket(zmq.DEALER)
            oversized.connect(f"tcp://127.0.0.1:{port}")
            oversized.send_multipart(frames)
        else:
            peer.send_multipart(frames)

    # Meanwhile another kernel starts at the same socket.
    other, client = start_new_kernel(kernel_name="echo-handshake")
    assert echoes(client)
    stop_manager(other, client)

    assert starting.is_alive()
    assert not peer.poll(0), "an unauthenticated peer receives no answer"
    names = ("shell", "iopub", "stdin", "control", "hb")
    good = {"kernel_id": kernel_id, **{f"{n}_port": str(6000 + i) for i, n in enumerate(names)}}
    frames = sign_frames(key, json.dumps(good).encode())
    peer.send_multipart(frames)
    assert peer.poll(20_000)
    assert peer.recv_multipart() == sign_frames(key, b"ACK")
    starting.join(10)
    assert sorted(result["ports"]) == list(range(6000, 6005))
    peer.send_multipart(frames)  # a second time: ignored
    assert not peer.poll(300)
    manager.shutdown_kernel(now=True)
    manager.context.destroy(linger=0)


def test_a_port_thief_does_not_disturb_launches():
    """H1: a kernel chooses a port by binding it, so a thief cannot bind that port in between."""
    stop_thief = threading.Event()
    held = []

    def thief():
        while not stop_thief.is_set() and len(held) < 3000:
            sock = socket.socket()
            sock.bind((OWN_ADDRESS, 0))  # the ports of other tests' kernels stay free
            held.append(sock)

    stealing = threading.Thread(target=thief)
    stealing.start()
    try:
        for _ in range(3):
            manager = start_manager("echo-handshake", ip=OWN_ADDRESS)
            stop_manager(manager, connect_client(manager))
    finally:
        stop_thief.set()
        stealing.join()
        for sock in held:
            sock.close()
