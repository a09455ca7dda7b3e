"""Requests on shell and control: received, checked, bracketed by busy and idle, answered.

`ChannelLoop` reads one ROUTER: shell on the main thread, where user code runs, and control on
`ControlThread`, which stays free.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import zmq
from tornado.ioloop import IOLoop

from . import zmq_multipart
from .comms.priority import Overtaking
from .interrupts import Interrupts, is_awaitable
from .iopub.publisher import CONTROL_THREAD
from .kernelbase import Kernel, error_content, flush_streams
from .output.streams import OutStream

TURN = 0.005
"""Seconds of requests after which timers and other tasks get their turn."""


class ChannelLoop:
    """Reads one channel's ROUTER, one request after the other.

    Args:
        kernel: whose handlers answer.
        channel: ``"shell"`` or ``"control"``.
        router: the channel's socket; this loop's thread owns it.
        interrupts: lets SIGINT into the handlers; for shell, on the main thread.
    """

    def __init__(
        self,
        kernel: Kernel,
        channel: str,
        router: zmq.Socket[bytes],
        interrupts: Interrupts | None = None,
    ) -> None:
        self._kernel = kernel
        self._channel = channel
        self._socket = router
        self._interrupts = interrupts
        self._pid = os.getpid()
        self._log: logging.Logger = kernel.log
        self._receive = zmq_multipart.receiver(router)
        self._replies = _ReplySocket(router, interrupts)
        self._to_abort: collections.deque[list[bytes]] = collections.deque()
        self._abort_until = 0.0
        self._handlers: dict[str, Any] = getattr(kernel, f"{channel}_handlers")
        self._arrived = asyncio.Event()
        self._is_free = False  # no request is in hand
        self._outer: tuple[Any, Any] = (b"", {})  # the request that comm messages overtake
        self.overtaking: Overtaking | None = None
        if interrupts is not None:
            self.overtaking = Overtaking(
                router, self._receive, self._dispatch_between, self._keep, interrupts, self._log
            )
            interrupts.on_suspend = self._on_suspend

    async def serve(self) -> None:
        """Answer requests until cancelled."""
        loop = asyncio.get_running_loop()
        arrived = self._arrived

        def readable() -> None:
            if self._is_free or self.overtaking is None:
                arrived.set()
            else:
                self.overtaking.while_awaiting()

        loop.add_reader(self._socket.fileno(), readable)
        try:
            while True:
                # The descriptor is edge-triggered: forget the edge first, then read until
                # there is nothing, or a message that comes in between would lie there.
                arrived.clear()
                await self._drain()
                self._is_free = True
                await arrived.wait()
                self._is_free = False
        finally:
            loop.remove_reader(self._socket.fileno())
            if self.overtaking is not None:
                self.overtaking.close()

    def abort_waiting(self) -> None:
        """Take in all requests that have arrived: executes among them are to be aborted."""
        self._abort_until = time.monotonic() + self._kernel.stop_on_error_timeout
        with contextlib.suppress(zmq.Again):
            while True:
                self._to_abort.append(self._receive())

    # --- comm messages that overtake (overtaking.py) ------------------------------------------

    def wait_for(self, done: Callable[[], bool], deadline: float | None) -> bool:
        """Handle comm messages until ``done()``, while a cell blocks; see `Overtaking.until`."""
        assert self.overtaking is not None
        self._remember_outer()
        return self.overtaking.until(done, deadline)

    async def hand_out_answers(self) -> None:
        """C1: handle the answers to the kernel's requests over comms that have arrived."""
        assert self.overtaking is not None
        await self.overtaking.hand_out_answers(self._to_abort)

    def _on_suspend(self) -> None:
        assert self.overtaking is not None
        if not self._is_free:
            self._remember_outer()
            self.overtaking.while_awaiting()  # what has arrived already: nobody would tell of it

    def _remember_outer(self) -> None:
        self._outer = self._kernel._parent_ident["shell"], self._kernel.get_parent("shell")

    def _keep(self) -> None:
        """Have requests that were kept back before others; nothing of it is on the usual way."""
        assert self.overtaking is not None
        self._receive = self.overtaking.receive
        self._arrived.set()  # the socket will not tell of them again

    async def _dispatch_between(self, frames: Sequence[bytes]) -> None:
        used = self._replies.used
        await self._dispatch(frames, aborting=False)
        self._replies.used = used
        if not self._is_free:
            # Threads, and C code's output, go by the request that was set last.
            identities, outer = self._outer
            self._kernel.set_parent(identities, outer, channel="shell")
            self._let_output_belong_to(outer)

    # --- requests -----------------------------------------------------------------------------

    async def _drain(self) -> None:
        turn_ends = time.monotonic() + TURN
        while True:
            try:
                aborting = bool(self._to_abort)
                frames = self._to_abort.popleft() if aborting else self._receive()
            except zmq.Again:
                return
            await self._dispatch(frames, aborting or time.monotonic() < self._abort_until)
            if time.monotonic() > turn_ends:
                self._is_free = True
                await asyncio.sleep(0)
                self._is_free = False
                turn_ends = time.monotonic() + TURN

    async def _dispatch(self, frames: Sequence[bytes], aborting: bool) -> None:
        kernel = self._kernel
        try:
            identities, message = kernel.session.read(frames)
            kernel.set_parent(identities, message, channel=self._channel)
            if self._channel == "shell":
                self._let_output_belong_to(message)
            # K4: every request, an unknown one too, stands between busy and idle.
            kernel._publish_status("busy", self._channel, message)
        except Exception as error:
            # K4: bad signature, replayed, or no message at all (also one that cannot be named as
            # parent: NaN, a lone surrogate): dropped, logged, nothing else.
            self._log.warning("%s: dropped a message: %s", self._channel, error)
            return
        try:
            await self._handle(identities, message, aborting)
        finally:
            if os.getpid() != self._pid:
                _end_child()
            flush_streams(self._log)
            kernel._publish_status("idle", self._channel, message)

    def _let_output_belong_to(self, message: dict[str, Any]) -> None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, OutStream):
                stream.set_parent(message)

    async def _handle(
        self, identities: list[bytes], message: dict[str, Any], aborting: bool
    ) -> None:
        kernel, msg_type = self._kernel, message["msg_type"]
        if aborting and msg_type == "execute_request":
            kernel._send_abort_reply(self._socket, message, identities)
            return
        handler = self._handlers.get(msg_type)
        if handler is None and msg_type not in kernel.shell_handlers:
            self._log.warning("%s: unknown message type %r", self._channel, msg_type)
            return
        self._replies.used = False
        try:
            if self._interrupts is not None:
                await self._interrupts.run(self._answer, handler, identities, message)
            else:
                await self._answer(handler, identities, message)
        except (Exception, KeyboardInterrupt) as error:
            self._log.error("%s: %s failed: %r", self._channel, msg_type, error)
            if not self._replies.used:
                self._reply_error(identities, message, error)

    async def _answer(self, handler: Any, identities: list[bytes], message: dict[str, Any]) -> None:
        if handler is None:
            raise ValueError(f"{message['msg_type']} is for the shell channel")
        wanted = self._kernel.should_handle(self._replies, message, identities)
        if await wanted if is_awaitable(wanted) else wanted:
            result = handler(self._replies, identities, message)
            if is_awaitable(result):
                await result

    def _reply_error(
        self, identities: list[bytes], message: dict[str, Any], error: BaseException
    ) -> None:
        """Answer a request whose handler failed: a client waits for a reply, not for a log."""
        request = message["msg_type"]
        if request.endswith("_request"):
            self._kernel.session.send(
                self._socket,
                request.removesuffix("_request") + "_reply",
                {"status": "error", **error_content(error)},
                parent=message,
                ident=identities,
            )


def _end_child() -> None:
    """End a child that user code forked and that did not end itself.

    It would serve on its parent's sockets; and it shares the parent's epoll: when its event loop
    is closed, the parent hears nothing any more.
    """
    error = sys.exc_info()[1]
    code = error.code if isinstance(error, SystemExit) else error and 1
    os._exit(code if isinstance(code, int) else code is not None)


class _ReplySocket:
    """What a handler replies on: a reply is never torn apart by an interrupt."""

    def __init__(self, router: zmq.Socket[bytes], interrupts: Interrupts | None) -> None:
        self._socket = router
        self._send = zmq_multipart.sender(router)
        self._interrupts = interrupts
        self.used = False

    def send_multipart(
        self, frames: Sequence[Any], flags: int = 0, copy: bool = True, track: bool = False
    ) -> Any:
        zmq_multipart.check(frames)
        # pyzmq lets Python's signal handlers run in every send: one that raises between two
        # frames leaves half a message, and the next reply is appended to it.
        if self._interrupts is not None:
            self._interrupts.shut()
        self.used = True
        if track:
            return self._socket.send_multipart(frames, flags, copy, track)
        return self._send(frames, copy, flags)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


class ControlThread(threading.Thread):
    """Serves the control channel (K3), however long user code keeps the main thread.

    Its loop also runs the timers of the output streams.
    """

    def __init__(self) -> None:
        super().__init__(name=CONTROL_THREAD, daemon=True)
        self.loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None

    def run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    @property
    def io_loop(self) -> Any:
        """The same loop, as kernels of other authors ask for it."""
        return IOLoop(asyncio_loop=self.loop, make_current=False)

    def serve(self, control: ChannelLoop) -> None:
        """Begin to answer control requests."""

        def begin() -> None:
            self._task = self.loop.create_task(control.serve())

        self.loop.call_soon_threadsafe(begin)

    def stop(self) -> None:
        """Finish the request in hand, then end the thread; the socket is the caller's again."""
        if self.is_alive():
            asyncio.run_coroutine_threadsafe(self._cancel(), self.loop).result()
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.join()
        self.loop.close()

    async def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
