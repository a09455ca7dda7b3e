"""The shell channel: one dispatcher for the queue, the priority and the parent of requests.

Requests are handled one after the other, so a response that a cell waits for would stay behind
that cell. While a cell waits, by ``await`` or in a blocking call, messages with priority are
handled as they arrive; all others are deferred in their order. Which messages have priority is an
argument: the core gives priority to none.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import selectors
import socket
import time
from collections.abc import Callable
from typing import Any

import zmq

from .dispatch import Dispatcher, ReplySocket, log
from .interrupts import Interrupts
from .kernelbase import Kernel
from .message_queue import Frames, Matches
from .turns import Turn

LONGEST_WAIT = 0.1
"""Seconds of one blocking wait: on Windows a longer one cannot be interrupted."""


class ShellLoop(Dispatcher):
    """Answers shell requests, one after the other, on the kernel's main thread.

    Args:
        kernel: its handlers answer; its ``message_queue`` holds what has arrived.
        router: the channel's socket; this loop's thread owns it.
        interrupts: delivers SIGINT to the handlers.
        has_priority: messages that may be handled while a cell waits; None: none.
    """

    channel = "shell"

    def __init__(
        self,
        kernel: Kernel,
        router: zmq.Socket[bytes],
        interrupts: Interrupts,
        has_priority: Matches | None = None,
    ) -> None:
        super().__init__(kernel, ReplySocket(router, interrupts.close_window))
        self._queue = kernel.message_queue
        self._interrupts = interrupts
        self._has_priority = has_priority
        self._arrived = asyncio.Event()
        self._is_free = False  # no request is being handled
        self._suspended: tuple[Any, Any] = (b"", {})  # the parent of the cell that waits
        self._tasks: set[asyncio.Task[None]] = set()
        self._waker = _Waker()

    async def serve(self) -> None:
        """Answer requests until cancelled."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._replies.fileno(), self._on_readable)
        try:
            while True:
                # The descriptor is edge-triggered: clear first, then receive until the queue is
                # empty. A message that arrives in between sets the event again.
                self._arrived.clear()
                await self._drain()
                self._is_free = True
                await self._arrived.wait()
                self._is_free = False
        finally:
            loop.remove_reader(self._replies.fileno())
            self._waker.close()

    def _on_readable(self) -> None:
        if self._is_free or self._has_priority is None:
            self._arrived.set()
        else:
            self._start_priority_messages()

    async def _drain(self) -> None:
        turn = Turn()
        while True:
            try:
                frames, aborting = self._queue.pop()
            except zmq.Again:
                return
            await self.dispatch(frames, aborting)
            if turn.is_over:
                self._is_free = True
                await asyncio.sleep(0)
                self._is_free = False
                turn.restart()

    def _set_parent(self, identities: Any, message: dict[str, Any]) -> None:
        super()._set_parent(identities, message)
        self._kernel.output.set_parent(message)

    async def _run(self, function: Callable[..., Any], *arguments: Any) -> None:
        on_suspend = self._on_suspend if self._has_priority is not None else None
        await self._interrupts.run(function, *arguments, on_suspend=on_suspend)

    # --- messages with priority -----------------------------------------------------------------

    def run_until(self, done: Callable[[], bool], deadline: float | None) -> bool:
        """Handle messages with priority, and no others, while a cell blocks the loop.

        Args:
            done: called after each message and each `wake`; True ends the wait.
            deadline: on the clock of ``time.monotonic()``; None: none.

        Returns:
            Whether ``done()`` was True before the deadline.

        Raises:
            KeyboardInterrupt: SIGINT arrived.
        """
        self._remember_parent()
        with selectors.DefaultSelector() as selector:
            selector.register(self._replies.fileno(), selectors.EVENT_READ)
            selector.register(self._waker.descriptor, selectors.EVENT_READ)
            while True:
                # An interrupt between two frames would leave half a message in the socket.
                with self._interrupts.deferred():
                    self._waker.clear()
                    for frames in self._queue.pop_matching(self._may_overtake):
                        self._run_blocking(frames)
                    self._arrived.set()  # the socket does not report deferred messages again
                if done():
                    return True
                left = LONGEST_WAIT if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    return False
                selector.select(min(left, LONGEST_WAIT))

    def wake(self) -> None:
        """Let `run_until` call ``done`` again; from any thread."""
        self._waker.wake()

    async def deliver(self, matches: Matches) -> None:
        """Handle the messages that match and have arrived, before all others."""
        for frames in self._queue.pop_arrived(matches):
            await self._dispatch_priority(frames)
        self._arrived.set()  # the socket does not report deferred messages again

    def _may_overtake(self, frames: Frames) -> bool:
        return self._has_priority is not None and self._has_priority(frames)

    def _on_suspend(self) -> None:
        if not self._is_free:
            self._remember_parent()
            # Messages that have arrived already are not reported again.
            self._start_priority_messages()

    def _start_priority_messages(self) -> None:
        for frames in self._queue.pop_matching(self._may_overtake):
            task = asyncio.ensure_future(self._dispatch_priority(frames))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _remember_parent(self) -> None:
        kernel = self._kernel
        self._suspended = kernel.parent_identities(self.channel), kernel.get_parent(self.channel)

    async def _dispatch_priority(self, frames: Frames) -> None:
        used = self._replies.used
        await self.dispatch(frames)
        self._replies.used = used
        if not self._is_free:
            # Output of threads and of C code belongs to the request that was set last.
            self._set_parent(*self._suspended)

    def _run_blocking(self, frames: Frames) -> None:
        """Handle a message while the loop is blocked."""
        handling = self._dispatch_priority(frames)
        try:
            contextvars.copy_context().run(handling.send, None)
        except StopIteration:
            return
        log.warning("a comm message was dropped: its handler awaits, in a blocking request")
        handling.close()


class _Waker:
    """A descriptor that any thread makes readable."""

    def __init__(self) -> None:
        self._write_end, self._read_end = socket.socketpair()
        self._write_end.setblocking(False)
        self._read_end.setblocking(False)

    @property
    def descriptor(self) -> int:
        return self._read_end.fileno()

    def wake(self) -> None:
        with contextlib.suppress(OSError):  # full: readable already; closed: no wait any more
            self._write_end.send(b"\0")

    def clear(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._read_end.recv(4096)

    def close(self) -> None:
        self._write_end.close()
        self._read_end.close()
