"""``sys.stdout`` and ``sys.stderr`` of a kernel: what is printed becomes ``stream`` messages.

The first line goes out at once, what follows within `FLUSH_INTERVAL` goes out together, and
``flush`` never waits for another thread: the IOPub queue keeps the order.
"""

from __future__ import annotations

import asyncio
import contextvars
import io
import sys
import threading
import time
from collections.abc import Iterable
from typing import Any

from ipykernel.iostream import OutStream as IPykernelOutStream
from jupyter_client.session import extract_header

from .iopub import IOPub
from .session import Session

FLUSH_INTERVAL = 0.05
"""Seconds for which lines that follow closely are gathered into one message."""


class OutStream(IPykernelOutStream):
    """A text stream that publishes; an ``ipykernel`` OutStream to those who ask.

    Args:
        session: packs and signs.
        iopub: publishes.
        name: ``"stdout"`` or ``"stderr"``.
        timers: loop of a thread that stays free, for the delayed flush.
    """

    def __init__(
        self, session: Session, iopub: IOPub, name: str, timers: asyncio.AbstractEventLoop
    ) -> None:
        # ipykernel's own __init__ wants its IOPub thread; all that it sets up is replaced here.
        io.TextIOBase.__init__(self)
        self.session = session
        self.name = name
        self.topic = f"stream.{name}".encode()
        self._iopub: IOPub | None = iopub
        self._timers = timers
        self._lock = threading.RLock()
        self._gathered: list[tuple[dict[str, Any], list[str]]] = []
        self._timer_set = False
        self._sent_at = 0.0
        self._parent: contextvars.ContextVar[dict[str, Any]] = contextvars.ContextVar("parent")
        self._last_parent: dict[str, Any] = {}

    def __del__(self) -> None:
        """Nothing to give back (ipykernel's would stop a pipe that is not there)."""

    # --- which request the output belongs to ------------------------------------------------

    @property
    def parent_header(self) -> dict[str, Any]:
        # A thread that user code started has no context of its own: the last request counts.
        return self._parent.get(self._last_parent)

    @parent_header.setter
    def parent_header(self, header: dict[str, Any]) -> None:
        self._parent.set(header)
        self._last_parent = header

    def set_parent(self, parent: dict[str, Any]) -> None:
        """Let what is written from now on belong to the message ``parent``."""
        self.parent_header = extract_header(parent)

    def set_thread_parent(self, parent: dict[str, Any]) -> Any:
        return self._parent.set(extract_header(parent))

    def reset_thread_parent(self, token: Any) -> None:
        self._parent.reset(token)

    # --- a text file ----------------------------------------------------------------------

    def write(self, string: str) -> int:
        """Publish ``string``, soon. Raises TypeError (no str) or ValueError (closed)."""
        if not isinstance(string, str):
            raise TypeError(f"write() argument must be str, not {type(string).__name__}")
        if self._iopub is None:
            raise ValueError("I/O operation on closed file")
        parent = self.parent_header
        with self._lock:
            if self._gathered and self._gathered[-1][0] is parent:
                self._gathered[-1][1].append(string)
            else:
                self._gathered.append((parent, [string]))
            # print() writes its line in two pieces: only a finished line goes out at once.
            at_once = string.endswith("\n") and time.monotonic() > self._sent_at + FLUSH_INTERVAL
            if at_once:
                self._send_gathered()
            elif not self._timer_set:
                self._timer_set = True
                self._timers.call_soon_threadsafe(
                    self._timers.call_later, FLUSH_INTERVAL, self._on_timer
                )
        return len(string)

    def writelines(self, lines: Iterable[Any]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Hand what was written to the IOPub thread."""
        if self._gathered:  # most often there is nothing, and a lock costs more than a look
            with self._lock:
                self._send_gathered()

    def close(self) -> None:
        self.flush()
        self._iopub = None

    @property
    def closed(self) -> bool:
        return self._iopub is None

    def fileno(self) -> int:
        """Return the process's own descriptor: ``subprocess.run(stdout=sys.stdout)`` works."""
        original = getattr(sys, f"__{self.name}__")
        if original is None:
            raise io.UnsupportedOperation("fileno")
        return int(original.fileno())

    def isatty(self) -> bool:
        return False

    def _on_timer(self) -> None:
        with self._lock:
            self._timer_set = False
            self._send_gathered()

    def _send_gathered(self) -> None:
        gathered, self._gathered = self._gathered, []
        for parent, pieces in gathered:
            text = "".join(pieces)
            if not text:
                continue
            content = {"name": self.name, "text": text}
            self.session.send(self._iopub, "stream", content, parent=parent, ident=self.topic)
            self._sent_at = time.monotonic()
