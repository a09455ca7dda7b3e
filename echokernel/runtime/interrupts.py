"""SIGINT becomes KeyboardInterrupt in user code, and nowhere else.

One handler, installed once. A handler that raises wherever the signal happens to fall damages
messages that are half-sent and loses replies; this one raises only inside the *window* that is
open while user code runs, and at most once per window.

A signal can also come to nothing: it falls just before the main thread enters a system call, or
on another thread, and Python's handler has to wait until ``time.sleep(60)`` returns. So another
thread sees to it that it is delivered (`Interrupts.install`).
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
"""Seconds after which a signal that Python's handler has not seen is sent again."""


class Interrupts:
    """Runs user code so that SIGINT reaches it. Belongs to the main thread.

    Args:
        ending: signals whose handlers end the process: while it lives, they have not run. They
            are seen to as well.
    """

    def __init__(self, ending: Sequence[int] = ()) -> None:
        self._ending = ending
        self.window_open = False
        self.on_suspend: Callable[[], None] | None = None
        """Called in the context of user code when it awaits something that is not there yet."""
        # Those that run user code: mostly one; others run while it waits.
        self._tasks: list[asyncio.Task[Any] | None] = []
        self._pending = False  # SIGINT came between two steps of it
        self._unhandled: socket.socket | None = None
        self._wakeup: socket.socket | None = None

    def install(self, watcher: asyncio.AbstractEventLoop) -> None:
        """Take over SIGINT; ``watcher`` is the loop of a thread that stays free."""
        if threading.current_thread() is not threading.main_thread():
            return  # embedded: signals are our host's
        # Python's C handler writes a byte at once, ours reads it: a byte that stays there is an
        # interrupt that did not come through.
        self._unhandled, self._wakeup = socket.socketpair()
        self._unhandled.setblocking(False)
        self._wakeup.setblocking(False)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGINT, self._on_sigint)
        if hasattr(os, "register_at_fork"):
            _Forks(weakref.ref(self), [signal.SIGINT, *self._ending])
        # Looked up now: by the time that the watcher runs, user code may have set its own.
        ours = _handlers([signal.SIGINT, *self._ending])
        main = asyncio.get_running_loop()
        watcher.call_soon_threadsafe(self._watch, watcher, main, self._unhandled, ours)

    def close(self) -> None:
        """Let SIGINT go; the watcher's thread must have ended."""
        if self._unhandled is not None and self._wakeup is not None:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.set_wakeup_fd(-1)
            self._unhandled.close()
            self._wakeup.close()

    async def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call ``function``, await what it returns if that can be awaited, return the result.

        While user code waits, other user code may be run between (comm messages).

        Raises:
            KeyboardInterrupt: SIGINT came meanwhile, and the code let it pass.
            Exception: whatever the code raised.
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
            return await _Steps(self, result) if is_awaitable(result) else result
        finally:
            self._tasks.remove(task)
            if not self._tasks:
                self._forget_handled()
            else:
                self._pending, self.window_open = was_pending or self._pending, was_open

    @contextlib.contextmanager
    def held_back(self) -> Iterator[None]:
        """Let an interrupt of user code wait until the block has ended, and raise it then."""
        was_open, self.window_open = self.window_open, False
        try:
            yield
        finally:
            self.window_open = was_open
        if was_open and self.take():
            self.window_open = False
            raise KeyboardInterrupt

    def shut(self) -> None:
        """Close the window until user code runs again: what follows must not be torn apart."""
        self.window_open = False

    def take(self) -> bool:
        """Tell whether an interrupt is to be delivered now, and count it as delivered."""
        pending, self._pending = self._pending, False
        return pending

    def _watch(
        self,
        watcher: asyncio.AbstractEventLoop,
        main: asyncio.AbstractEventLoop,
        unhandled: socket.socket,
        ours: dict[int, Any],
    ) -> None:
        def seen() -> None:
            watcher.remove_reader(unhandled)
            watcher.call_later(DELIVERY_TIME, look_again, _handlers(ours))

        def look_again(handlers_before: dict[int, Any]) -> None:
            handlers = _handlers(ours)
            for number in set(_take_bytes(unhandled)):
                if number in ours and handlers_before[number] == ours[number] == handlers[number]:
                    signal.pthread_kill(threading.main_thread().ident or 0, number)
                elif number == signal.SIGINT:
                    # User code has a handler of its own (IPython, while a cell awaits); what it
                    # schedules with call_soon() has to wait while the loop sleeps in select().
                    main.call_soon_threadsafe(lambda: None)
            watcher.add_reader(unhandled, seen)

        watcher.add_reader(unhandled, seen)

    def _forget_handled(self) -> None:
        """Take what a handler of user code's own has left: sent again, it would hit the next."""
        if self._unhandled is not None and select([self._unhandled], [], [], 0)[0]:
            for number in _take_bytes(self._unhandled):
                if number != signal.SIGINT and self._wakeup is not None:
                    self._wakeup.send(bytes([number]))

    def _on_sigint(self, signum: int, frame: FrameType | None) -> None:
        if self._unhandled is not None:
            _take_bytes(self._unhandled)
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


class _Forks:
    """Lets a forked child leave its parent's sockets alone.

    Else a SIGTERM that ends the child would write to them, and the parent's watcher would have it
    delivered to the parent, too. One that comes too early waits until the child has let go.
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
    """Tell whether ``value`` can be awaited; ``inspect`` takes ten times as long to say no."""
    return hasattr(type(value), "__await__")


def _handlers(signals: Iterable[int]) -> dict[int, Any]:
    return {number: signal.getsignal(number) for number in signals}


def _take_bytes(unhandled: socket.socket) -> bytes:
    try:
        return unhandled.recv(4096)
    except BlockingIOError:
        return b""


class _Steps:
    """Awaits something step by step, the window open during each step and closed between."""

    def __init__(self, interrupts: Interrupts, awaitable: Any) -> None:
        self._interrupts = interrupts
        self._awaitable = awaitable

    def __await__(self) -> Generator[Any, Any, Any]:
        steps = self._awaitable.__await__()
        resume: Callable[[Any], Any] = steps.send
        value: Any = None
        on_suspend = self._interrupts.on_suspend
        while True:
            if self._interrupts.take():
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
        """Return what user code is to see instead of ``value``, be it our own cancellation."""
        task = asyncio.current_task()
        uncancel = getattr(task, "uncancel", None)  # Python 3.11+ counts cancellations
        if isinstance(value, asyncio.CancelledError) and uncancel is not None:
            uncancel()
        return KeyboardInterrupt()
