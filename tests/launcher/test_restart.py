"""Restarts by users, programs and supervision: connected clients stay connected (L6)."""

import asyncio
import json
import os
import signal
import socket
import sys
from functools import partial

import pytest
from jupyter_client import AsyncKernelManager
from jupyter_client.ioloop import AsyncIOLoopKernelManager
from support.consoles import open_console
from support.kernelspecs import handshake_metadata
from support.managers import (
    connect_client,
    echoes,
    echoes_async,
    fake_kernelspec,
    start_manager,
    stop_manager,
)
from support.ports import OWN_ADDRESS
from support.waits import DEADLINE, poll_until_async, wait_for_exit

START_MODES = ("signed-frame", "handshake-request", "rewrite")


@pytest.fixture(params=START_MODES)
def kernel(request, kernelspecs):
    """An echo kernel, started in each mode that does not choose ports beforehand."""
    argv = [sys.executable, "-m", "echokernel", "-f", "{connection_file}"]
    return kernelspecs("echo", argv=argv, metadata=handshake_metadata(handshake=request.param))


@pytest.fixture
def python(kernelspecs):
    """Unmodified ipykernel by rewrite."""
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    return kernelspecs("py", argv=argv, metadata=handshake_metadata(handshake="rewrite"))


def steal_port(port):
    """Bind a port whose owner has ended."""
    thief = socket.socket()
    thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    thief.bind((OWN_ADDRESS, port))
    thief.listen()
    return thief


@pytest.mark.parametrize("options", [{}, {"now": True}, {"now": True, "newports": True}], ids=str)
def test_a_blocking_client_stays_connected(options, kernel):
    """L6: the ports stay the same, even where new ones are allowed."""
    manager = start_manager(kernel, ip=OWN_ADDRESS)
    client = connect_client(manager)
    ports, pid = manager.ports, manager.provisioner.pid
    manager.restart_kernel(**options)
    client.wait_for_ready(timeout=60)
    assert echoes(client)
    assert manager.ports == ports
    assert manager.provisioner.pid != pid
    with open(manager.connection_file) as file:
        assert json.load(file)["kernel_name"] == "echo", "the file is complete again"
    stop_manager(manager, client)


async def test_an_asyncio_client_stays_connected():
    """L6: the client stays connected after an orderly and after an immediate restart."""
    manager = AsyncKernelManager(kernel_name="echo-handshake", ip=OWN_ADDRESS)
    await manager.start_kernel()
    client = manager.client()
    client.start_channels()
    await client.wait_for_ready(timeout=60)
    for now in (False, True):
        await manager.restart_kernel(now=now)
        await client.wait_for_ready(timeout=60)
        assert await echoes_async(client)
    client.stop_channels()
    await manager.shutdown_kernel()
    manager.context.destroy(linger=0)


def test_ipykernel_keeps_its_ports(python):
    """L6, L7: with `rewrite`, a restart names all five ports.

    ipykernel then does not rewrite the file; its heartbeat shows that it is ready.
    """
    manager = start_manager(python, ip=OWN_ADDRESS)
    client = connect_client(manager)
    ports = manager.ports
    manager.restart_kernel(now=True)
    client.wait_for_ready(timeout=60)
    assert manager.ports == ports
    stop_manager(manager, client)


def test_a_console_stays_connected(tmp_path):
    """L6: `jupyter console --existing` stays connected when a manager restarts the kernel."""
    manager = start_manager("echo-handshake", ip=OWN_ADDRESS)
    console = open_console("--existing", manager.connection_file)
    console.expect(r"In \[.*1.*\]")
    console.sendline("before")
    # The next prompt proves the answer; the text alone does not, since the console repeats input.
    console.expect(r"In \[.*2.*\]")
    manager.restart_kernel(now=True)
    client = connect_client(manager)
    console.sendline("after")
    console.expect("after[^$]*after")
    console.close(force=True)
    stop_manager(manager, client)


@pytest.mark.parametrize("stolen", ["shell", "iopub", "hb"])
def test_a_stolen_port_is_replaced(stolen, kernel):
    """L6: the restart succeeds, the other ports are kept, and new clients connect."""
    manager = start_manager(kernel, ip=OWN_ADDRESS)
    before = {name: getattr(manager, name) for name in ("shell_port", "iopub_port", "hb_port")}
    os.kill(manager.provisioner.pid, signal.SIGKILL)
    wait_for_exit(manager.provisioner.pid)  # all its threads have ended, so its ports are free
    with steal_port(before[f"{stolen}_port"]):
        manager.restart_kernel(now=True)
        client = connect_client(manager)
        assert echoes(client)
        if manager.provisioner.handshake != "handshake-request":
            kept = {name for name, port in before.items() if getattr(manager, name) == port}
            assert kept == set(before) - {f"{stolen}_port"}
    stop_manager(manager, client)


LOSES_PORTS = """
import json, os, socket, sys, threading
startup_file, folder, *kernel = sys.argv[1:]
with open(startup_file) as file:
    ports = json.load(file)
mark = os.path.join(folder, "robbed")
if ports["hb_port"] and not os.path.exists(mark):
    # Take the port after the launcher's check and before the kernel binds it.
    open(mark, "w").close()
    thief = socket.socket()
    thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    thief.bind(("127.0.0.1", ports[kernel.pop(0)]))
    thief.listen()
    thief.set_inheritable(True)
else:
    kernel.pop(0)
os.execv(sys.executable, [sys.executable, *kernel])
"""


@pytest.mark.parametrize("port", ["shell_port", "hb_port"])
def test_a_port_that_is_stolen_after_the_check_is_replaced(port, kernelspecs, tmp_path):
    """L6, L7: with `rewrite`, the launcher starts the kernel again with ports of its choice.

    Without its shell port ipykernel exits; without its heartbeat port it runs on.
    """
    kernelspecs(
        "robbed",
        argv=[sys.executable, "-c", LOSES_PORTS, "{connection_file}", str(tmp_path), port,
              "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        metadata=handshake_metadata(handshake="rewrite"),
    )  # fmt: skip
    manager = start_manager("robbed")
    client = connect_client(manager)
    old = getattr(manager, port)
    manager.restart_kernel(now=True)
    assert (tmp_path / "robbed").exists()
    assert getattr(manager, port) != old
    client.stop_channels()
    client = connect_client(manager)
    assert client.hb_channel.is_beating()
    stop_manager(manager, client)


# --- supervision ------------------------------------------------------------------------------


async def start_supervised(name):
    """Start a kernel that is polled often; return (manager, queue of restarter events)."""
    manager = AsyncIOLoopKernelManager(kernel_name=name, ip=OWN_ADDRESS)
    manager.config.KernelRestarter.time_to_dead = 0.1
    manager.config.KernelRestarter.restart_limit = 3
    await manager.start_kernel()
    events = asyncio.Queue()
    for event in ("restart", "dead"):
        manager.add_restart_callback(partial(events.put_nowait, event), event)
    return manager, events


async def next_event(events):
    return await asyncio.wait_for(events.get(), 3 * DEADLINE)


async def wait_for_new_process(manager, old):
    """Wait until the manager has another process than ``old``."""
    await poll_until_async(
        lambda: manager.provisioner.process and manager.provisioner.pid != old, "a new process"
    )


@pytest.mark.parametrize("name", ["echo-handshake", "py"])
async def test_clients_stay_connected_after_an_autorestart(name, python):
    """L6, L8: after SIGKILL in the first seconds the ports are the same.

    jupyter_client gives new ports to a classic kernel that dies so early.
    """
    manager, events = await start_supervised(name)
    client = manager.client()
    client.start_channels()
    await client.wait_for_ready(timeout=60)
    ports = manager.ports
    for _ in range(2):
        pid = manager.provisioner.pid
        os.kill(pid, signal.SIGKILL)
        assert await next_event(events) == "restart"
        await wait_for_new_process(manager, pid)
        await client.wait_for_ready(timeout=60)
        assert manager.ports == ports
    reply = await client.execute_interactive("1", timeout=DEADLINE, output_hook=lambda _: None)
    assert reply["content"]["status"] == "ok"
    assert events.empty()
    client.stop_channels()
    await manager.shutdown_kernel()
    manager.context.destroy(linger=0)


async def test_an_autorestart_that_fails_ends_with_dead(kernelspecs, tmp_path):
    """L8: supervision continues after a failed launch, and finally reports `dead`."""
    switch = tmp_path / "die"
    name, notes = fake_kernelspec(kernelspecs, tmp_path / "notes", f"dies-if={switch}")
    manager, events = await start_supervised(name)
    ports = manager.ports
    switch.touch()
    os.kill(manager.provisioner.pid, signal.SIGKILL)
    assert [await next_event(events) for _ in range(4)] == ["restart"] * 3 + ["dead"]
    assert events.empty()
    assert not await manager.is_alive()
    assert manager.ports == ports
    # The cause is removed, and a user restarts the kernel in a frontend.
    switch.unlink()
    await manager.restart_kernel()
    assert await manager.is_alive()
    assert len(notes()) == 2
    manager.stop_restarter()  # it polls so often that it would disturb the shutdown
    await manager.shutdown_kernel(now=True)
    manager.context.destroy(linger=0)


def test_a_failed_restart_raises_without_supervision(kernelspecs, tmp_path):
    """L4: the caller receives the cause, whether the old kernel was alive or dead."""
    switch = tmp_path / "die"
    name, _ = fake_kernelspec(kernelspecs, tmp_path / "notes", f"dies-if={switch}")
    for kill_first in (True, False):
        manager = start_manager(name)
        switch.touch()
        if kill_first:
            os.kill(manager.provisioner.pid, signal.SIGKILL)
            wait_for_exit(manager.provisioner.pid)
            assert not manager.is_alive()
        with pytest.raises(RuntimeError, match="exited with status 7"):
            manager.restart_kernel(now=True)
        switch.unlink()
        manager.cleanup_connection_file()
        manager.context.destroy(linger=0)


async def test_a_failed_restart_of_a_living_kernel_raises(kernelspecs, tmp_path):
    """L4: with supervision, too, the user who restarts a living kernel receives the cause."""
    switch = tmp_path / "die"
    name, _ = fake_kernelspec(kernelspecs, tmp_path / "notes", f"dies-if={switch}")
    manager, _ = await start_supervised(name)
    switch.touch()
    with pytest.raises(RuntimeError, match="exited with status 7"):
        await manager.restart_kernel(now=True)
    manager.cleanup_connection_file()
    manager.context.destroy(linger=0)


GATED = """
import os, sys, threading
gate, *kernel = sys.argv[1:]
while os.path.exists(gate):
    threading.Event().wait(0.01)
os.execv(sys.executable, [sys.executable, *kernel])
"""


async def test_a_restarting_kernel_is_not_alive(kernelspecs, tmp_path):
    """L6: until the new kernel runs, its ports are not known.

    A websocket that opens meanwhile waits, because the manager has no kernel. An interrupt waits,
    too, and kills no process.
    """
    gate = tmp_path / "gate"
    argv = [str(gate), "-m", "echokernel", "-f", "{connection_file}"]
    kernelspecs(
        "gated",
        argv=[sys.executable, "-c", GATED, *argv],
        metadata=handshake_metadata(handshake="signed-frame"),
    )
    manager = AsyncKernelManager(kernel_name="gated")
    await manager.start_kernel()
    old = manager.provisioner.pid
    gate.touch()
    restarting = asyncio.ensure_future(manager.restart_kernel(now=True))
    await wait_for_new_process(manager, old)
    assert not await manager.is_alive()
    assert not manager.has_kernel
    interrupting = asyncio.ensure_future(manager.interrupt_kernel())
    await asyncio.wait([interrupting], timeout=0.1)
    assert not interrupting.done()
    gate.unlink()
    await restarting
    await interrupting
    assert await manager.is_alive()
    await manager.shutdown_kernel()
    manager.context.destroy(linger=0)
