"""Ends the kernel when its parent dies (H7), whatever the main thread is doing."""

from __future__ import annotations

import logging
import os
import select
import sys
import threading
from collections.abc import Callable, Mapping

POLL_INTERVAL = 1.0
"""Seconds between looks where the system cannot report a process's end."""


def parent_pid(environment: Mapping[str, str], log: logging.Logger) -> int:
    """Return the launcher's pid, which it leaves in ``JPY_PARENT_PID``; 0 if there is none."""
    said = environment.get("JPY_PARENT_PID") or "0"
    if said.isascii() and said.isdecimal() and len(said) < 10:
        return int(said)
    log.warning("JPY_PARENT_PID=%r is no pid: the parent is not watched", said)
    return 0


def watch_parent(pid: int, clean_up: Callable[[], None]) -> None:
    """Watch in a thread; when the parent is gone, call ``clean_up`` and leave at once.

    Args:
        pid: the launcher's; 0: nobody's. 1, or a pid that is not there (another
            container's), cannot be watched: then the direct parent counts, as in ipykernel.
        clean_up: removes files; must not wait for the main thread.
    """
    if pid <= 1:
        return
    if sys.platform == "win32":
        from ipykernel.parentpoller import ParentPollerWindows

        ParentPollerWindows(parent_handle=pid).start()
        return
    first = os.getppid()
    pidfd = _open(pid)

    def watch() -> None:
        while not _gone(pidfd, first):
            pass
        clean_up()
        os._exit(1)

    threading.Thread(target=watch, name="Parent watch", daemon=True).start()


def _open(pid: int) -> int | None:
    """Return a descriptor that becomes readable when the process ends, where there is one."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _gone(pidfd: int | None, first: int) -> bool:
    """Wait for a moment, then tell whether the parent is gone."""
    # The direct parent may be a wrapper (`conda run`) between us and the launcher; a process
    # whose parent died is handed to another, and to 1 where it already was an orphan at start.
    watched = [] if pidfd is None else [pidfd]
    readable, _, _ = select.select(watched, [], [], POLL_INTERVAL)
    return bool(readable) or os.getppid() != first or (pidfd is None and first == 1)
