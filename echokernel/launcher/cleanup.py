"""What happens to launches that are pending when the launcher's process ends: they are aborted.

A kernel that has registered ends with its parent (H7). A process that hangs before that may not,
and its startup file contains a key. No other module knows such a process.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

EXIT_KILL_TIMEOUT = 1.0
"""Seconds to wait for a killed process while the launcher's process ends."""

SPAWN_TIMEOUT = 5.0
"""Seconds to wait for another thread that is inside `PendingLaunch.spawning`."""

_pending: set[PendingLaunch] = set()


@dataclass(eq=False)
class PendingLaunch:
    """A launch that is aborted if this process ends before the launch does.

    Attributes:
        files: paths that only this launch uses.
        process: the kernel's process, as soon as there is one.
    """

    files: list[str]
    process: subprocess.Popen[Any] | None = None

    def __post_init__(self) -> None:
        self._owner = os.getpid()
        self._spawned = threading.Event()
        self._spawned.set()
        _pending.add(self)

    @contextlib.contextmanager
    def spawning(self) -> Iterator[None]:
        """Start the process and set ``process`` within this context.

        The process can run long before its thread runs again. `abort` waits for that thread.
        """
        self._spawned.clear()
        try:
            yield
        finally:
            self._spawned.set()

    def complete(self) -> None:
        """Forget the launch: there is nothing to abort any more. Can be called repeatedly."""
        _pending.discard(self)

    def abort(self) -> None:
        """Kill the process and remove the files.

        Does nothing in a forked child, which has a copy of its parent's pending launches.
        """
        self.complete()
        if os.getpid() != self._owner:
            return
        self._spawned.wait(SPAWN_TIMEOUT)
        if self.process is not None and self.process.poll() is None:
            kill_process_group(self.process)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(EXIT_KILL_TIMEOUT)
        for path in self.files:
            with contextlib.suppress(OSError):
                os.unlink(path)


def kill_process_group(process: subprocess.Popen[Any]) -> None:
    """Kill the process and, if it leads a process group, every process of that group."""
    with contextlib.suppress(OSError):
        if hasattr(os, "killpg") and os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()


@atexit.register
def _abort_all() -> None:
    for launch in list(_pending):
        launch.abort()
