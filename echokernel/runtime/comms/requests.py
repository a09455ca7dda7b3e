"""JSON-RPC 2.0 over one comm, in both directions (SPEC C6).

A request always ends: in a result, an error, a timeout that the caller chose, or
`CommDisconnected`.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from ...protocol.errors import CommDisconnected, CommRequestError, CommTimeout
from ...protocol.json_rpc import (
    INTERNAL_ERROR,
    METHOD_NOT_FOUND,
    Answer,
    Batch,
    Invalid,
    Received,
    Request,
    pack_answer,
    pack_request,
)
from ..interrupts import is_awaitable

_ID = "echokernel-"
_numbers = itertools.count(1)

log = logging.getLogger("echokernel")

Outcome = Answer | None | Coroutine[Any, Any, Answer | None]


class Endings(Protocol):
    """What requests and comms have to know of the running kernel; see `comm_endings`."""

    loop: asyncio.AbstractEventLoop

    def opened(self, comm: Any) -> None: ...

    def closed(self, comm_id: str) -> None: ...

    def why_unheard(self, comm: Any) -> str | None: ...

    def wait_for(self, done: Callable[[], bool], deadline: float | None) -> bool: ...


class Carrier(Protocol):
    """A comm, as far as requests need one."""

    comm_id: str

    @property
    def session(self) -> str | None: ...

    @property
    def is_closed(self) -> bool: ...

    @property
    def endings(self) -> Endings | None: ...

    def send(self, data: Any) -> None: ...


class Requests:
    """The requests over ``comm``; ``methods`` are those that the frontend can call."""

    def __init__(self, comm: Carrier) -> None:
        self._comm = comm
        self.methods: dict[str, Callable[[Any], Any]] = {}
        self._waiting: dict[str, asyncio.Future[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # --- to the frontend ------------------------------------------------------------------------

    @property
    def pending(self) -> int:
        return sum(not answer.done() for answer in self._waiting.values())

    async def ask(self, method: str, params: Any, timeout: float | None) -> Any:
        id_, answer = self._send(method, params, asyncio.get_running_loop())
        try:
            await asyncio.wait([answer], timeout=timeout)
            if not answer.done() and timeout is not None:
                raise CommTimeout(method, timeout, self._comm.comm_id)
            return answer.result()
        finally:
            self._waiting.pop(id_, None)

    def ask_blocking(self, method: str, params: Any, timeout: float | None) -> Any:
        endings = self._comm.endings
        if endings is None:
            raise RuntimeError("comm requests need a kernel that runs")
        if threading.current_thread() is not threading.main_thread():
            asking = self.ask(method, params, timeout)
            return asyncio.run_coroutine_threadsafe(asking, endings.loop).result()
        deadline = None if timeout is None else time.monotonic() + timeout
        id_, answer = self._send(method, params, endings.loop)
        try:
            if not endings.wait_for(answer.done, deadline):
                assert timeout is not None
                raise CommTimeout(method, timeout, self._comm.comm_id)
            return answer.result()
        finally:
            self._waiting.pop(id_, None)

    def _send(
        self, method: str, params: Any, loop: asyncio.AbstractEventLoop
    ) -> tuple[str, asyncio.Future[Any]]:
        comm = self._comm
        endings = comm.endings
        if comm.is_closed:
            raise CommDisconnected("it is closed", comm.comm_id, comm.session)
        if endings is not None and (why := endings.why_unheard(comm)) is not None:
            raise CommDisconnected(why, comm.comm_id, comm.session)
        id_ = f"{_ID}{next(_numbers)}"
        answer = self._waiting[id_] = loop.create_future()
        try:
            comm.send(pack_request(Request(method, params, id_)))
        except BaseException:
            del self._waiting[id_]
            raise
        return id_, answer

    def fail(self, reason: str) -> None:
        """Let every pending request fail."""
        for answer in self._waiting.values():
            if not answer.done():
                answer.set_exception(
                    CommDisconnected(reason, self._comm.comm_id, self._comm.session)
                )

    # --- from the frontend ----------------------------------------------------------------------

    def take(self, received: Received, others: bool) -> bool:
        """Handle a message; False: it is not for us, but for the ``others`` that listen."""
        items = received.items if isinstance(received, Batch) else (received,)
        if not self.methods and others and not any(self._is_ours(item) for item in items):
            return False
        outcomes = [self._handle(item) for item in items]
        if any(asyncio.iscoroutine(outcome) for outcome in outcomes):
            task = asyncio.ensure_future(self._answer_later(outcomes, isinstance(received, Batch)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            answers = [outcome for outcome in outcomes if isinstance(outcome, Answer)]
            self._answer(answers, isinstance(received, Batch))
        return True

    @staticmethod
    def _is_ours(item: Received) -> bool:
        return isinstance(item, Answer) and str(item.id).startswith(_ID)

    async def _answer_later(self, outcomes: list[Outcome], in_one: bool) -> None:
        answers = [
            await outcome if asyncio.iscoroutine(outcome) else outcome for outcome in outcomes
        ]
        self._answer([answer for answer in answers if isinstance(answer, Answer)], in_one)

    def _answer(self, answers: list[Answer], in_one: bool) -> None:
        if not answers:
            return  # notifications get none
        if self._comm.is_closed:
            log.warning("%d answer(s) are not sent: the comm %s is closed", len(answers),
                        self._comm.comm_id)  # fmt: skip
            return
        packed = [pack_answer(answer) for answer in answers]
        data: Any = packed if in_one else packed[0]
        self._comm.send(data)

    def _handle(self, item: Received) -> Outcome:
        if isinstance(item, Answer):
            self._settle(item)
        elif isinstance(item, Invalid):
            return Answer(item.id, error=item.error) if item.wants_answer else None
        elif isinstance(item, Request):
            return self._call(item)
        return None

    def _settle(self, item: Answer) -> None:
        waiting = self._waiting.get(item.id) if isinstance(item.id, str) else None
        if waiting is None or waiting.done():
            # C5: it comes late, or another client was faster.
            log.warning("comm %s: an answer to no pending request was dropped: %r",
                        self._comm.comm_id, item.id)  # fmt: skip
        elif item.error is not None:
            waiting.set_exception(item.error)
        else:
            waiting.set_result(item.result)

    def _call(self, request: Request) -> Outcome:
        function = self.methods.get(request.method)
        try:
            if function is None:
                raise CommRequestError(METHOD_NOT_FOUND, f"there is no method {request.method}")
            result = function(request.params)
        except (Exception, KeyboardInterrupt) as error:
            return self._failed(request, error)
        if is_awaitable(result):
            return self._call_later(request, result)
        return Answer(request.id, result) if request.wants_answer else None

    async def _call_later(self, request: Request, awaitable: Any) -> Answer | None:
        try:
            result = await awaitable
        except (Exception, KeyboardInterrupt, asyncio.CancelledError) as error:
            return self._failed(request, error)
        return Answer(request.id, result) if request.wants_answer else None

    def _failed(self, request: Request, error: BaseException) -> Answer | None:
        if not isinstance(error, CommRequestError):
            text = f"{type(error).__name__}: {error}"
            if not isinstance(error, CommDisconnected):
                log.error("comm %s: %s failed: %s", self._comm.comm_id, request.method, text)
            error = CommRequestError(INTERNAL_ERROR, text)
        return Answer(request.id, error=error) if request.wants_answer else None
