"""What the tests of the launcher have in common: stock managers and clients, and their ends."""

import json
import logging
import os
import sys

import psutil
from conftest import close_loop_of_this_thread, handshake_metadata
from harness import DEADLINE, wait_until
from jupyter_client import KernelManager

HERE = os.path.dirname(__file__)
FAKE_KERNEL = os.path.join(HERE, "fake_kernel.py")

SPY = """
import json, os, shutil, stat, sys
startup_file, seen = sys.argv[1:3]
with open(startup_file) as file:
    keys = json.load(file)
with open(seen, "w") as file:
    json.dump({"path": startup_file, "keys": keys, "mode": os.stat(startup_file).st_mode}, file)
argv = [word.replace("{connection_file}", startup_file) for word in sys.argv[3:]]
os.execv(sys.executable, [sys.executable, *argv])
"""
"""A process that notes its startup file, and then becomes the kernel that is named after it."""


def echoes(client, text="hello"):
    """Execute through a stock client; tell whether exactly that came back."""
    heard = []
    reply = client.execute_interactive(text, timeout=DEADLINE, output_hook=heard.append)
    assert reply["content"]["status"] == "ok"
    return [m["content"]["text"] for m in heard if m["msg_type"] == "stream"] == [text]


async def echoes_async(client, text="hello"):
    heard = []
    reply = await client.execute_interactive(text, timeout=DEADLINE, output_hook=heard.append)
    assert reply["content"]["status"] == "ok"
    return [m["content"]["text"] for m in heard if m["msg_type"] == "stream"] == [text]


def started(kernel_name, *, config=None, start=None, **settings):
    """Return a stock manager whose kernel has started; one that fails leaves no context."""
    manager = KernelManager(
        kernel_name=kernel_name, log=logging.getLogger("launcher"), config=config, **settings
    )
    try:
        manager.start_kernel(**(start or {}))
    except BaseException:
        manager.context.destroy(linger=0)
        raise
    return manager


def connect(manager):
    """Return a blocking client of a kernel that runs, ready."""
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    return client


def stop(manager, *clients, now=False):
    for client in clients:
        client.stop_channels()
    manager.shutdown_kernel(now=now)
    manager.context.destroy(linger=0)


def in_thread_of_its_own(function):
    """Return ``function`` as a thread may run it: the event loop it leaves is closed."""

    def run(*arguments):
        try:
            return function(*arguments)
        finally:
            close_loop_of_this_thread()

    return run


def fake_kernel(kernelspecs, notes, *habits, name="fake", config=None, **more):
    """Make a kernelspec for ``fake_kernel.py``; return its name and what reads its notes."""
    argv = [sys.executable, FAKE_KERNEL, "{connection_file}", str(notes), *habits]
    metadata = handshake_metadata(**({"handshake": "signed-frame"} if config is None else config))
    kernelspecs(name, argv=argv, metadata=metadata, **more)
    return name, lambda: [json.loads(line) for line in notes.read_text().splitlines()]


def gone(pid):
    wait_until(lambda: not psutil.pid_exists(pid) or is_zombie(pid), f"process {pid} is gone")
    return True


def is_zombie(pid):
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
