"""What ends when a subscriber leaves: requests at once, comms after a grace period (SPEC C1-C4).

A leave comes from IOPub's thread. It is acted upon on the kernel's loop alone, behind what had
arrived on shell before.
"""

from __future__ import annotations

import asyncio
import collections
import contextvars
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from comm.base_comm import BaseComm

from ...protocol.comm_lifecycle import NOBODY_LISTENS, CommLifecycle, Ended, LiveComm
from ...protocol.subscriptions import EveryoneLeft, SessionLeft
from ..interrupts import Interrupts
from ..iopub.publisher import IOPub
from ..shell import ChannelLoop
from .manager import Comm, CommManager

TURN = 0.005
"""Seconds of closing comms after which requests get their turn."""

AHEAD = 50
"""Messages that may wait on IOPub when more comms are closed: an execute's wait behind them."""

SHUTDOWN = "the kernel shuts down"


class CommEndings:
    """Ends the comms of ``manager``.

    Args:
        iopub: knows who listens, and tells of leaves.
        grace: seconds between a leave and the closing.
        shell: hands out what has arrived, and waits in blocking requests.
        is_on: False: nothing ends with its subscribers.
    """

    def __init__(
        self,
        manager: CommManager,
        iopub: IOPub,
        grace: float,
        shell: ChannelLoop,
        interrupts: Interrupts,
        log: logging.Logger,
        is_on: bool = True,
    ) -> None:
        self._manager = manager
        self._iopub = iopub
        self._subscribers = iopub.listeners.subscribers
        self._lifecycle = CommLifecycle(self._subscribers, grace)
        self._shell = shell
        self._interrupts = interrupts
        self._log = log
        self._is_on = is_on
        self._is_over = False
        self.loop = asyncio.get_running_loop()
        # What we publish on our own belongs to no request.
        self._context = contextvars.copy_context()
        if manager.kernel is not None:
            self._context.run(manager.kernel._shell_parent.set, {})
        self._left: collections.deque[SessionLeft | EveryoneLeft] = collections.deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None
        for comm in manager.comms.values():
            self.opened(comm)
        iopub.listeners.on_leave = self.on_leave

    # --- called by comms and their manager ----------------------------------------------------

    def opened(self, comm: BaseComm) -> None:
        """Take note of a comm."""
        persistent = self._manager.is_persistent(comm)
        session = self._manager.session_of(comm.comm_id)
        live = LiveComm(comm.comm_id, comm.topic, session, persistent)
        self._lifecycle.opened(live, time.monotonic())
        if self._timer is None and self._lifecycle.due_at is not None:
            self._hand_over(self._set_timer)  # whatever thread this is

    def closed(self, comm_id: str) -> None:
        """Forget a comm."""
        self._lifecycle.closed(comm_id)

    def why_unheard(self, comm: BaseComm) -> str | None:
        """Return why a request over ``comm`` cannot be answered; None if it can."""
        if self._is_over:
            return SHUTDOWN
        return NOBODY_LISTENS if self._is_on and not self._subscribers.hears(comm.topic) else None

    def wait_for(self, done: Callable[[], bool], deadline: float | None) -> bool:
        """Wait while the loop stands still; tell whether ``done()`` before the deadline."""

        def look() -> bool:
            while self._left and not done():
                self._fail_requests(self._left.popleft())
            if self._is_over and not done():
                self._disconnect_all()
            return done()

        return self._shell.wait_for(look, deadline)

    # --- called from other threads ------------------------------------------------------------

    def on_leave(self, event: SessionLeft | EveryoneLeft) -> None:
        """Hand a leave over to the kernel's loop."""
        if self._is_on:  # also if there are no comms: one may wait on shell to be opened
            self._left.append(event)
            self._hand_over(self._begin)

    def shut_down(self) -> None:
        """C6: let all requests end, since nobody will read their answers."""
        self._is_over = True
        self._hand_over(self._disconnect_all)

    def _hand_over(self, function: Callable[[], None]) -> None:
        try:
            self.loop.call_soon_threadsafe(function, context=self._context)
        except RuntimeError:
            return  # the loop is closed: there is nothing any more that could end
        if self._shell.overtaking is not None:
            self._shell.overtaking.wake()

    # --- on the kernel's loop -----------------------------------------------------------------

    def _disconnect_all(self) -> None:
        self._disconnect(Ended(tuple(self._manager.comms), SHUTDOWN))

    def _begin(self) -> None:
        self._spawn(self._handle_leaves())

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _handle_leaves(self) -> None:
        # C1: what has already arrived is delivered, not failed.
        if self._manager.comms:
            await self._shell.hand_out_answers()
        while self._left:
            self._fail_requests(self._left.popleft())

    def _fail_requests(self, event: SessionLeft | EveryoneLeft) -> None:
        self._disconnect(self._lifecycle.left(event, time.monotonic()))
        self._set_timer()

    def _disconnect(self, ended: Ended) -> None:
        comms = self._manager.comms
        for comm_id in ended.comm_ids:
            comm = comms.get(comm_id)
            if isinstance(comm, Comm) and comm.pending:
                comm.disconnect(ended.reason)

    def _set_timer(self) -> None:
        due_at = self._lifecycle.due_at
        if self._timer is None and due_at is not None:
            delay = max(0.0, due_at - time.monotonic())
            self._timer = self.loop.call_later(delay, self._time_is_over, context=self._context)

    def _time_is_over(self) -> None:
        self._timer = None
        self._spawn(self._close_due())

    async def _close_due(self) -> None:
        for ended in self._lifecycle.due(time.monotonic(), AHEAD):
            await self._close(ended)
        self._set_timer()  # for the rest of them, or for those whose time will come

    async def _close(self, ended: Ended) -> None:
        """C2: close comms, a few at a time."""
        self._log.info("%d comm(s) are closed: %s", len(ended.comm_ids), ended.reason)
        turn_ends = time.monotonic() + TURN
        for comm_id in ended.comm_ids:
            comm = self._manager.comms.get(comm_id)
            if comm is not None:
                await self._close_one(comm, ended.reason)
            if time.monotonic() > turn_ends or self._iopub.waiting > AHEAD:
                await asyncio.sleep(0)
                while self._iopub.waiting > AHEAD:
                    await asyncio.sleep(0.001)
                turn_ends = time.monotonic() + TURN

    async def _close_one(self, comm: BaseComm, reason: str) -> None:
        if isinstance(comm, Comm):
            comm.disconnect(reason)
        # C2: what the close handler of a comm that the frontend closes is given.
        content = {"comm_id": comm.comm_id, "data": {}}
        header = {"msg_type": "comm_close"}
        message = {"header": header, "content": content, "metadata": {}, "buffers": []}
        try:
            comm.close()
            await self._interrupts.run(comm.handle_close, message)
        except (Exception, KeyboardInterrupt):
            # C2: one handler that raises does not stop the others.
            self._log.exception("a close handler of the comm %s failed", comm.comm_id)
