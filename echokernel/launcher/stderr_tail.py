"""The last lines that a kernel's process writes to stderr, for the error that says why it died.

The process writes into a pipe; a thread passes everything on to where it would have gone, as
long as the process lives, and remembers the end.
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

TAIL = 4000
"""Bytes to remember: some 40 lines, enough for a traceback."""

END_TIME = 1.0
"""Seconds to wait for the last lines of a process that has ended."""


class StderrTail:
    """Reads along with one process's stderr.

    Args:
        wanted: the ``stderr`` that the launch was given: None (ours), a descriptor, a file,
            ``DEVNULL``. A ``PIPE`` is the caller's to read; nothing is remembered then.
    """

    def __init__(self, wanted: Any = None) -> None:
        self._wanted = wanted
        self._tail = b""
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def capture(self) -> Iterator[Any]:
        """Yield what to give to the process as ``stderr``."""
        if self._wanted in (subprocess.PIPE, subprocess.STDOUT):
            yield self._wanted
            return
        onward = self._onward()
        read_end, write_end = os.pipe()
        self._thread = threading.Thread(
            target=self._pump, args=(read_end, onward), name="stderr of a kernel", daemon=True
        )
        try:
            yield write_end
        finally:
            os.close(write_end)
            # Only now: with no process (it could not be started) the pump ends at once.
            self._thread.start()

    def text(self) -> str:
        """Return the last lines so far."""
        return self._tail.decode("utf-8", "replace")

    async def read_to_end(self) -> str:
        """Return the last lines of a process that has ended."""
        if self._thread is not None:
            # Not for ever: a child of the process may have inherited its stderr, and live.
            await asyncio.get_running_loop().run_in_executor(None, self._thread.join, END_TIME)
        return self.text()

    def _onward(self) -> int | None:
        """Return a descriptor of our own for where the output would have gone."""
        if self._wanted == subprocess.DEVNULL:
            return None
        try:
            if self._wanted is None:
                return os.dup(sys.__stderr__.fileno() if sys.__stderr__ else 2)
            return os.dup(self._wanted if isinstance(self._wanted, int) else self._wanted.fileno())
        except (OSError, ValueError):  # stderr is closed, as in some services
            return None

    def _pump(self, read_end: int, onward: int | None) -> None:
        try:
            while piece := os.read(read_end, 65536):
                self._tail = (self._tail + piece)[-TAIL:]
                if onward is not None:
                    with contextlib.suppress(OSError):  # the terminal is gone; go on reading
                        os.write(onward, piece)
        finally:
            os.close(read_end)
            if onward is not None:
                os.close(onward)
