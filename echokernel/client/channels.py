"""IOPub channels that keep what a wait has read, in order, for whoever reads next.

Two more things they do: ``on_message``, if set, sees each message first; and a ``parent_header``
that is null (xeus) is read as ``{}``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from jupyter_client.channels import AsyncZMQSocketChannel, ZMQSocketChannel
from jupyter_client.threaded import ThreadedZMQSocketChannel

AT_ONCE = 100
"""Messages until a wait looks at its clock again: a kernel may publish faster than we read."""

Inspector = Callable[[dict[str, Any]], object]


def tidied(message: dict[str, Any]) -> dict[str, Any]:
    """Return the message with a dict where its reader expects one.

    Every client of jupyter_client's asks ``message["parent_header"].get(...)``: null is the end
    of it.
    """
    if message["parent_header"] is None:
        message["parent_header"] = {}
    return message


@lru_cache
def joined(own: Any, given: Any) -> Any:
    """Return ``given`` with what ``own`` adds to the same base."""
    if issubclass(own, given):
        return own
    if issubclass(given, own):
        return given
    # Its own metaclass: Qt's classes have one. Its own methods first: what it overrides stays, and
    # its `super()` is ours.
    named = {"__module__": given.__module__}
    return type(given)(f"Welcome{given.__name__}", (given, own), named)


class KeepingChannel(ZMQSocketChannel):
    """A blocking channel."""

    on_message: Inspector | None = None

    def __init__(self, socket: Any, session: Any, loop: Any = None) -> None:
        super().__init__(socket, session, loop)
        self._kept: deque[dict[str, Any]] = deque()

    def keep_what_is_ready(self, log: Any) -> None:
        """Receive what has arrived, and keep it; what is no genuine message is logged."""
        for _ in range(AT_ONCE):
            if not super().msg_ready():
                return
            try:
                message = self._recv()
            except (ValueError, TypeError, KeyError) as error:
                log.warning("dropped a message that is not genuine: %s", error)
                continue
            self._kept.append(message)

    def _recv(self, **options: Any) -> dict[str, Any]:
        message = tidied(super()._recv(**options))
        if self.on_message is not None:
            self.on_message(message)
        return message

    def get_msg(self, timeout: float | None = None) -> dict[str, Any]:
        """Return the next message; what was kept comes first.

        Raises:
            queue.Empty: none within ``timeout`` seconds; None waits for ever.
        """
        if self._kept:
            return self._kept.popleft()
        return super().get_msg(timeout)

    def msg_ready(self) -> bool:
        """Return whether a message is kept or has arrived."""
        return bool(self._kept) or super().msg_ready()


class AsyncKeepingChannel(AsyncZMQSocketChannel):
    """An asyncio channel."""

    on_message: Inspector | None = None

    def __init__(self, socket: Any, session: Any, loop: Any = None) -> None:
        super().__init__(socket, session, loop)
        self._kept: deque[dict[str, Any]] = deque()
        self.readers = 0
        """Tasks that wait for a message: they read, and a wait only looks on. A message that it
        kept would not wake them."""

    async def keep_what_is_ready(self, log: Any) -> None:
        """Receive what has arrived, and keep it; what is no genuine message is logged."""
        for _ in range(AT_ONCE):
            if self.readers or not await super().msg_ready() or self.readers:
                return
            try:
                message = await self._recv()
            except (ValueError, TypeError, KeyError) as error:
                log.warning("dropped a message that is not genuine: %s", error)
                continue
            self._kept.append(message)

    async def _recv(  # type: ignore[override]
        self, **options: Any
    ) -> dict[str, Any]:
        message = tidied(await super()._recv(**options))
        if self.on_message is not None:
            self.on_message(message)
        return message

    async def get_msg(  # type: ignore[override]
        self, timeout: float | None = None
    ) -> dict[str, Any]:
        """Return the next message; what was kept comes first.

        Raises:
            queue.Empty: none within ``timeout`` seconds; None waits for ever.
        """
        if self._kept:
            return self._kept.popleft()
        self.readers += 1
        try:
            return await super().get_msg(timeout)
        finally:
            self.readers -= 1

    async def msg_ready(self) -> bool:  # type: ignore[override]
        """Return whether a message is kept or has arrived."""
        return bool(self._kept) or await super().msg_ready()


class WatchedThreadedChannel(ThreadedZMQSocketChannel):
    """A channel with a thread's event loop and callbacks: they get everything, nothing is kept."""

    on_message: Inspector | None = None

    def _inspect(self, message: dict[str, Any]) -> None:  # type: ignore[override]
        """Called in the loop's thread, before the callbacks."""
        tidied(message)
        on_message = self.on_message
        if on_message is not None:
            on_message(message)
