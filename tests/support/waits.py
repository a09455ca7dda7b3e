"""Waits for what has no event of its own, and for the end of a process, which has one.

A message, a readable socket or the end of a child is waited for where it arrives. ``poll_until`` is
for the rest: a file that another process writes, the table of processes, and the state of a server
or a kernel that shows only in its answers.
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
"""Seconds between two looks of ``poll_until``."""

Result = TypeVar("Result")


def poll_until(condition: Callable[[], Result], what: str, timeout: float = DEADLINE) -> Result:
    """Return ``condition()`` when it is true; ``what`` is the state that is awaited.

    Raises AssertionError after ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(POLL_INTERVAL)
    return result


async def poll_until_async(
    condition: Callable[[], Result], what: str, timeout: float = DEADLINE
) -> Result:
    """Do the same while the event loop runs."""
    deadline = time.monotonic() + timeout
    while not (result := condition()):
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        await asyncio.sleep(POLL_INTERVAL)
    return result


def read_when_written(file: Path) -> str:
    """Return the text of a file that another process writes, when there is any."""
    return poll_until(lambda: file.exists() and file.read_text(), f"{file.name} is written")


def wait_for_exit(pid: int, timeout: float = DEADLINE) -> None:
    """Wait until a process has ended, whether or not its parent has read its status."""
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
    """Return whether a process has ended; one whose parent has not read its status counts, too."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True
