"""Comm messages that are handled before requests that came earlier.

Shell is read one request after the other, so an answer that a cell waits for would lie behind
that very cell. While a cell waits, by ``await`` or in a blocking request, comm messages are
handled as they come, and everything else is kept in its order.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import contextvars
import json
import logging
import selectors
import socket
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import zmq

from ...protocol.wire import DELIMITER
from ..interrupts import Interrupts

COMM_MESSAGES = ("comm_open", "comm_msg", "comm_close")

WAIT_AT_ONCE = 0.1
"""Seconds of one wait: on Windows a longer one cannot be interrupted."""

Frames = list[bytes]


class Overtaking:
    """Reads shell's socket past requests that have to wait. Belongs to the kernel's loop.

    Args:
        router: shell's socket.
        receive: returns a message that has arrived there, or raises ``zmq.Again``.
        dispatch: handles a message, and leaves what it finds there in place.
        keep: is called when requests are kept here, to be had by `receive` before others.
        interrupts: lets SIGINT end a blocking wait.
    """

    def __init__(
        self,
        router: zmq.Socket[bytes],
        receive: Callable[[], Frames],
        dispatch: Callable[[Frames], Coroutine[Any, Any, None]],
        keep: Callable[[], None],
        interrupts: Interrupts,
        log: logging.Logger,
    ) -> None:
        self._socket = router
        self._receive_new = receive
        self._dispatch = dispatch
        self._keep = keep
        self._interrupts = interrupts
        self._log = log
        self.kept: collections.deque[Frames] = collections.deque()
        self._has_comm_messages = False  # among those that are kept
        self._tasks: set[asyncio.Task[None]] = set()
        self._waker, self._wakened = socket.socketpair()
        self._wakened.setblocking(False)
        self._waker.setblocking(False)

    def close(self) -> None:
        self._waker.close()
        self._wakened.close()

    def receive(self) -> Frames:
        """Return the next message: one that was kept, else a new one; or raise ``zmq.Again``."""
        return self.kept.popleft() if self.kept else self._receive_new()

    def while_awaiting(self) -> None:
        """Handle comm messages that have arrived: the cell that runs waits for something."""
        for frames in self._comm_messages():
            task = asyncio.ensure_future(self._dispatch(frames))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def until(self, done: Callable[[], bool], deadline: float | None) -> bool:
        """Handle comm messages, nothing else, until ``done()``; tell whether it is.

        Args:
            deadline: when to give up, as ``time.monotonic()`` counts; None: never.

        Raises:
            KeyboardInterrupt: SIGINT came.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self._socket.fileno(), selectors.EVENT_READ)
            selector.register(self._wakened, selectors.EVENT_READ)
            while True:
                # An interrupt between two frames would leave half a message in the socket.
                with self._interrupts.held_back():
                    with contextlib.suppress(BlockingIOError):
                        self._wakened.recv(4096)
                    for frames in self._comm_messages():
                        self._run(frames)
                if done():
                    return True
                left = WAIT_AT_ONCE if deadline is None else deadline - time.monotonic()
                if left <= 0:
                    return False
                selector.select(min(left, WAIT_AT_ONCE))

    def wake(self) -> None:
        """Let `until` look at ``done`` again; from any thread."""
        with contextlib.suppress(OSError):  # full: it will look anyhow; closed: it has ended
            self._waker.send(b"\0")

    async def hand_out_answers(self, *queues: collections.deque[Frames]) -> None:
        """C1: hand out the answers to requests of ours that have arrived; ``queues`` has some."""
        with contextlib.suppress(zmq.Again):
            while True:
                self._keep_back(self._receive_new())
        self._has_comm_messages = True
        for queue in (*queues, self.kept):
            for frames in _taken_out(queue, _is_answer):
                await self._dispatch(frames)

    def _comm_messages(self) -> Iterator[Frames]:
        if self._has_comm_messages:
            self._has_comm_messages = False
            yield from _taken_out(self.kept, _is_comm_message)
        while True:
            try:
                frames = self._receive_new()
            except zmq.Again:
                return
            if _is_comm_message(frames):
                yield frames
            else:
                self._keep_back(frames)

    def _keep_back(self, frames: Frames) -> None:
        self.kept.append(frames)
        self._keep()

    def _run(self, frames: Frames) -> None:
        """Handle a message while the loop stands still."""
        handling = self._dispatch(frames)
        try:
            contextvars.copy_context().run(handling.send, None)
        except StopIteration:
            return
        self._log.warning("a comm message was dropped: its handler awaits, in a blocking request")
        handling.close()


def _taken_out(queue: collections.deque[Frames], wanted: Callable[[Frames], bool]) -> list[Frames]:
    """Remove what is wanted; the rest keeps its order."""
    taken: list[Frames] = []
    for _ in range(len(queue)):
        frames = queue.popleft()
        (taken if wanted(frames) else queue).append(frames)
    return taken


def _is_comm_message(frames: Frames) -> bool:
    return _part(frames, 2).get("msg_type") in COMM_MESSAGES


def _is_answer(frames: Frames) -> bool:
    if _part(frames, 2).get("msg_type") != "comm_msg":
        return False
    from ...protocol import json_rpc  # here: a kernel starts faster without it

    return json_rpc.is_answer(_part(frames, 5).get("data"))


def _part(frames: Frames, place: int) -> dict[str, Any]:
    """Return the JSON object so many frames behind the delimiter; nothing is verified yet."""
    try:
        value = json.loads(frames[frames.index(DELIMITER) + place])
    except (ValueError, LookupError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
