"""Ends requests and comms when their subscribers disconnect (C1-C4).

The publisher's thread reports disconnects. They are applied on the kernel's loop only, after the
messages that had arrived on shell before.
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

from ...protocol.comm_lifecycle import NO_SUBSCRIBER, CommLifecycle, EndedComms, LiveComm
from ...protocol.subscriptions import LastSubscriberLeft, SessionDisconnected
from ..interrupts import Interrupts
from ..iopub.publisher import IOPub
from ..kernelbase import Kernel
from ..shell import ShellLoop
from ..turns import Turn
from .manager import Comm, CommManager
from .priority import is_response

log = logging.getLogger("echokernel")

MAX_QUEUED = 50
"""Messages that may wait for the publisher while comms are closed: those of an execute request
wait behind them."""

QUEUE_POLL = 0.001
"""Seconds between checks of that number."""

SHUTDOWN = "the kernel shuts down"


class CommReaper:
    """Ends the comms of a manager, and is the `requests.CommHost` of all its comms.

    Args:
        manager: of the comms.
        kernel: publishes comm messages; its traits have the grace period and the switch.
        iopub: knows the subscribers and reports disconnects.
        shell: delivers messages that have arrived, and waits in blocking requests.
        interrupts: runs close handlers.
    """

    def __init__(
        self,
        manager: CommManager,
        kernel: Kernel,
        iopub: IOPub,
        shell: ShellLoop,
        interrupts: Interrupts,
    ) -> None:
        self._manager = manager
        self._kernel = kernel
        self._iopub = iopub
        self._lifecycle = CommLifecycle(iopub.connections.subscribers, kernel.comm_grace_period)
        self._shell = shell
        self._interrupts = interrupts
        self._is_over = False
        self.loop = asyncio.get_running_loop()
        # Messages that are published without a request belong to none.
        self._context = contextvars.copy_context()
        kernel.clear_parent(self._context)
        self._events: collections.deque[SessionDisconnected | LastSubscriberLeft]
        self._events = collections.deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._timer: asyncio.TimerHandle | None = None

    # --- called by comms and their manager (CommHost) -----------------------------------------

    def publish(
        self,
        msg_type: str,
        content: dict[str, Any],
        topic: bytes,
        parent: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """Publish a comm message; ``parent`` None: it belongs to the current request."""
        kernel = self._kernel
        parent = kernel.get_parent() if parent is None else parent
        kernel.session.send(
            kernel.iopub_socket, msg_type, content, parent=parent, ident=topic, **options
        )

    @property
    def requesting_session(self) -> str | None:
        """The id of the session whose request the kernel handles now."""
        parent = self._kernel.get_parent()
        session = parent.get("header", {}).get("session") if parent else None
        return session if isinstance(session, str) else None

    def opened(self, comm: BaseComm) -> None:
        """Note an open comm; from any thread."""
        persistent = self._manager.is_persistent(comm)
        session = self._manager.session_of(comm.comm_id)
        live = LiveComm(comm.comm_id, comm.topic, session, persistent)
        self._lifecycle.opened(live, time.monotonic())
        if self._timer is None and self._lifecycle.due_at is not None:
            self._call_on_loop(self._set_timer)

    def closed(self, comm_id: str) -> None:
        """Remove a comm."""
        self._lifecycle.closed(comm_id)

    def disconnect_reason(self, topic: bytes) -> str | None:
        """Return why no client can answer a message on ``topic``; None if one can."""
        if self._is_over:
            return SHUTDOWN
        if not self._kernel.comm_lifecycle:
            return None
        subscribers = self._iopub.connections.subscribers
        return None if subscribers.has_subscriber(topic) else NO_SUBSCRIBER

    def run_until(self, done: Callable[[], bool], deadline: float | None) -> bool:
        """Wait while the loop is blocked; return True if ``done()`` before the deadline."""

        def check() -> bool:
            while self._events and not done():
                self._fail_requests(self._events.popleft())
            if self._is_over and not done():
                self._disconnect_all()
            return done()

        return self._shell.run_until(check, deadline)

    # --- called from other threads ------------------------------------------------------------

    def on_disconnect(self, event: SessionDisconnected | LastSubscriberLeft) -> None:
        """Apply a disconnect on the kernel's loop."""
        if self._kernel.comm_lifecycle:  # also without a comm: one may wait on shell to be opened
            self._events.append(event)
            self._call_on_loop(self._start_applying)

    def shut_down(self) -> None:
        """End all requests, since no client will read the responses (C6)."""
        self._is_over = True
        self._call_on_loop(self._disconnect_all)

    def _call_on_loop(self, function: Callable[[], None]) -> None:
        try:
            self.loop.call_soon_threadsafe(function, context=self._context)
        except RuntimeError:
            return  # the loop is closed: no request can be pending any more
        self._shell.wake()

    # --- on the kernel's loop -----------------------------------------------------------------

    def _disconnect_all(self) -> None:
        self._disconnect(EndedComms(tuple(self._manager.comms), SHUTDOWN))

    def _start_applying(self) -> None:
        self._start(self._apply_events())

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _apply_events(self) -> None:
        # C1: responses that have already arrived are delivered.
        if self._manager.comms:
            await self._shell.deliver(is_response)
        while self._events:
            self._fail_requests(self._events.popleft())

    def _fail_requests(self, event: SessionDisconnected | LastSubscriberLeft) -> None:
        self._disconnect(self._lifecycle.apply(event, time.monotonic()))
        self._set_timer()

    def _disconnect(self, ended: EndedComms) -> None:
        comms = self._manager.comms
        for comm_id in ended.comm_ids:
            comm = comms.get(comm_id)
            if isinstance(comm, Comm) and comm.pending:
                comm.disconnect(ended.reason)

    def _set_timer(self) -> None:
        due_at = self._lifecycle.due_at
        if self._timer is None and due_at is not None:
            delay = max(0.0, due_at - time.monotonic())
            self._timer = self.loop.call_later(delay, self._on_timer, context=self._context)

    def _on_timer(self) -> None:
        self._timer = None
        self._start(self._close_due())

    async def _close_due(self) -> None:
        for ended in self._lifecycle.due(time.monotonic(), MAX_QUEUED):
            await self._close(ended)
        self._set_timer()  # for the remaining deadlines

    async def _close(self, ended: EndedComms) -> None:
        """Close comms, a few at a time (C2)."""
        log.info("%d comm(s) are closed: %s", len(ended.comm_ids), ended.reason)
        turn = Turn()
        for comm_id in ended.comm_ids:
            comm = self._manager.comms.get(comm_id)
            if comm is not None:
                await self._close_one(comm, ended.reason)
            if turn.is_over or self._iopub.waiting > MAX_QUEUED:
                await asyncio.sleep(0)
                while self._iopub.waiting > MAX_QUEUED:
                    await asyncio.sleep(QUEUE_POLL)
                turn.restart()

    async def _close_one(self, comm: BaseComm, reason: str) -> None:
        if isinstance(comm, Comm):
            comm.disconnect(reason)
        # C2: the message that the close handler gets when the frontend closes a comm.
        content = {"comm_id": comm.comm_id, "data": {}}
        header = {"msg_type": "comm_close"}
        message = {"header": header, "content": content, "metadata": {}, "buffers": []}
        try:
            comm.close()
            await self._interrupts.run(comm.handle_close, message)
        except (Exception, KeyboardInterrupt):
            # C2: a handler that raises does not keep the others from being called.
            log.exception("a close handler of the comm %s failed", comm.comm_id)


def attach_reaper(
    manager: CommManager, kernel: Kernel, iopub: IOPub, shell: ShellLoop, interrupts: Interrupts
) -> None:
    """End comms, and requests over them, with their subscribers and with the kernel."""
    reaper = CommReaper(manager, kernel, iopub, shell, interrupts)
    manager.serve(kernel, reaper)
    iopub.connections.on_disconnect = reaper.on_disconnect
    kernel.at_shutdown.append(reaper.shut_down)
