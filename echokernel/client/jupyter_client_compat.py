"""Private names of jupyter_client that the clients rely on, private methods that they override
included.

No other module of ``client/`` uses such a name. ``tests/test_upstream_names.py`` lists each of
them and fails when a release of jupyter_client drops one.
"""

from __future__ import annotations

import time
from typing import Any

from jupyter_client.channels import AsyncZMQSocketChannel, HBChannel, ZMQSocketChannel
from jupyter_client.threaded import ThreadedZMQSocketChannel

Message = dict[str, Any]

THREAD_POLL = 0.001
"""Seconds between two checks whether the heartbeat thread has started."""


# --- channels -----------------------------------------------------------------------------------


class BlockingReceiver(ZMQSocketChannel):
    """A blocking channel that passes each received message to `received`."""

    def received(self, message: Message) -> None:
        """Handle a message before its reader gets it; subclasses override this."""

    def receive(self) -> Message:
        """Return the next message; block until there is one.

        Raises:
            ValueError, TypeError, KeyError: the message is invalid or its signature is wrong.
        """
        return self._recv()

    def _recv(self, **options: Any) -> Message:
        message: Message = super()._recv(**options)
        self.received(message)
        return message


class AsyncReceiver(AsyncZMQSocketChannel):
    """An asyncio channel that passes each received message to `received`."""

    def received(self, message: Message) -> None:
        """Handle a message before its reader gets it; subclasses override this."""

    async def receive(self) -> Message:
        """Return the next message; wait until there is one.

        Raises:
            ValueError, TypeError, KeyError: the message is invalid or its signature is wrong.
        """
        return await self._recv()

    async def _recv(self, **options: Any) -> Message:  # type: ignore[override]
        message: Message = await super()._recv(**options)
        self.received(message)
        return message


class ThreadedReceiver(ThreadedZMQSocketChannel):
    """A channel with callbacks that passes each received message to `received` first."""

    def received(self, message: Message) -> None:
        """Handle a message in the loop's thread, before the callbacks; subclasses override this."""

    def _inspect(self, message: Message) -> None:  # type: ignore[override]
        self.received(message)


# --- clients ------------------------------------------------------------------------------------


def iopub_url(node: Any) -> str:
    """Return the ZeroMQ address of the IOPub channel that a client or manager knows."""
    return str(node._make_url("iopub"))


def has_iopub_channel(client: Any) -> bool:
    """Return True if the client has created its IOPub channel."""
    return client._iopub_channel is not None


def adapt_to_protocol(client: Any, reply: Message) -> None:
    """Let the client's session use the protocol version of the kernel.

    Args:
        client: a jupyter_client client.
        reply: the kernel's ``kernel_info_reply``.
    """
    client._handle_kernel_info_reply(reply)


# --- liveness -----------------------------------------------------------------------------------


def running_heartbeat(client: Any) -> Any:
    """Return the client's heartbeat channel, or None if it is not running or is paused."""
    heartbeat = client._hb_channel
    if heartbeat is None or not heartbeat.is_alive() or getattr(heartbeat, "_pause", False):
        return None
    return heartbeat


def await_heartbeat_thread(client: Any, timeout: float) -> None:
    """Block until the heartbeat thread of the client has started.

    A heartbeat thread that is stopped before it has started never ends. It then creates sockets
    until the process has no file descriptor left ("Too many open files"; jupyter_client 8.10).

    Args:
        client: a jupyter_client client.
        timeout: seconds to wait at most.
    """
    heartbeat = client._hb_channel
    deadline = time.monotonic() + timeout
    while isinstance(heartbeat, HBChannel) and heartbeat.is_alive() and not heartbeat._running:
        if time.monotonic() > deadline:
            return
        time.sleep(THREAD_POLL)


async def is_alive(manager: Any) -> bool:
    """Return True if the kernel process of a manager, blocking or asyncio, is alive."""
    return bool(await manager._async_is_alive())
