"""``sys.stdout`` and ``sys.stderr`` of a kernel: printed text becomes ``stream`` messages.

The first line is sent immediately; lines that follow within `FLUSH_INTERVAL` are sent together.
``flush`` never waits for another thread, since the IOPub queue keeps the order. Text that other
code writes to the process's descriptor (`fd_capture`) takes its place in that order, prints of
forked children included.
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
from collections.abc import Callable, Iterable
from typing import Any

from jupyter_client.session import extract_header

from ..iopub.publisher import IOPub
from ..ipykernel_compat import StreamBase
from ..plain_output import PlainOutput
from ..session import Session
from .fd_capture import Capture

FLUSH_INTERVAL = 0.05
"""Seconds for which lines that follow closely are gathered into one message."""


class PublishedOutput(PlainOutput):
    """Output of user code that `OutStream` publishes.

    The streams are looked up in ``sys`` each time: user code may have replaced them.
    """

    def set_parent(self, message: dict[str, Any]) -> None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, OutStream):
                stream.set_parent(message)

    def send_gathered(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, OutStream):
                stream.send_gathered()


class OutStream(StreamBase):
    """A text stream that publishes; an instance of ipykernel's ``OutStream``.

    Args:
        session: packs and signs.
        iopub: publishes.
        name: ``"stdout"`` or ``"stderr"``.
        timers: loop of a thread that user code never keeps busy, for the delayed flush.
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
        # Not ipykernel's __init__, which wants its own IOPub thread.
        io.TextIOBase.__init__(self)
        self.session = session
        self.name = name
        self.topic = f"stream.{name}".encode()
        self._iopub: IOPub | None = iopub
        self._lock = threading.RLock()
        self._gathered: list[tuple[dict[str, Any], list[str]]] = []
        self._sent_at = 0.0
        self._timer = _FlushTimer(timers, self._on_timer)
        self._parent = _CurrentParent()
        self._capture = capture
        if capture is not None:
            timers.call_soon_threadsafe(timers.add_reader, capture.reader, self._gather_captured)
        self._is_copy = False  # in a forked child
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=functools.partial(_become_copy, weakref.ref(self)))

    # --- the request to which the output belongs ------------------------------------------------

    @property
    def parent_header(self) -> dict[str, Any]:
        return self._parent.header

    @parent_header.setter
    def parent_header(self, header: dict[str, Any]) -> None:
        self._parent.set(header)

    def set_parent(self, parent: dict[str, Any]) -> None:
        """Relate the text that is written from now on to the message ``parent``."""
        self._parent.set(extract_header(parent))

    def set_thread_parent(self, parent: dict[str, Any]) -> Any:
        return self._parent.in_context.set(extract_header(parent))

    def reset_thread_parent(self, token: Any) -> None:
        self._parent.in_context.reset(token)

    # --- a text file ----------------------------------------------------------------------

    def write(self, string: str) -> int:
        """Publish ``string``, soon.

        Raises:
            TypeError: ``string`` is not a str.
            ValueError: the stream is closed.
        """
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
            # print() writes its line in two pieces: only a finished line is sent immediately.
            if string.endswith("\n") and time.monotonic() > self._sent_at + FLUSH_INTERVAL:
                self._send_gathered()
            else:
                self._timer.start()
        return len(string)

    def writelines(self, lines: Iterable[Any]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Pass the written text to the publisher's queue."""
        if self._is_copy:
            return
        with self._lock:
            if self._capture is not None and (text := self._capture.read()):
                self._gather(text)
            if self._gathered:
                self._send_gathered()

    def send_gathered(self) -> None:
        """Pass printed text to the publisher's queue, without reading the descriptor."""
        if self._gathered and not self._is_copy:
            with self._lock:
                self._send_gathered()

    def close(self) -> None:
        self.flush()
        if self._capture is not None:
            self._timer.remove_reader(self._capture.reader)
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

    @property
    def is_forked_copy(self) -> bool:
        return self._is_copy

    # --- from the process's descriptor --------------------------------------------------------

    def _gather_captured(self) -> None:
        """Gather text that was written to the descriptor; called in the timers' thread."""
        with self._lock:
            if self._capture is not None and (text := self._capture.read()):
                self._gather(text)
                self._timer.start()

    # --- gathered, then sent: all of it under the lock ----------------------------------------

    def _gather(self, text: str) -> None:
        parent = self._parent.header
        if self._gathered and self._gathered[-1][0] is parent:
            self._gathered[-1][1].append(text)
        else:
            self._gathered.append((parent, [text]))

    def _on_timer(self) -> None:
        with self._lock:
            self._timer.is_set = False
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
                handoff = iopub.handoff(gathered)
                self.session.send(handoff, "stream", content, parent=parent, ident=self.topic)
                self._sent_at = time.monotonic()
        except (TypeError, ValueError):
            del gathered[:1]  # text that cannot be sent now cannot be sent later
            raise
        finally:
            # After an interrupt, or a signal handler of user code that raised: sent next time.
            self._gathered[:0] = gathered


class _FlushTimer:
    """Calls a function in another thread, once, `FLUSH_INTERVAL` after `start`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, function: Callable[[], None]) -> None:
        self._loop = loop
        self._function = function
        self.is_set = False

    def start(self) -> None:
        if not self.is_set:
            self.is_set = True
            self._loop.call_soon_threadsafe(self._loop.call_later, FLUSH_INTERVAL, self._function)

    def remove_reader(self, descriptor: int) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.remove_reader, descriptor)


class _CurrentParent:
    """The header of the request to which output belongs, by context."""

    def __init__(self) -> None:
        self.in_context: contextvars.ContextVar[dict[str, Any]] = contextvars.ContextVar("parent")
        self._last: dict[str, Any] = {}

    @property
    def header(self) -> dict[str, Any]:
        # A thread that user code started has no context of its own: the last request counts.
        return self.in_context.get(self._last)

    def set(self, header: dict[str, Any]) -> None:
        self.in_context.set(header)
        self._last = header


def _sendable(text: str) -> str:
    """Return ``text``, with lone surrogates as Python escapes.

    The surrogates that stand for bytes of undecodable file names stay: Session sends them as those
    bytes.
    """
    if text.isascii():
        return text
    try:
        text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return text.encode("utf-8", "backslashreplace").decode("utf-8")
    return text


def _become_copy(reference: weakref.ref[OutStream]) -> None:
    """Let a forked child print to the descriptor, which its parent reads.

    The child has neither the kernel's sockets nor its threads; the thread that held the lock does
    not exist there.
    """
    stream = reference()
    if stream is not None:
        stream._is_copy = True
        stream._lock = threading.RLock()
        stream._gathered = []
