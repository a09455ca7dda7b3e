"""Text that is written to the process's own stdout and stderr, for the frontend.

C code, child processes and ``os.write`` do not use ``sys.stdout``: they write to the descriptors
1 and 2. Those become pipes here, which the streams read (`streams.OutStream`).

Hazard: code that holds the GIL (a C extension) and writes more than the pipe holds waits for a
reader that waits for the GIL; the kernel hangs. Therefore the pipe is as large as the system
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
"""Bytes; Linux grants this size without privileges (``/proc/sys/fs/pipe-max-size``)."""


class Capture:
    """Redirects one descriptor into a pipe, until `close`.

    Args:
        descriptor: 1 or 2.

    Attributes: ``reader`` (descriptor; readable when text has been written).
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._original = os.dup(descriptor)
        # Our own writing end stays open: the pipe does not end when user code closes the
        # descriptor.
        self.reader, self._writer = os.pipe()
        if hasattr(fcntl, "F_SETPIPE_SZ"):
            with contextlib.suppress(OSError):  # the user has too many pipes: it stays small
                fcntl.fcntl(self._writer, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        os.set_blocking(self.reader, False)
        os.dup2(self._writer, descriptor)
        self._available = bytearray(4)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def read(self) -> str:
        """Return the text that was written since the last call; empty most of the time."""
        # A read that returns nothing costs an exception, three times as much as this.
        fcntl.ioctl(self.reader, termios.FIONREAD, self._available)
        if not any(self._available):
            return ""
        return self._decoder.decode(os.read(self.reader, PIPE_SIZE))

    def close(self) -> None:
        """Restore the descriptor."""
        os.dup2(self._original, self._descriptor)
        for owned in (self._original, self._writer, self.reader):
            os.close(owned)


def capture(name: str) -> Capture | None:
    """Return a Capture for ``"stdout"`` or ``"stderr"``; None if that cannot be captured."""
    stream: Any = getattr(sys, f"__{name}__")
    if sys.platform == "win32" or stream is None:
        return None
    return Capture(stream.fileno())
