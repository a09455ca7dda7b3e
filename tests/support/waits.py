"""Waits for states that cause no event, and for the end of a process.

A test waits for a message, a readable socket or the end of a child where it arrives. ``poll_until``
is for the other states: a file that another process writes, the table of processes, and the state
of a server or a kernel that only its answers show.
"""

from __future__ import annotations

import asyncio
import os
import select
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import psutil

DEADLINE = 20
"""Seconds; generous, since only a failure lasts this long."""

POLL_INTERVAL = 0.01
"""Seconds between two calls of the condition of ``poll_until``."""

Result = TypeVar("Result")


def poll_until(condition: Callable[[], Result], state: str, timeout: float = DEADLINE) -> Result:
    """Return ``condition()`` when it is true; ``state`` describes that for the error.

    Raises AssertionError after ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not within {timeout} s: {state}"
        time.sleep(POLL_INTERVAL)
    return result


async def poll_until_async(
    condition: Callable[[], Result], state: str, timeout: float = DEADLINE
) -> Result:
    """Do the same as ``poll_until`` while the event loop runs."""
    deadline = time.monotonic() + timeout
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not within {timeout} s: {state}"
        await asyncio.sleep(POLL_INTERVAL)
    return result


def read_when_written(file: Path) -> str:
    """Return the text of a file when another process has written it."""
    return poll_until(lambda: file.exists() and file.read_text(), f"{file.name} is written")


def wait_for_exit(pid: int, timeout: float = DEADLINE) -> None:
    """Wait until a process has ended, even if its parent has not read its status."""
    if not hasattr(os, "pidfd_open"):  # Linux only
        poll_until(lambda: has_exited(pid), f"process {pid} ends", timeout)
        return
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        assert poller.poll(timeout * 1000), f"process {pid} does not end within {timeout} s"
    finally:
        os.close(descriptor)


def has_exited(pid: int) -> bool:
    """Return True if a process has ended, even if its parent has not read its status."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
