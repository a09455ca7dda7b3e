"""Concurrent launches (L2): event loops, threads, forks, processes, and a thief of ports."""

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
from support.waits import poll_until, poll_until_async


async def start_and_stop(text):
    manager, client = await start_new_async_kernel(kernel_name="echo-handshake")
    echoed = await echoes_async(client, text)
    client.stop_channels()
    await manager.shutdown_kernel(now=True)
    manager.context.destroy(linger=0)
    return echoed


def test_event_loops_share_the_registration_socket():
    """L2: three event loops with three kernels each; each loop receives its own registrations."""

    def run_loop(number):
        async def start_and_stop_three():
            return await asyncio.gather(*(start_and_stop(f"{number}.{n}") for n in range(3)))

        return asyncio.run(start_and_stop_three())

    with ThreadPoolExecutor(3) as pool:
        assert list(pool.map(run_loop, range(3))) == [[True] * 3] * 3


def test_synchronous_calls_can_come_from_different_threads():
    """L2: start, restart and shutdown of one kernel come from different threads."""
    with ThreadPoolExecutor(1) as first, ThreadPoolExecutor(1) as second:
        manager = first.submit(closing_event_loop(start_manager), "echo-handshake").result()
        second.submit(closing_event_loop(manager.restart_kernel), True).result()
        client = connect_client(manager)
        assert echoes(client)
        stop_manager(manager, client)


async def test_the_synchronous_api_works_inside_a_running_event_loop():
    """L2: a notebook that starts kernels does this."""
    manager, client = start_new_kernel(kernel_name="echo-handshake")
    assert echoes(client)
    stop_manager(manager, client)


async def test_a_busy_event_loop_does_not_delay_the_receipt(runtime_dir):
    """L2: the kernel waits 5 s for its receipt, and receives it while the event loop is blocked."""
    starting = asyncio.ensure_future(start_new_async_kernel(kernel_name="echo-handshake"))
    await poll_until_async(
        lambda: [t for t in threading.enumerate() if t.name == "KernelStderr"],
        "the process has started",
    )
    # This call blocks the event loop; the kernel writes its file only after the receipt.
    poll_until(lambda: list(runtime_dir.glob("kernel-*.json")), "the kernel has its receipt")
    manager, client = await starting
    assert await echoes_async(client)
    client.stop_channels()
    await manager.shutdown_kernel(now=True)
    manager.context.destroy(linger=0)


FORKS = """
import os, sys
from jupyter_client.manager import start_new_kernel

def run_kernel():
    manager, client = start_new_kernel(kernel_name="echo-handshake")
    client.execute_interactive("x", timeout=30, output_hook=lambda message: None)
    client.stop_channels()
    manager.shutdown_kernel(now=True)

run_kernel()
child = os.fork()
run_kernel()
if child:
    _, status = os.waitpid(child, 0)
    sys.exit(os.waitstatus_to_exitcode(status))
os._exit(0)
"""


def test_a_parent_and_its_forked_child_can_launch(tmp_path):
    """L2: a forked child has its parent's objects without their threads; both launch kernels."""
    completed = run_python("-c", FORKS)
    assert completed.returncode == 0, completed.stderr


LAUNCHES = """
import os, sys
from jupyter_client import KernelManager
launches, address, folder = sys.argv[1:]
for number in range(int(launches)):
    # Named as by a server: otherwise the thief does not find the file of a classic launch.
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
held = []
while not select.select([sys.stdin], [], [], 0.001)[0]:
    # Bind the ports that connection files name, before the kernel does ...
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
    # ... and any port that the operating system chooses.
    if len(held) < 500:
        held.append(socket.socket())
        held[-1].bind((address, 0))
"""


@pytest.mark.timeout(300)
def test_launches_succeed_while_a_thief_takes_ports(runtime_dir):
    """H1, L2: four processes launch six kernels each, and no launch fails."""
    runtime_dir.mkdir()
    command = [sys.executable, "-c"]
    stealing = [*command, THIEF, str(runtime_dir), OWN_ADDRESS]
    launching = [*command, LAUNCHES, "6", OWN_ADDRESS, str(runtime_dir)]
    with subprocess.Popen(stealing, stdin=subprocess.PIPE) as thief:
        launchers = [
            subprocess.Popen(launching, stderr=subprocess.PIPE, text=True) for _ in range(4)
        ]
        try:
            results = [(p.communicate(timeout=280)[1], p.returncode) for p in launchers]
        finally:
            thief.stdin.close()
            for process in launchers:
                process.kill()
                process.communicate()
    assert [error for error, status in results if status] == []
