"""IOPub channels for a client that waits for its kernel. When such a wait ends is not decided here.

The blocking and the asyncio channel buffer the messages that arrive during a wait, so that the next
reader gets them in order. Each channel can have one observer. Each channel replaces a null
``parent_header`` by ``{}``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from .jupyter_client_compat import AsyncReceiver, BlockingReceiver, Message, ThreadedReceiver

BATCH_SIZE = 100
"""Messages that are buffered before the wait checks its deadline again: a kernel can publish
faster than a client reads."""

INVALID_MESSAGE = (ValueError, TypeError, KeyError)
"""Exceptions that jupyter_client raises for an invalid message or a wrong signature."""

Observer = Callable[[Message], object]


def normalize_parent(message: Message) -> None:
    """Replace a null ``parent_header``, as xeus sends it, by ``{}``.

    Clients built on jupyter_client call ``message["parent_header"].get(...)`` and fail on null.
    """
    if message["parent_header"] is None:
        message["parent_header"] = {}


@lru_cache
def mix_in(own: Any, base: Any) -> Any:
    """Return a class that derives from ``base`` and adds the methods of ``own``.

    Args:
        own: a class of this package.
        base: a class of jupyter_client, or one that a user derived from it.
    """
    if issubclass(own, base):
        return own
    if issubclass(base, own):
        return base
    # The metaclass of `base`, because Qt's classes have one. `base` comes first: its overrides stay
    # effective, and its `super()` calls reach `own`.
    namespace = {"__module__": base.__module__}
    return type(base)(f"Welcome{base.__name__}", (base, own), namespace)


class _Observed:
    """The common part of the three channels.

    Attributes:
        observer: called with each message when it is received.
    """

    observer: Observer | None = None

    def received(self, message: Message) -> None:
        """Normalize the message and pass it to the observer."""
        normalize_parent(message)
        observer = self.observer  # Read once: another thread can reset it at any time.
        if observer is not None:
            observer(message)


class BufferingChannel(_Observed, BlockingReceiver):
    """A blocking channel with a buffer."""

    def __init__(self, socket: Any, session: Any, loop: Any = None) -> None:
        super().__init__(socket, session, loop)
        self._buffer: deque[Message] = deque()

    def buffer_pending(self, log: Any) -> None:
        """Receive and buffer the messages that have arrived; log and drop invalid ones."""
        for _ in range(BATCH_SIZE):
            if not super().msg_ready():
                return
            try:
                message = self.receive()
            except INVALID_MESSAGE as error:
                log.warning("dropped an invalid IOPub message: %s", error)
                continue
            self._buffer.append(message)

    def get_msg(self, timeout: float | None = None) -> Message:
        """Return the next message, buffered messages first.

        Raises:
            queue.Empty: no message within ``timeout`` seconds; None means no limit.
        """
        if self._buffer:
            return self._buffer.popleft()
        return super().get_msg(timeout)

    def msg_ready(self) -> bool:
        """Return True if a message is buffered or has arrived."""
        return bool(self._buffer) or super().msg_ready()


class AsyncBufferingChannel(_Observed, AsyncReceiver):
    """An asyncio channel with a buffer.

    Attributes:
        readers: number of tasks that are waiting in `get_msg`. While there are any, they receive
            the messages and nothing is buffered: a buffered message would not wake them.
    """

    def __init__(self, socket: Any, session: Any, loop: Any = None) -> None:
        super().__init__(socket, session, loop)
        self.readers = 0
        self._buffer: deque[Message] = deque()

    async def buffer_pending(self, log: Any) -> None:
        """Receive and buffer the messages that have arrived; log and drop invalid ones."""
        for _ in range(BATCH_SIZE):
            if self.readers or not await super().msg_ready() or self.readers:
                return
            try:
                message = await self.receive()
            except INVALID_MESSAGE as error:
                log.warning("dropped an invalid IOPub message: %s", error)
                continue
            self._buffer.append(message)

    async def get_msg(  # type: ignore[override]
        self, timeout: float | None = None
    ) -> Message:
        """Return the next message, buffered messages first.

        Raises:
            queue.Empty: no message within ``timeout`` seconds; None means no limit.
        """
        if self._buffer:
            return self._buffer.popleft()
        self.readers += 1
        try:
            return await super().get_msg(timeout)
        finally:
            self.readers -= 1

    async def msg_ready(self) -> bool:  # type: ignore[override]
        """Return True if a message is buffered or has arrived."""
        return bool(self._buffer) or await super().msg_ready()


class ObservedChannel(_Observed, ThreadedReceiver):
    """A channel with callbacks.

    The observer is called in the loop's thread, before the callbacks. The callbacks get every
    message, so that nothing is buffered.
    """
