"""The last lines that a kernel's process wrote to stderr, for the error of a failed launch.

The process writes into a pipe. A thread forwards everything to the original target while the
process lives, and keeps the last bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

TAIL_SIZE = 4000
"""Bytes to keep: about 40 lines, enough for a traceback."""

READ_SIZE = 65536
"""Bytes per read; the default capacity of a pipe on Linux."""

DRAIN_TIMEOUT = 1.0
"""Seconds to wait for the last output of a process that has ended."""


class StderrTail:
    """The end of one process's stderr.

    Args:
        target: the ``stderr`` argument of the launch: None (this process's stderr), a descriptor,
            a file or ``DEVNULL``. With ``PIPE`` the caller reads the output, and nothing is kept.
    """

    def __init__(self, target: Any = None) -> None:
        self._target = target
        self._tail = b""
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def capture(self) -> Iterator[Any]:
        """Yield the ``stderr`` argument for the process; start the process within this context."""
        if self._target in (subprocess.PIPE, subprocess.STDOUT):
            yield self._target
            return
        forward_to = self._duplicate_target()
        read_end, write_end = os.pipe()
        self._thread = threading.Thread(
            target=self._forward, args=(read_end, forward_to), name="KernelStderr", daemon=True
        )
        try:
            yield write_end
        finally:
            os.close(write_end)
            # Started last: if the process could not be started, the thread ends immediately.
            self._thread.start()

    def text(self) -> str:
        """Return the last lines so far."""
        return self._tail.decode("utf-8", "replace")

    async def read_to_end(self) -> str:
        """Return the last lines of a process that has ended."""
        if self._thread is not None:
            # The timeout is needed: a child of the process can hold the pipe open.
            loop = asyncio.get_running_loop()
            await loop.run_in_executor(None, self._thread.join, DRAIN_TIMEOUT)
        return self.text()

    def _duplicate_target(self) -> int | None:
        """Return a new descriptor for the target, or None if there is none."""
        if self._target == subprocess.DEVNULL:
            return None
        try:
            if self._target is None:
                return os.dup(sys.__stderr__.fileno() if sys.__stderr__ else 2)
            is_descriptor = isinstance(self._target, int)
            return os.dup(self._target if is_descriptor else self._target.fileno())
        except (OSError, ValueError):  # stderr is closed, as in some services.
            return None

    def _forward(self, read_end: int, forward_to: int | None) -> None:
        try:
            while chunk := os.read(read_end, READ_SIZE):
                self._tail = (self._tail + chunk)[-TAIL_SIZE:]
                if forward_to is not None:
                    with contextlib.suppress(OSError):  # The terminal is closed; keep reading.
                        os.write(forward_to, chunk)
        finally:
            os.close(read_end)
            if forward_to is not None:
                os.close(forward_to)
