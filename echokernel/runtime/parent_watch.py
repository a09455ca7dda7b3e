"""Ends the kernel when its parent process ends, whatever the main thread does (H7).

Only the watch is here. The caller decides what is cleaned up.
"""

from __future__ import annotations

import logging
import os
import select
import sys
import threading
from collections.abc import Callable, Mapping

POLL_INTERVAL = 1.0
"""Seconds between checks where the operating system cannot report the end of a process."""


def parent_pid(environment: Mapping[str, str], log: logging.Logger) -> int:
    """Return the launcher's process id; 0 if there is none.

    Args:
        environment: jupyter_client's launcher sets ``JPY_PARENT_PID`` in it.
        log: for the warning about an invalid value.
    """
    text = environment.get("JPY_PARENT_PID") or "0"
    if text.isascii() and text.isdecimal() and len(text) < 10:
        return int(text)
    log.warning("JPY_PARENT_PID=%r is not a process id: the parent is not watched", text)
    return 0


def watch_parent(pid: int, clean_up: Callable[[], None]) -> None:
    """Watch in a thread; when the parent ends, call ``clean_up`` and exit immediately.

    Args:
        pid: the launcher's process id; 0 or 1: nothing is watched. If there is no such process (its
            id belongs to another container), only the direct parent is watched, as in ipykernel.
        clean_up: removes files; it must not wait for the main thread.
    """
    if pid <= 1:
        return
    if sys.platform == "win32":
        from ipykernel.parentpoller import ParentPollerWindows

        ParentPollerWindows(parent_handle=pid).start()
        return
    direct_parent = os.getppid()
    pidfd = _open_pidfd(pid)

    def watch() -> None:
        while not _has_ended(pidfd, direct_parent):
            pass
        clean_up()
        os._exit(1)

    threading.Thread(target=watch, name="Parent watch", daemon=True).start()


def _open_pidfd(pid: int) -> int | None:
    """Return a descriptor that becomes readable when the process ends; None where there is none.

    https://man7.org/linux/man-pages/man2/pidfd_open.2.html
    """
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _has_ended(pidfd: int | None, direct_parent: int) -> bool:
    """Wait for a moment; return True if the launcher or the direct parent has ended."""
    # The direct parent can be a wrapper, such as `conda run`, between launcher and kernel. When it
    # ends, the kernel gets another parent. A kernel that started as an orphan has parent 1.
    watched = [] if pidfd is None else [pidfd]
    readable, _, _ = select.select(watched, [], [], POLL_INTERVAL)
    return bool(readable) or os.getppid() != direct_parent or (pidfd is None and direct_parent == 1)
