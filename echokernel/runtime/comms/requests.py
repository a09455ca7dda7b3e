"""JSON-RPC 2.0 over one comm, in both directions (C6).

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
    Batch,
    Invalid,
    Received,
    Request,
    Response,
    pack_request,
    pack_response,
)
from ..interrupts import is_awaitable

ID_PREFIX = "echokernel-"
_numbers = itertools.count(1)

log = logging.getLogger("echokernel")

Outcome = Response | None | Coroutine[Any, Any, Response | None]


class CommHost(Protocol):
    """What comms, their manager and their requests need from the running kernel."""

    loop: asyncio.AbstractEventLoop

    @property
    def requesting_session(self) -> str | None: ...

    def publish(
        self,
        msg_type: str,
        content: dict[str, Any],
        topic: bytes,
        parent: dict[str, Any] | None = None,
        **options: Any,
    ) -> None: ...

    def opened(self, comm: Any) -> None: ...

    def closed(self, comm_id: str) -> None: ...

    def disconnect_reason(self, topic: bytes) -> str | None: ...

    def run_until(self, done: Callable[[], bool], deadline: float | None) -> bool: ...


class CommLike(Protocol):
    """What requests need from a comm."""

    comm_id: str
    topic: bytes

    @property
    def session(self) -> str | None: ...

    @property
    def is_closed(self) -> bool: ...

    @property
    def host(self) -> CommHost | None: ...

    def send(self, data: Any) -> None: ...


class Requests:
    """The requests over one comm.

    Args:
        comm: sends them.

    Attributes: ``methods`` (name -> function, for the frontend's requests).
    """

    def __init__(self, comm: CommLike) -> None:
        self._comm = comm
        self.methods: dict[str, Callable[[Any], Any]] = {}
        self._waiting: dict[str, asyncio.Future[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    # --- to the frontend ------------------------------------------------------------------------

    @property
    def pending(self) -> int:
        return sum(not response.done() for response in self._waiting.values())

    async def send(self, method: str, params: Any, timeout: float | None) -> Any:
        id_, response = self._send(method, params, asyncio.get_running_loop())
        try:
            await asyncio.wait([response], timeout=timeout)
            if not response.done() and timeout is not None:
                raise CommTimeout(method, timeout, self._comm.comm_id)
            return response.result()
        finally:
            self._waiting.pop(id_, None)

    def send_blocking(self, method: str, params: Any, timeout: float | None) -> Any:
        host = self._comm.host
        if host is None:
            raise RuntimeError("a comm request needs a running kernel")
        if threading.current_thread() is not threading.main_thread():
            sending = self.send(method, params, timeout)
            return asyncio.run_coroutine_threadsafe(sending, host.loop).result()
        deadline = None if timeout is None else time.monotonic() + timeout
        id_, response = self._send(method, params, host.loop)
        try:
            if not host.run_until(response.done, deadline):
                assert timeout is not None
                raise CommTimeout(method, timeout, self._comm.comm_id)
            return response.result()
        finally:
            self._waiting.pop(id_, None)

    def _send(
        self, method: str, params: Any, loop: asyncio.AbstractEventLoop
    ) -> tuple[str, asyncio.Future[Any]]:
        comm = self._comm
        host = comm.host
        if comm.is_closed:
            raise CommDisconnected("it is closed", comm.comm_id, comm.session)
        if host is not None and (reason := host.disconnect_reason(comm.topic)) is not None:
            raise CommDisconnected(reason, comm.comm_id, comm.session)
        id_ = f"{ID_PREFIX}{next(_numbers)}"
        response = self._waiting[id_] = loop.create_future()
        try:
            comm.send(pack_request(Request(method, params, id_)))
        except BaseException:
            del self._waiting[id_]
            raise
        return id_, response

    def fail(self, reason: str) -> None:
        """Let every pending request fail."""
        for response in self._waiting.values():
            if not response.done():
                response.set_exception(
                    CommDisconnected(reason, self._comm.comm_id, self._comm.session)
                )

    # --- from the frontend ----------------------------------------------------------------------

    def handle(self, received: Received, has_callback: bool) -> bool:
        """Handle a message; return False if it is for the comm's own callback instead."""
        items = received.items if isinstance(received, Batch) else (received,)
        if not self.methods and has_callback and not any(self._is_ours(item) for item in items):
            return False
        outcomes = [self._handle(item) for item in items]
        if any(asyncio.iscoroutine(outcome) for outcome in outcomes):
            task = asyncio.ensure_future(self._respond_later(outcomes, isinstance(received, Batch)))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        else:
            responses = [outcome for outcome in outcomes if isinstance(outcome, Response)]
            self._respond(responses, isinstance(received, Batch))
        return True

    @staticmethod
    def _is_ours(item: Received) -> bool:
        return isinstance(item, Response) and str(item.id).startswith(ID_PREFIX)

    async def _respond_later(self, outcomes: list[Outcome], as_batch: bool) -> None:
        responses = [
            await outcome if asyncio.iscoroutine(outcome) else outcome for outcome in outcomes
        ]
        self._respond([item for item in responses if isinstance(item, Response)], as_batch)

    def _respond(self, responses: list[Response], as_batch: bool) -> None:
        if not responses:
            return  # notifications get no response
        if self._comm.is_closed:
            log.warning("%d response(s) are not sent: the comm %s is closed", len(responses),
                        self._comm.comm_id)  # fmt: skip
            return
        packed = [pack_response(response) for response in responses]
        data: Any = packed if as_batch else packed[0]
        self._comm.send(data)

    def _handle(self, item: Received) -> Outcome:
        if isinstance(item, Response):
            self._settle(item)
        elif isinstance(item, Invalid):
            return Response(item.id, error=item.error) if item.wants_response else None
        elif isinstance(item, Request):
            return self._call(item)
        return None

    def _settle(self, item: Response) -> None:
        waiting = self._waiting.get(item.id) if isinstance(item.id, str) else None
        if waiting is None or waiting.done():
            # C5: it is late, or another client responded first.
            log.warning("comm %s: a response to no pending request was dropped: %r",
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
            return self._failure(request, error)
        if is_awaitable(result):
            return self._call_later(request, result)
        return Response(request.id, result) if request.wants_response else None

    async def _call_later(self, request: Request, awaitable: Any) -> Response | None:
        try:
            result = await awaitable
        except (Exception, KeyboardInterrupt, asyncio.CancelledError) as error:
            return self._failure(request, error)
        return Response(request.id, result) if request.wants_response else None

    def _failure(self, request: Request, error: BaseException) -> Response | None:
        if not isinstance(error, CommRequestError):
            text = f"{type(error).__name__}: {error}"
            if not isinstance(error, CommDisconnected):
                log.error("comm %s: %s failed: %s", self._comm.comm_id, request.method, text)
            error = CommRequestError(INTERNAL_ERROR, text)
        return Response(request.id, error=error) if request.wants_response else None
