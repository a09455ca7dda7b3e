"""The control channel: a thread that user code never keeps busy, and its loop (K3)."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import zmq
from tornado.ioloop import IOLoop

from . import zmq_multipart
from .dispatch import Dispatcher, ReplySocket
from .iopub.queue import CONTROL_THREAD
from .kernelbase import Kernel
from .turns import Turn


class ControlLoop(Dispatcher):
    """Answers control requests, one after the other.

    Args:
        kernel: its handlers answer.
        router: the channel's socket; this loop's thread owns it.
    """

    channel = "control"

    def __init__(self, kernel: Kernel, router: zmq.Socket[bytes]) -> None:
        super().__init__(kernel, ReplySocket(router))
        self._router = router

    async def serve(self) -> None:
        """Answer requests until cancelled."""
        loop = asyncio.get_running_loop()
        arrived = asyncio.Event()
        receive = zmq_multipart.receiver(self._router)
        loop.add_reader(self._router.fileno(), arrived.set)
        try:
            while True:
                # The descriptor is edge-triggered: clear first, then receive until the socket is
                # empty. A message that arrives in between sets the event again.
                arrived.clear()
                turn = Turn()
                while True:
                    try:
                        frames = receive()
                    except zmq.Again:
                        break
                    await self.dispatch(frames)
                    await turn.end_if_over()
                await arrived.wait()
        finally:
            loop.remove_reader(self._router.fileno())


class ControlThread(threading.Thread):
    """Runs the control channel's loop (K3). The timers of the output streams run there, too."""

    def __init__(self) -> None:
        super().__init__(name=CONTROL_THREAD, daemon=True)
        self.loop = asyncio.new_event_loop()
        self._task: asyncio.Task[None] | None = None

    def run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    @property
    def io_loop(self) -> Any:
        """The same loop as a tornado IOLoop, as kernel authors expect it."""
        return IOLoop(asyncio_loop=self.loop, make_current=False)

    def serve(self, control: ControlLoop) -> None:
        """Begin to answer control requests."""

        def begin() -> None:
            self._task = self.loop.create_task(control.serve())

        self.loop.call_soon_threadsafe(begin)

    def stop(self) -> None:
        """Finish the current request, then end the thread; the caller owns the socket again."""
        if self.is_alive():
            asyncio.run_coroutine_threadsafe(self._cancel(), self.loop).result()
            self.loop.call_soon_threadsafe(self.loop.stop)
            self.join()
        self.loop.close()

    async def _cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
