"""Stock managers and clients of jupyter_client, and their cleanup."""

import json
import logging
import os
import sys

from jupyter_client import KernelManager
from jupyter_core.utils import ensure_event_loop

from .kernelspecs import handshake_metadata
from .waits import DEADLINE

FAKE_KERNEL = os.path.join(os.path.dirname(__file__), "fake_kernel_process.py")

SPY = """
import json, os, shutil, stat, sys
startup_file, record = sys.argv[1:3]
with open(startup_file) as file:
    keys = json.load(file)
with open(record, "w") as file:
    json.dump({"path": startup_file, "keys": keys, "mode": os.stat(startup_file).st_mode}, file)
argv = [word.replace("{connection_file}", startup_file) for word in sys.argv[3:]]
os.execv(sys.executable, [sys.executable, *argv])
"""
"""A process that records its startup file, then becomes the kernel that its arguments name."""


def echoes(client, text="hello"):
    """Execute through a stock client; return True if exactly ``text`` was printed."""
    messages = []
    reply = client.execute_interactive(text, timeout=DEADLINE, output_hook=messages.append)
    assert reply["content"]["status"] == "ok"
    return [m["content"]["text"] for m in messages if m["msg_type"] == "stream"] == [text]


async def echoes_async(client, text="hello"):
    messages = []
    reply = await client.execute_interactive(text, timeout=DEADLINE, output_hook=messages.append)
    assert reply["content"]["status"] == "ok"
    return [m["content"]["text"] for m in messages if m["msg_type"] == "stream"] == [text]


def start_manager(kernel_name, *, config=None, start=None, **settings):
    """Return a stock manager with a started kernel; if the start fails, close its context."""
    manager = KernelManager(
        kernel_name=kernel_name, log=logging.getLogger("launcher"), config=config, **settings
    )
    try:
        manager.start_kernel(**(start or {}))
    except BaseException:
        manager.context.destroy(linger=0)
        raise
    return manager


def connect_client(manager):
    """Return a blocking client of a running kernel, ready for requests."""
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=60)
    return client


def stop_manager(manager, *clients, now=False):
    for client in clients:
        client.stop_channels()
    manager.shutdown_kernel(now=now)
    manager.context.destroy(linger=0)


def close_event_loop():
    """Close the event loop that jupyter_client's synchronous calls leave open in each thread."""
    ensure_event_loop().close()


def closing_event_loop(function):
    """Return ``function`` for use in a thread: its event loop is closed afterwards."""

    def call(*arguments):
        try:
            return function(*arguments)
        finally:
            close_event_loop()

    return call


def fake_kernelspec(kernelspecs, notes, *habits, name="fake", config=None, **more):
    """Write a kernelspec for ``fake_kernel_process.py``; return (name, reader of its notes)."""
    argv = [sys.executable, FAKE_KERNEL, "{connection_file}", str(notes), *habits]
    metadata = handshake_metadata(**({"handshake": "signed-frame"} if config is None else config))
    kernelspecs(name, argv=argv, metadata=metadata, **more)
    return name, lambda: [json.loads(line) for line in notes.read_text().splitlines()]
