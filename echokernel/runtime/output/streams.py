"""``sys.stdout`` and ``sys.stderr`` of a kernel: what is printed becomes ``stream`` messages.

The first line goes out at once, what follows within `FLUSH_INTERVAL` goes out together, and
``flush`` never waits for another thread: the IOPub queue keeps the order. What others write to the
process's descriptor (`capture`) takes its place among it, the prints of forked children too.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import io
import os
import sys
import threading
import time
import weakref
from collections.abc import Iterable
from typing import Any

from ipykernel.iostream import OutStream as IPykernelOutStream
from jupyter_client.session import extract_header

from ..iopub.publisher import IOPub
from ..session import Session
from .fd_capture import Capture

FLUSH_INTERVAL = 0.05
"""Seconds for which lines that follow closely are gathered into one message."""


class OutStream(IPykernelOutStream):
    """A text stream that publishes; an ``ipykernel`` OutStream to those who ask.

    Args:
        session: packs and signs.
        iopub: publishes.
        name: ``"stdout"`` or ``"stderr"``.
        timers: loop of a thread that stays free, for the delayed flush; it will run soon.
        capture: of the stream's descriptor, if there is one.
    """

    def __init__(
        self,
        session: Session,
        iopub: IOPub,
        name: str,
        timers: asyncio.AbstractEventLoop,
        capture: Capture | None = None,
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
        self._capture = capture
        if capture is not None:
            timers.call_soon_threadsafe(timers.add_reader, capture.reader, self._take_captured)
        self._is_copy = False  # in a forked child
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=functools.partial(_become_copy, weakref.ref(self)))

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
        if self._is_copy:
            os.write(self.fileno(), string.encode("utf-8", "replace"))
            return len(string)
        with self._lock:
            if self._capture is not None and (text := self._capture.read()):
                self._gather(text)  # it was written before
            self._gather(string)
            # print() writes its line in two pieces: only a finished line goes out at once.
            if string.endswith("\n") and time.monotonic() > self._sent_at + FLUSH_INTERVAL:
                self._send_gathered()
            else:
                self._send_soon()
        return len(string)

    def writelines(self, lines: Iterable[Any]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Hand what was written to the IOPub thread."""
        if self._is_copy:
            return
        with self._lock:
            if self._capture is not None and (text := self._capture.read()):
                self._gather(text)
            if self._gathered:
                self._send_gathered()

    def send_gathered(self) -> None:
        """Hand over what was printed, without a look at what others have written."""
        if self._gathered and not self._is_copy:
            with self._lock:
                self._send_gathered()

    def close(self) -> None:
        self.flush()
        if self._capture is not None and not self._timers.is_closed():
            self._timers.call_soon_threadsafe(self._timers.remove_reader, self._capture.reader)
        self._capture = self._iopub = None

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

    def _is_master_process(self) -> bool:
        return not self._is_copy  # authors ask ipykernel's stream

    # --- from the process's descriptor --------------------------------------------------------

    def _take_captured(self) -> None:
        """Take what was written while nobody printed; called in the timers' thread."""
        with self._lock:
            if self._capture is not None and (text := self._capture.read()):
                self._gather(text)
                self._send_soon()

    # --- gathered, then sent: all of it under the lock ----------------------------------------

    def _gather(self, text: str) -> None:
        parent = self.parent_header
        if self._gathered and self._gathered[-1][0] is parent:
            self._gathered[-1][1].append(text)
        else:
            self._gathered.append((parent, [text]))

    def _send_soon(self) -> None:
        if not self._timer_set:
            self._timer_set = True
            self._timers.call_soon_threadsafe(
                self._timers.call_later, FLUSH_INTERVAL, self._on_timer
            )

    def _on_timer(self) -> None:
        with self._lock:
            self._timer_set = False
            self._send_gathered()

    def _send_gathered(self) -> None:
        iopub = self._iopub
        gathered, self._gathered = self._gathered, []
        try:
            for parent, pieces in list(gathered):
                text = _sendable("".join(pieces))
                if not text or iopub is None:
                    del gathered[0]
                    continue
                content = {"name": self.name, "text": text}
                out = iopub.taking_from(gathered)
                self.session.send(out, "stream", content, parent=parent, ident=self.topic)
                self._sent_at = time.monotonic()
        except (TypeError, ValueError):
            del gathered[:1]  # what cannot be sent today cannot be sent tomorrow
            raise
        finally:
            # An interrupt came, or user code's own signal handler raised: to be sent the next time.
            self._gathered[:0] = gathered


def _sendable(text: str) -> str:
    """Return ``text``; with half a character (a lone surrogate) in it, what Python writes for it.

    The bytes of undecodable file names, which Python has as surrogates too, stay: the session sends
    them, and clients know them.
    """
    if text.isascii():
        return text
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text


def _become_copy(reference: weakref.ref[OutStream]) -> None:
    """Let a forked child's prints go to the descriptor, where its parent reads them.

    The child has neither the kernel's sockets nor its threads; whoever held the lock is gone.
    """
    stream = reference()
    if stream is not None:
        stream._is_copy = True
        stream._lock = threading.RLock()
        stream._gathered = []
