"""Launches that are under way when the launcher ends: nobody else knows of them, so they end too.

A kernel that runs ends with its parent by itself. One that hangs before it has registered may
not, and its files hold a key.
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

END_TIME = 1.0
"""Seconds that a killed process may take to be gone, here where the program itself ends."""

SPAWN_TIME = 5.0
"""Seconds that another thread may take to tell which process it is just starting."""

_launches: set[Unfinished] = set()


@dataclass(eq=False)
class Unfinished:
    """One launch that is under way; at exit its process is killed and its files are removed.

    Attributes:
        files: paths that only this launch uses.
        process: the process, as soon as there is one.
    """

    files: list[str]
    process: subprocess.Popen[Any] | None = None

    def __post_init__(self) -> None:
        self._owner = os.getpid()
        self._spawned = threading.Event()
        self._spawned.set()
        _launches.add(self)

    @contextlib.contextmanager
    def spawning(self) -> Iterator[None]:
        """Within, the process is started and told: it may run long before its thread does again."""
        self._spawned.clear()
        try:
            yield
        finally:
            self._spawned.set()

    def finish(self) -> None:
        """There is nothing to end at exit any more; harmless if there never was."""
        _launches.discard(self)

    def end(self) -> None:
        """Kill the process, remove the files. A forked child has its parent's list: not its own."""
        self.finish()
        if os.getpid() != self._owner:
            return
        self._spawned.wait(SPAWN_TIME)
        if self.process is not None and self.process.poll() is None:
            kill_process_group(self.process)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(END_TIME)
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
def _end_all() -> None:
    for launch in list(_launches):
        launch.end()
