"""Restarts (L6), by whom they may come: who is connected stays connected, whoever takes a port."""

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

WAYS = ("signed-frame", "handshake-request", "rewrite")


@pytest.fixture(params=WAYS)
def kernel(request, kernelspecs):
    """An echo kernel that is started in each of the ways that need no port beforehand."""
    argv = [sys.executable, "-m", "echokernel", "-f", "{connection_file}"]
    return kernelspecs("echo", argv=argv, metadata=handshake_metadata(handshake=request.param))


@pytest.fixture
def python(kernelspecs):
    """Unmodified ipykernel by rewrite."""
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    return kernelspecs("py", argv=argv, metadata=handshake_metadata(handshake="rewrite"))


def thief_at(port):
    """Take a port whose owner is gone."""
    thief = socket.socket()
    thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    thief.bind((OWN_ADDRESS, port))
    thief.listen()
    return thief


@pytest.mark.parametrize("how", [{}, {"now": True}, {"now": True, "newports": True}], ids=str)
def test_a_blocking_client_stays_connected(how, kernel):
    """L6, trap 1 and trap 3: the same ports, also where new ones were allowed."""
    manager = start_manager(kernel, ip=OWN_ADDRESS)
    client = connect_client(manager)
    ports, pid = manager.ports, manager.provisioner.pid
    manager.restart_kernel(**how)
    client.wait_for_ready(timeout=60)
    assert echoes(client)
    assert manager.ports == ports
    assert manager.provisioner.pid != pid
    with open(manager.connection_file) as file:
        assert json.load(file)["kernel_name"] == "echo", "trap 5: complete again"
    stop_manager(manager, client)


async def test_an_asyncio_client_stays_connected():
    """L6."""
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
    """L6 for `rewrite`: a file that names all five is not written again; the heartbeat tells."""
    manager = start_manager(python, ip=OWN_ADDRESS)
    client = connect_client(manager)
    ports = manager.ports
    manager.restart_kernel(now=True)
    client.wait_for_ready(timeout=60)
    assert manager.ports == ports
    stop_manager(manager, client)


def test_a_console_stays_connected(tmp_path):
    """L6: `jupyter console --existing` beside a manager that restarts the kernel."""
    manager = start_manager("echo-handshake", ip=OWN_ADDRESS)
    console = open_console("--existing", manager.connection_file)
    console.expect(r"In \[.*1.*\]")
    console.sendline("before")
    console.expect(r"In \[.*2.*\]")  # it was answered: what is typed is shown twice, too
    manager.restart_kernel(now=True)
    client = connect_client(manager)
    console.sendline("after")
    console.expect("after[^$]*after")
    console.close(force=True)
    stop_manager(manager, client)


@pytest.mark.parametrize("stolen", ["shell", "iopub", "hb"])
def test_a_thief_at_an_old_port(stolen, kernel):
    """L6: never a failure; the other ports are kept, and new clients find the kernel."""
    manager = start_manager(kernel, ip=OWN_ADDRESS)
    before = {name: getattr(manager, name) for name in ("shell_port", "iopub_port", "hb_port")}
    os.kill(manager.provisioner.pid, signal.SIGKILL)
    wait_for_exit(manager.provisioner.pid)  # with all its threads, and so its ports
    with thief_at(before[f"{stolen}_port"]):
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
    # After the launcher has looked, and before the kernel binds: a thief.
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
def test_a_thief_that_comes_at_the_last_moment(port, kernelspecs, tmp_path):
    """L6 for `rewrite`: ipykernel dies for want of its shell port, and lives on without a
    heartbeat; either is seen, and it is started again with ports of its own choice."""
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


async def supervised(name):
    """Start a kernel that is watched closely; return (manager, queue of its restarter's events)."""
    manager = AsyncIOLoopKernelManager(kernel_name=name, ip=OWN_ADDRESS)
    manager.config.KernelRestarter.time_to_dead = 0.1
    manager.config.KernelRestarter.restart_limit = 3
    await manager.start_kernel()
    events = asyncio.Queue()
    for event in ("restart", "dead"):
        manager.add_restart_callback(partial(events.put_nowait, event), event)
    return manager, events


async def next_of(events):
    return await asyncio.wait_for(events.get(), 3 * DEADLINE)


async def new_process(manager, old):
    """Wait until the manager has another process than ``old``."""
    await poll_until_async(
        lambda: manager.provisioner.process and manager.provisioner.pid != old, "a new process"
    )


@pytest.mark.parametrize("name", ["echo-handshake", "py"])
async def test_autorestart(name, python):
    """L8, trap 3: after SIGKILL in the first seconds, when jupyter_client would give new ports
    to a classic kernel, clients stay connected."""
    manager, events = await supervised(name)
    client = manager.client()
    client.start_channels()
    await client.wait_for_ready(timeout=60)
    ports = manager.ports
    for _ in range(2):
        pid = manager.provisioner.pid
        os.kill(pid, signal.SIGKILL)
        assert await next_of(events) == "restart"
        await new_process(manager, pid)
        await client.wait_for_ready(timeout=60)
        assert manager.ports == ports
    reply = await client.execute_interactive("1", timeout=DEADLINE, output_hook=lambda _: None)
    assert reply["content"]["status"] == "ok"
    assert events.empty()
    client.stop_channels()
    await manager.shutdown_kernel()
    manager.context.destroy(linger=0)


async def test_an_autorestart_that_fails_ends_with_dead(kernelspecs, tmp_path):
    """Trap 6: supervision goes on after a launch that fails, and in the end clients hear `dead`."""
    switch = tmp_path / "die"
    name, notes = fake_kernelspec(kernelspecs, tmp_path / "notes", f"dies-if={switch}")
    manager, events = await supervised(name)
    ports = manager.ports
    switch.touch()
    os.kill(manager.provisioner.pid, signal.SIGKILL)
    assert [await next_of(events) for _ in range(4)] == ["restart"] * 3 + ["dead"]
    assert events.empty()
    assert not await manager.is_alive()
    assert manager.ports == ports
    # Somebody removes the cause, and restarts by hand, as a user does in a frontend.
    switch.unlink()
    await manager.restart_kernel()
    assert await manager.is_alive()
    assert len(notes()) == 2
    manager.stop_restarter()  # it looks too often here to be in nobody's way
    await manager.shutdown_kernel(now=True)
    manager.context.destroy(linger=0)


def test_a_restart_that_fails_without_supervision(kernelspecs, tmp_path):
    """L4: nobody watches this one, so whoever restarts it hears the cause, dead or alive."""
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


async def test_a_failed_restart_by_a_user_is_told(kernelspecs, tmp_path):
    """L4: supervised, and alive when the user asked: the error is the user's to see."""
    switch = tmp_path / "die"
    name, _ = fake_kernelspec(kernelspecs, tmp_path / "notes", f"dies-if={switch}")
    manager, _ = await supervised(name)
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


async def test_there_is_no_kernel_to_talk_to_while_it_restarts(kernelspecs, tmp_path):
    """Trap 1: a websocket that opens now waits until the kernel is reachable, for its ports may
    be others; and an interrupt that comes now kills nothing."""
    wait = tmp_path / "wait"
    argv = [str(wait), "-m", "echokernel", "-f", "{connection_file}"]
    kernelspecs(
        "gated",
        argv=[sys.executable, "-c", GATED, *argv],
        metadata=handshake_metadata(handshake="signed-frame"),
    )
    manager = AsyncKernelManager(kernel_name="gated")
    await manager.start_kernel()
    old = manager.provisioner.pid
    wait.touch()
    restarting = asyncio.ensure_future(manager.restart_kernel(now=True))
    await new_process(manager, old)
    assert not await manager.is_alive()
    assert not manager.has_kernel
    interrupting = asyncio.ensure_future(manager.interrupt_kernel())
    await asyncio.wait([interrupting], timeout=0.1)
    assert not interrupting.done()
    wait.unlink()
    await restarting
    await interrupting
    assert await manager.is_alive()
    await manager.shutdown_kernel()
    manager.context.destroy(linger=0)
