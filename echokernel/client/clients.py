"""The clients and managers that `echokernel.client` offers, derived from jupyter_client's.

Two things differ from jupyter_client: the IOPub socket subscribes before it connects (S1), and
``wait_for_ready`` returns as soon as the kernel has answered and the subscription is proved (S2).
The rules of the wait are in `protocol.readiness`.
"""

from __future__ import annotations

import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import zmq
import zmq.asyncio
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import AsyncKernelManager, KernelManager
from jupyter_client.threaded import ThreadedKernelClient
from jupyter_core.utils import run_sync

from ..protocol.readiness import Readiness
from .channels import AsyncKeepingChannel, KeepingChannel, WatchedThreadedChannel, joined
from .ready import WelcomeMixin, subscribed_socket

BESIDE_READERS = 0.005
"""Seconds between looks when somebody else reads IOPub."""


class BlockingWelcomeClient(WelcomeMixin, BlockingKernelClient):
    """jupyter_client's ``BlockingKernelClient``, with a wait that ends at the welcome."""

    _channel_class = KeepingChannel
    wait_for_ready = run_sync(WelcomeMixin._async_wait_for_ready)

    @contextmanager
    def _watching(self, wait: Readiness) -> Iterator[Any]:
        with self._listening(wait.received) as channel:
            poller = zmq.Poller()
            poller.register(channel.socket, zmq.POLLIN)

            async def see(shell: zmq.Socket[bytes], seconds: float) -> None:
                poller.register(shell, zmq.POLLIN)
                poller.poll(_milliseconds(seconds))
                channel.keep_what_is_ready(self.log)

            yield see


class AsyncWelcomeClient(WelcomeMixin, AsyncKernelClient):
    """jupyter_client's ``AsyncKernelClient``, with a wait that ends at the welcome."""

    _channel_class = AsyncKeepingChannel
    wait_for_ready = WelcomeMixin._async_wait_for_ready

    @contextmanager
    def _watching(self, wait: Readiness) -> Iterator[Any]:
        with self._listening(wait.received) as channel:

            async def see(shell: zmq.Socket[bytes], seconds: float) -> None:
                poller = zmq.asyncio.Poller()
                poller.register(shell, zmq.POLLIN)
                if channel.readers:
                    seconds = min(seconds, BESIDE_READERS)
                else:
                    poller.register(channel.socket, zmq.POLLIN)
                await poller.poll(_milliseconds(seconds))
                await channel.keep_what_is_ready(self.log)

            yield see


class ThreadedWelcomeClient(WelcomeMixin, ThreadedKernelClient):
    """jupyter_client's ``ThreadedKernelClient``, with a ``wait_for_ready``, which it lacks.

    Call that from any thread but the loop's. The callbacks get everything meanwhile.
    """

    _channel_class = WatchedThreadedChannel
    wait_for_ready = run_sync(WelcomeMixin._async_wait_for_ready)

    @contextmanager
    def _watching(self, wait: Readiness) -> Iterator[Any]:
        bell, rope = socket.socketpair()
        bell.setblocking(False)

        def on_message(message: dict[str, Any]) -> None:  # in the loop's thread
            wait.received(message)
            # Full: it is awake anyway. Closed: the wait has just ended. An error here would keep
            # the message from its callbacks.
            with suppress(OSError):
                rope.send(b"!")

        with bell, rope, self._listening(on_message):
            rope.setblocking(False)
            poller = zmq.Poller()
            poller.register(bell, zmq.POLLIN)

            async def see(shell: zmq.Socket[bytes], seconds: float) -> None:
                poller.register(shell, zmq.POLLIN)
                if bell in dict(poller.poll(_milliseconds(seconds))):
                    bell.recv(4096)

            yield see


def _milliseconds(seconds: float) -> int:
    """Round up: a poll that ends early would be a loop without a wait."""
    return int(seconds * 1000) + 1


# --- managers ---------------------------------------------------------------------------------


def welcoming(client_class: type[Any]) -> type[Any]:
    """Return a client class, derived from one of jupyter_client's, with our way to wait.

    Raises:
        TypeError: it is derived from none of the three.
    """
    for ours, theirs in (
        (BlockingWelcomeClient, BlockingKernelClient),
        (AsyncWelcomeClient, AsyncKernelClient),
        (ThreadedWelcomeClient, ThreadedKernelClient),
    ):
        if issubclass(client_class, theirs):
            extended: type[Any] = joined(ours, client_class)
            return extended
    raise TypeError(
        f"{client_class.__name__} is not derived from jupyter_client's BlockingKernelClient,"
        " AsyncKernelClient or ThreadedKernelClient"
    )


class WelcomeManagerMixin(KernelManager):
    """Makes a kernel manager's clients wait for the welcome; stands before the manager's class.

    Whatever client class was configured, or set by an application such as ``jupyter console``,
    is kept, and extended.
    """

    def client(self, **options: Any) -> Any:
        """Return a client of this manager's kernel; see jupyter_client's ``client``.

        It has a session id of its own, unless ``options`` hold its ``session``.
        """
        factory: Any = self.client_factory
        self.client_factory = welcoming(factory)
        client = super().client(**options)
        if "session" not in options:
            # jupyter_client gives all of them the manager's. It is their address at the kernel:
            # xeus does not answer a second one while it knows the first.
            client.session.session = str(uuid.uuid4())
        return client

    def connect_iopub(self, identity: bytes | None = None) -> Any:
        """Return an IOPub socket that is subscribed to everything; no client's presence."""
        return subscribed_socket(self, identity=identity)


class WelcomeKernelManager(WelcomeManagerMixin, KernelManager):
    """jupyter_client's ``KernelManager``, with clients that wait for the welcome."""


class AsyncWelcomeKernelManager(WelcomeManagerMixin, AsyncKernelManager):
    """jupyter_client's ``AsyncKernelManager``, with clients that wait for the welcome."""
