"""SIGINT becomes KeyboardInterrupt in user code, and nowhere else.

One handler, installed once. A handler that raises wherever the signal arrives damages messages
that are sent at that moment, and loses replies. This one raises only inside the *window*, which is
open while user code runs, and at most once per window.

A signal can be delayed indefinitely: it arrives just before the main thread enters a system call,
or on another thread, and Python's handler has to wait until ``time.sleep(60)`` returns. Therefore
another thread checks that it was handled, and sends it again (`Interrupts.install`).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
import weakref
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from select import select
from types import FrameType
from typing import Any

DELIVERY_TIME = 0.02
"""Seconds after which a signal that Python's handler has not handled is sent again."""

OnSuspend = Callable[[], None]


class Interrupts:
    """Runs user code so that SIGINT reaches it. Belongs to the main thread.

    Args:
        ending: signals whose handlers end the process. While the process lives, they have not
            run; their delivery is checked as well.
    """

    def __init__(self, ending: Sequence[int] = ()) -> None:
        self._ending = ending
        self.window_open = False
        # The tasks that run user code: mostly one; others run while it waits.
        self._tasks: list[asyncio.Task[Any] | None] = []
        self._pending = False  # SIGINT arrived between two steps of the user's coroutine
        self._unhandled: socket.socket | None = None
        self._wakeup: socket.socket | None = None

    def install(self, watcher: asyncio.AbstractEventLoop) -> None:
        """Install the handler; ``watcher`` is the loop of a thread that is never kept busy."""
        if threading.current_thread() is not threading.main_thread():
            return  # embedded: the host owns the signals
        # Python's C handler writes a byte immediately, our handler reads it. A byte that stays
        # there is a signal that was not handled.
        self._unhandled, self._wakeup = socket.socketpair()
        self._unhandled.setblocking(False)
        self._wakeup.setblocking(False)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, self._on_sigint)
        if hasattr(os, "register_at_fork"):
            ForkGuard(weakref.ref(self), [signal.SIGINT, *self._ending])
        # Read now: when the watcher runs, user code may have installed handlers of its own.
        installed = _handlers([signal.SIGINT, *self._ending])
        main = asyncio.get_running_loop()
        watcher.call_soon_threadsafe(self._watch, watcher, main, self._unhandled, installed)

    def close(self) -> None:
        """Ignore SIGINT from now on; the watcher's thread must have ended."""
        if self._unhandled is not None and self._wakeup is not None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.set_wakeup_fd(-1)
            self._unhandled.close()
            self._wakeup.close()

    async def run(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        on_suspend: OnSuspend | None = None,
    ) -> Any:
        """Call ``function``, await what it returns if that is awaitable, return the result.

        While user code waits, other user code can run (comm messages).

        Args:
            on_suspend: called once, in the context of the code, when it awaits something that is
                not there yet.

        Raises:
            KeyboardInterrupt: SIGINT arrived meanwhile, and the code did not catch it.
            Exception: any exception that the code raised.
        """
        was_pending, was_open = self._pending, self.window_open
        task, self._pending = asyncio.current_task(), False
        self._tasks.append(task)
        try:
            try:
                self.window_open = True
                result = function(*arguments)
            finally:
                self.window_open = False
            if is_awaitable(result):
                return await InterruptibleAwait(self, result, on_suspend)
            return result
        finally:
            self._tasks.remove(task)
            if not self._tasks:
                self._forget_handled()
            else:
                self._pending, self.window_open = was_pending or self._pending, was_open

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Defer an interrupt of user code until the block has ended, and raise it then."""
        was_open, self.window_open = self.window_open, False
        try:
            yield
        finally:
            self.window_open = was_open
        if was_open and self.pop_pending():
            self.window_open = False
            raise KeyboardInterrupt

    def close_window(self) -> None:
        """Raise no interrupt until user code runs again: what follows must not be torn apart."""
        self.window_open = False

    def pop_pending(self) -> bool:
        """Return True if an interrupt is to be delivered now; it then counts as delivered."""
        pending, self._pending = self._pending, False
        return pending

    def _watch(
        self,
        watcher: asyncio.AbstractEventLoop,
        main: asyncio.AbstractEventLoop,
        unhandled: socket.socket,
        installed: dict[int, Any],
    ) -> None:
        def on_readable() -> None:
            watcher.remove_reader(unhandled)
            watcher.call_later(DELIVERY_TIME, send_again, _handlers(installed))

        def send_again(handlers_before: dict[int, Any]) -> None:
            handlers = _handlers(installed)
            for number in set(_read_all(unhandled)):
                ours = installed.get(number)
                if ours is not None and handlers_before[number] == ours == handlers[number]:
                    signal.pthread_kill(threading.main_thread().ident or 0, number)
                elif number == signal.SIGINT:
                    # User code has a handler of its own (IPython, while a cell awaits). Callbacks
                    # that it schedules with call_soon() wait while the loop sleeps in select().
                    main.call_soon_threadsafe(lambda: None)
            watcher.add_reader(unhandled, on_readable)

        watcher.add_reader(unhandled, on_readable)

    def _forget_handled(self) -> None:
        """Discard SIGINTs that a handler of user code's own handled.

        Sent again, they would interrupt the next cell.
        """
        if self._unhandled is not None and select([self._unhandled], [], [], 0)[0]:
            for number in _read_all(self._unhandled):
                if number != signal.SIGINT and self._wakeup is not None:
                    self._wakeup.send(bytes([number]))

    def _on_sigint(self, signum: int, frame: FrameType | None) -> None:
        if self._unhandled is not None:
            _read_all(self._unhandled)
        if self.window_open:
            self.window_open = False
            raise KeyboardInterrupt
        if self._tasks and (task := self._tasks[-1]) is not None:
            self._pending = True
            # The loop sleeps in select(): a plain cancel() would wait for its next event.
            task.get_loop().call_soon_threadsafe(self._wake)

    def _wake(self) -> None:
        if self._pending and self._tasks and (task := self._tasks[-1]) is not None:
            task.cancel()


class ForkGuard:
    """Keeps a forked child from using its parent's wakeup socket.

    A SIGTERM that ends the child would be written to that socket, and the parent's watcher would
    deliver the signal to the parent, too. A signal that arrives too early stays blocked until the
    child has closed the socket.
    """

    def __init__(self, interrupts: weakref.ref[Interrupts], signals: Sequence[int]) -> None:
        self._interrupts = interrupts
        self._signals = signals
        self._forking = threading.local()
        os.register_at_fork(
            before=self._before,
            after_in_parent=self._unblock,
            after_in_child=self._in_child,
        )

    def _before(self) -> None:
        self._forking.mask = signal.pthread_sigmask(signal.SIG_BLOCK, self._signals)

    def _in_child(self) -> None:
        interrupts = self._interrupts()
        if interrupts is not None and interrupts._unhandled is not None:
            signal.set_wakeup_fd(-1)
            interrupts._unhandled = None
        self._unblock()

    def _unblock(self) -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, self._forking.mask)


def is_awaitable(value: Any) -> bool:
    """Return True if ``value`` can be awaited; ``inspect`` needs ten times as long."""
    return hasattr(type(value), "__await__")


def _handlers(signals: Iterable[int]) -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in signals}


def _read_all(unhandled: socket.socket) -> bytes:
    try:
        return unhandled.recv(4096)
    except BlockingIOError:
        return b""


class InterruptibleAwait:
    """Awaits an object step by step: the window is open during each step and closed between."""

    def __init__(
        self, interrupts: Interrupts, awaitable: Any, on_suspend: OnSuspend | None
    ) -> None:
        self._interrupts = interrupts
        self._awaitable = awaitable
        self._on_suspend = on_suspend

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._awaitable.__await__()
        resume: Callable[[Any], Any] = steps.send
        value: Any = None
        on_suspend = self._on_suspend
        while True:
            if self._interrupts.pop_pending():
                resume, value = steps.throw, self._interrupt(value)
            try:
                self._interrupts.window_open = True
                waits_for = resume(value)
            except StopIteration as stop:
                return stop.value
            finally:
                self._interrupts.window_open = False
            if on_suspend is not None:
                on_suspend()
                on_suspend = None
            try:
                resume, value = steps.send, (yield waits_for)
            except BaseException as error:
                resume, value = steps.throw, error

    def _interrupt(self, value: Any) -> KeyboardInterrupt:
        """Return the exception that user code gets instead of ``value``.

        ``value`` can be the cancellation by which the handler woke the task.
        """
        task = asyncio.current_task()
        uncancel = getattr(task, "uncancel", None)  # Python 3.11+ counts cancellations
        if isinstance(value, asyncio.CancelledError) and uncancel is not None:
            uncancel()
        return KeyboardInterrupt()
