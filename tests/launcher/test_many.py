"""Many launches at once (L2, trap 10): loops, threads, forks and processes, and a thief."""

import asyncio
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from jupyter_client.manager import start_new_async_kernel, start_new_kernel
from support.managers import (
    closing_event_loop,
    connect_client,
    echoes,
    echoes_async,
    start_manager,
    stop_manager,
)
from support.ports import OWN_ADDRESS
from support.programs import run_python
from support.waits import poll_until_async


async def start_and_stop(text):
    manager, client = await start_new_async_kernel(kernel_name="echo-handshake")
    heard = await echoes_async(client, text)
    client.stop_channels()
    await manager.shutdown_kernel(now=True)
    manager.context.destroy(linger=0)
    return heard


def test_three_event_loops_with_three_kernels_each():
    """Trap 10: one socket for all of them, and no loop gets what is another's."""

    def loop(number):
        async def all_of_it():
            return await asyncio.gather(*(start_and_stop(f"{number}.{n}") for n in range(3)))

        return asyncio.run(all_of_it())

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(loop, range(3))) == [[True] * 3] * 3


def test_start_restart_and_shutdown_in_three_threads():
    """Trap 10: the synchronous API, each call from another thread."""
    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        manager = first.submit(closing_event_loop(start_manager), "echo-handshake").result()
        second.submit(closing_event_loop(manager.restart_kernel), True).result()
        client = connect_client(manager)
        assert echoes(client)
        stop_manager(manager, client)


async def test_the_synchronous_api_inside_a_running_loop():
    """Trap 10: as in a notebook that starts kernels."""
    manager, client = start_new_kernel(kernel_name="echo-handshake")
    assert echoes(client)
    stop_manager(manager, client)


async def test_a_busy_event_loop_does_not_delay_the_receipt():
    """Trap 10: the kernel gives up after 5 s without a receipt, and gets it in spite of this."""
    starting = asyncio.ensure_future(start_new_async_kernel(kernel_name="echo-handshake"))
    await poll_until_async(
        lambda: [t for t in threading.enumerate() if t.name == "KernelStderr"],
        "the process is on its way",
    )
    threading.Event().wait(7)  # and the loop stands still for longer than a kernel waits
    manager, client = await starting
    assert await echoes_async(client)
    client.stop_channels()
    await manager.shutdown_kernel(now=True)
    manager.context.destroy(linger=0)


FORKS = """
import os, sys
from jupyter_client.manager import start_new_kernel

def one():
    manager, client = start_new_kernel(kernel_name="echo-handshake")
    client.execute_interactive("x", timeout=30, output_hook=lambda message: None)
    client.stop_channels()
    manager.shutdown_kernel(now=True)

one()
child = os.fork()
one()
if child:
    _, status = os.waitpid(child, 0)
    sys.exit(os.waitstatus_to_exitcode(status))
os._exit(0)
"""


def test_after_a_fork(tmp_path):
    """Trap 10: a child has its parent's objects and not its threads; both go on to launch."""
    done = run_python("-c", FORKS)
    assert done.returncode == 0, done.stderr


LAUNCHES = """
import os, sys
from jupyter_client import KernelManager
launches, address, folder = sys.argv[1:]
for number in range(int(launches)):
    # Named as by a server: else that of a classic launch is elsewhere, and no thief reads it.
    file = os.path.join(folder, f"kernel-{os.getpid()}-{number}.json")
    manager = KernelManager(kernel_name="echo-handshake", ip=address, connection_file=file)
    manager.start_kernel()
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    client.execute_interactive("x", timeout=60, output_hook=lambda message: None)
    client.stop_channels()
    manager.shutdown_kernel(now=True)
"""

THIEF = """
import glob, json, os, select, socket, sys
folder, address = sys.argv[1:]
held, binds = [], 0
while not select.select([sys.stdin], [], [], 0.001)[0]:
    # It takes what it reads in connection files, before the kernel can ...
    for path in glob.glob(os.path.join(folder, "kernel-*.json")):
        try:
            with open(path) as file:
                ports = [port for name, port in json.load(file).items() if name.endswith("_port")]
        except (OSError, ValueError):
            continue
        for port in filter(None, ports):
            thief = socket.socket()
            try:
                thief.bind((address, port))
                thief.listen()
                held.append(thief)
            except OSError:
                thief.close()
    # ... and whatever the system gives.
    if len(held) < 500:
        held.append(socket.socket())
        held[-1].bind((address, 0))
"""


@pytest.mark.timeout(300)
def test_24_launches_by_several_processes_while_a_thief_takes_ports(runtime_dir):
    """H1, issue 4.2: no failure."""
    runtime_dir.mkdir()
    command = [sys.executable, "-c"]
    stealing = [*command, THIEF, str(runtime_dir), OWN_ADDRESS]
    launching = [*command, LAUNCHES, "6", OWN_ADDRESS, str(runtime_dir)]
    with subprocess.Popen(stealing, stdin=subprocess.PIPE) as thief:
        launchers = [
            subprocess.Popen(launching, stderr=subprocess.PIPE, text=True) for _ in range(4)
        ]
        try:
            failed = [(p.communicate(timeout=280)[1], p.returncode) for p in launchers]
        finally:
            thief.stdin.close()
            for process in launchers:
                process.kill()
                process.communicate()
    assert [error for error, status in failed if status] == []
