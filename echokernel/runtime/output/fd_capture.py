"""What is written to the process's own stdout and stderr, as text for the frontend.

C code, child processes and ``os.write`` know nothing of ``sys.stdout``: they write to the
descriptors 1 and 2. Those become pipes here; the streams read them (`streams.OutStream`).

Hazard: code that holds Python's lock (a C extension) and writes more than the pipe takes waits
for a reader that waits for the lock: the kernel hangs. So the pipe is as large as the system
allows.
"""

from __future__ import annotations

import codecs
import contextlib
import os
import sys
from typing import Any

if sys.platform != "win32":
    import fcntl
    import termios

PIPE_SIZE = 1024 * 1024
"""Bytes; what Linux grants without privileges."""


class Capture:
    """Redirects one descriptor into a pipe, from now to `close`.

    Args:
        descriptor: 1 or 2.

    Attributes: ``reader`` (descriptor; readable when something was written).
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._original = os.dup(descriptor)
        # Our own end stays open: when user code closes the descriptor, the pipe has not ended.
        self.reader, self._writer = os.pipe()
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            with contextlib.suppress(OSError):  # the user has too many pipes: it stays small
                fcntl.fcntl(self._writer, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        os.set_blocking(self.reader, False)
        os.dup2(self._writer, descriptor)
        self._waiting = bytearray(4)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def read(self) -> str:
        """Return what was written since the last call; empty most of the time."""
        # A read that finds nothing costs an exception, three times as much as this.
        fcntl.ioctl(self.reader, termios.FIONREAD, self._waiting)
        if not any(self._waiting):
            return ""
        return self._decoder.decode(os.read(self.reader, PIPE_SIZE))

    def close(self) -> None:
        """Give the descriptor back to whom it belonged."""
        os.dup2(self._original, self._descriptor)
        for owned in (self._original, self._writer, self.reader):
            os.close(owned)


def capture(name: str) -> Capture | None:
    """Return a Capture for ``"stdout"`` or ``"stderr"``; None where there is nothing to capture."""
    stream: Any = getattr(sys, f"__{name}__")
    if sys.platform == "win32" or stream is None:
        return None
    return Capture(stream.fileno())
