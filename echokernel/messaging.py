"""Requests on shell and control: received, checked, bracketed by busy and idle, answered.

`ChannelLoop` reads one ROUTER: shell on the main thread, where user code runs, and control on
`ControlThread`, which stays free.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any

import zmq
from ipykernel.thread import CONTROL_THREAD_NAME
from tornado.ioloop import IOLoop

from .kernelbase import Kernel, Session, error_content, flush_streams
from .streams import OutStream

TURN = 0.005
"""Seconds of requests after which timers and other tasks get their turn."""


class ChannelLoop:
    """Reads one channel's ROUTER, one request after the other.

    Args:
        kernel: whose handlers answer.
        channel: ``"shell"`` or ``"control"``.
        router: the channel's socket; this loop's thread owns it.
    """

    def __init__(self, kernel: Kernel, channel: str, router: zmq.Socket[bytes]) -> None:
        self._kernel = kernel
        self._channel = channel
        self._socket = router
        self._log: logging.Logger = kernel.log
        self._handlers: dict[str, Any] = getattr(kernel, f"{channel}_handlers")

    async def serve(self) -> None:
        """Answer requests until cancelled."""
        loop = asyncio.get_running_loop()
        arrived = asyncio.Event()
        loop.add_reader(self._socket.fileno(), arrived.set)
        try:
            while True:
                # The descriptor is edge-triggered: forget the edge first, then read until
                # there is nothing, or a message that comes in between would lie there.
                arrived.clear()
                await self._drain()
                await arrived.wait()
        finally:
            loop.remove_reader(self._socket.fileno())

    async def _drain(self) -> None:
        turn_ends = time.monotonic() + TURN
        while True:
            try:
                frames = self._socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                if self._channel != "shell" or not self._kernel._aborting:
                    return
                # Everything that had arrived when the cell failed has been aborted.
                if not await self._arrives_while_aborting():
                    self._kernel._aborting = False
                continue
            await self._dispatch(frames)
            if time.monotonic() > turn_ends:
                await asyncio.sleep(0)
                turn_ends = time.monotonic() + TURN

    async def _arrives_while_aborting(self) -> bool:
        """Give requests that are on their way ``stop_on_error_timeout`` seconds to arrive."""
        if not self._kernel.stop_on_error_timeout:
            return False
        await asyncio.sleep(self._kernel.stop_on_error_timeout)
        return bool(int(self._socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN)

    async def _dispatch(self, frames: Sequence[bytes]) -> None:
        kernel = self._kernel
        try:
            identities, message = self._read(frames)
        except Exception as error:
            # K4: bad signature, replayed, or no message at all: dropped, logged, nothing else.
            self._log.warning("%s: dropped a message: %s", self._channel, error)
            return
        kernel.set_parent(identities, message, channel=self._channel)
        if self._channel == "shell":
            for stream in (sys.stdout, sys.stderr):
                if isinstance(stream, OutStream):
                    stream.set_parent(message)
        # K4: every request, an unknown one too, stands between busy and idle.
        kernel._publish_status("busy", self._channel)
        try:
            await self._handle(identities, message)
        finally:
            flush_streams()
            kernel._publish_status("idle", self._channel)

    def _read(self, frames: Sequence[bytes]) -> tuple[list[bytes], dict[str, Any]]:
        session: Session = self._kernel.session
        identities, rest = session.feed_identities(list(frames))
        message = session.deserialize(rest)
        for part in ("header", "parent_header", "metadata", "content"):
            if not isinstance(message[part], dict):
                raise TypeError(f"{part} is not a JSON object")
        if not isinstance(message["msg_type"], str) or not isinstance(message["msg_id"], str):
            raise TypeError("msg_type and msg_id must be strings")
        return identities, message

    async def _handle(self, identities: list[bytes], message: dict[str, Any]) -> None:
        kernel, msg_type = self._kernel, message["msg_type"]
        if kernel._aborting and self._channel == "shell" and msg_type == "execute_request":
            kernel._send_abort_reply(self._socket, message, identities)
            return
        handler = self._handlers.get(msg_type)
        if handler is None:
            self._log.warning("%s: unknown message type %r", self._channel, msg_type)
            return
        try:
            wanted = kernel.should_handle(self._socket, message, identities)
            if not (await wanted if inspect.isawaitable(wanted) else wanted):
                return
            result = handler(self._socket, identities, message)
            if inspect.isawaitable(result):
                await result
        except (Exception, KeyboardInterrupt) as error:
            self._log.error("%s: %s failed: %r", self._channel, msg_type, error)
            self._reply_error(identities, message, error)

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


class ControlThread(threading.Thread):
    """Serves the control channel (K3), however long user code keeps the main thread.

    Its loop also runs the timers of the output streams.
    """

    def __init__(self) -> None:
        # ipykernel's get_parent() knows the control thread by this name.
        super().__init__(name=CONTROL_THREAD_NAME, daemon=True)
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
