"""SIGINT becomes KeyboardInterrupt in user code, and nowhere else.

One handler, installed once. A handler that raises wherever the signal happens to fall damages
messages that are half-sent and loses replies; this one raises only inside the *window* that is
open while user code runs, and at most once per window.
"""

from __future__ import annotations

import asyncio
import inspect
import signal
from collections.abc import Callable, Generator
from types import FrameType
from typing import Any


class Interrupts:
    """Runs user code so that SIGINT reaches it. Belongs to the main thread."""

    def __init__(self) -> None:
        self._window_open = False
        self._suspended: asyncio.Task[Any] | None = None
        self._interrupted = False

    def install(self) -> None:
        """Take over SIGINT."""
        signal.signal(signal.SIGINT, self._on_sigint)

    async def run(self, function: Callable[..., Any], **arguments: Any) -> Any:
        """Call ``function``, await what it returns if that can be awaited, return the result.

        Raises:
            KeyboardInterrupt: SIGINT came meanwhile, and the code let it pass.
            Exception: whatever the code raised.
        """
        self._interrupted = False
        self._window_open = True
        try:
            result = function(**arguments)
        finally:
            self._window_open = False
        return await _Steps(self, result) if inspect.isawaitable(result) else result

    def _on_sigint(self, signum: int, frame: FrameType | None) -> None:
        if self._window_open:
            self._window_open = False
            raise KeyboardInterrupt
        if self._suspended is not None:
            self._interrupted = True
            # The loop sleeps in select(): a plain cancel() would wait for its next event.
            self._suspended.get_loop().call_soon_threadsafe(self._suspended.cancel)


class _Steps:
    """Awaits something step by step, the window open during each step and closed between."""

    def __init__(self, interrupts: Interrupts, awaitable: Any) -> None:
        self._interrupts = interrupts
        self._awaitable = awaitable

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._awaitable.__await__()
        resume, value = steps.send, None
        while True:
            self._interrupts._window_open = True
            try:
                waits_for = resume(value)
            except StopIteration as stop:
                return stop.value
            finally:
                self._interrupts._window_open = False
            resume, value = steps.send, None
            try:
                self._interrupts._suspended = asyncio.current_task()
                value = yield waits_for
            except BaseException as error:
                resume, value = steps.throw, self._translate(error)
            finally:
                self._interrupts._suspended = None

    def _translate(self, error: BaseException) -> BaseException:
        """Return what user code is to see: the cancellation by SIGINT as KeyboardInterrupt."""
        if not (isinstance(error, asyncio.CancelledError) and self._interrupts._interrupted):
            return error
        self._interrupts._interrupted = False
        task = asyncio.current_task()
        if task is not None and hasattr(task, "uncancel"):  # Python 3.11+ counts cancellations
            task.uncancel()
        return KeyboardInterrupt()
