"""The clients and managers of `echokernel.client`, derived from jupyter_client's.

They differ in two things: the IOPub socket subscribes before it connects (S1), and
``wait_for_ready`` returns as soon as the kernel has answered and the subscription is proved (S2).
The wait itself is in `ready`, its rules are in `protocol.readiness`.
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
from .channels import AsyncBufferingChannel, BufferingChannel, ObservedChannel, mix_in
from .jupyter_client_compat import Message
from .ready import WelcomeMixin, subscribed_socket

READER_POLL_INTERVAL = 0.005
"""Seconds between two checks of the wait while another task reads IOPub."""


class BlockingWelcomeClient(WelcomeMixin, BlockingKernelClient):
    """jupyter_client's ``BlockingKernelClient`` with a wait that ends at the welcome."""

    _channel_class = BufferingChannel
    wait_for_ready = run_sync(WelcomeMixin._wait_until_ready)

    @contextmanager
    def _observing(self, readiness: Readiness) -> Iterator[Any]:
        with self._observed_iopub(readiness.received) as channel:
            poller = zmq.Poller()
            poller.register(channel.socket, zmq.POLLIN)

            async def poll(shell: zmq.Socket[bytes], seconds: float) -> None:
                poller.register(shell, zmq.POLLIN)
                poller.poll(_milliseconds(seconds))
                channel.buffer_pending(self.log)

            yield poll


class AsyncWelcomeClient(WelcomeMixin, AsyncKernelClient):
    """jupyter_client's ``AsyncKernelClient`` with a wait that ends at the welcome."""

    _channel_class = AsyncBufferingChannel
    wait_for_ready = WelcomeMixin._wait_until_ready

    @contextmanager
    def _observing(self, readiness: Readiness) -> Iterator[Any]:
        with self._observed_iopub(readiness.received) as channel:

            async def poll(shell: zmq.Socket[bytes], seconds: float) -> None:
                poller = zmq.asyncio.Poller()
                poller.register(shell, zmq.POLLIN)
                if channel.readers:
                    seconds = min(seconds, READER_POLL_INTERVAL)
                else:
                    poller.register(channel.socket, zmq.POLLIN)
                await poller.poll(_milliseconds(seconds))
                await channel.buffer_pending(self.log)

            yield poll


class ThreadedWelcomeClient(WelcomeMixin, ThreadedKernelClient):
    """jupyter_client's ``ThreadedKernelClient`` with a ``wait_for_ready``, which it lacks.

    ``wait_for_ready`` can be called from any thread except the loop's. The callbacks get every
    message, also during the wait.
    """

    _channel_class = ObservedChannel
    wait_for_ready = run_sync(WelcomeMixin._wait_until_ready)

    @contextmanager
    def _observing(self, readiness: Readiness) -> Iterator[Any]:
        wakeup, waker = socket.socketpair()
        wakeup.setblocking(False)

        def observe(message: Message) -> None:  # Runs in the loop's thread.
            readiness.received(message)
            # If the socket is full, the wait is awake. If it is closed, the wait has ended. An
            # exception here would keep the message from the callbacks.
            with suppress(OSError):
                waker.send(b"!")

        with wakeup, waker, self._observed_iopub(observe):
            waker.setblocking(False)
            poller = zmq.Poller()
            poller.register(wakeup, zmq.POLLIN)

            async def poll(shell: zmq.Socket[bytes], seconds: float) -> None:
                poller.register(shell, zmq.POLLIN)
                if wakeup in dict(poller.poll(_milliseconds(seconds))):
                    wakeup.recv(4096)

            yield poll


def _milliseconds(seconds: float) -> int:
    """Return whole milliseconds, rounded up: a wait of 0 ms would be a busy loop."""
    return int(seconds * 1000) + 1


# --- managers ---------------------------------------------------------------------------------


def with_welcome(client_class: type[Any]) -> type[Any]:
    """Return a subclass of ``client_class`` that waits for the welcome.

    Args:
        client_class: derived from one of jupyter_client's three client classes.

    Raises:
        TypeError: ``client_class`` is not derived from any of them.
    """
    for welcome_class, stock_class in (
        (BlockingWelcomeClient, BlockingKernelClient),
        (AsyncWelcomeClient, AsyncKernelClient),
        (ThreadedWelcomeClient, ThreadedKernelClient),
    ):
        if issubclass(client_class, stock_class):
            extended: type[Any] = mix_in(welcome_class, client_class)
            return extended
    raise TypeError(
        f"{client_class.__name__} is not derived from jupyter_client's BlockingKernelClient,"
        " AsyncKernelClient or ThreadedKernelClient"
    )


class WelcomeManagerMixin(KernelManager):
    """Makes the clients of a kernel manager wait for the welcome.

    List it before the manager's class. A client class that was configured, or set by an application
    such as ``jupyter console``, is extended, not replaced.
    """

    def client(self, **options: Any) -> Any:
        """Return a client of this manager's kernel, as jupyter_client's ``client`` does.

        The client has its own session id unless ``options`` contain a ``session``.
        """
        factory: Any = self.client_factory
        self.client_factory = with_welcome(factory)
        client = super().client(**options)
        if "session" not in options:
            # jupyter_client gives the manager's session id to every client. The session id is the
            # client's ROUTER identity, and a kernel such as xeus does not answer a second client
            # with the same identity.
            client.session.session = str(uuid.uuid4())
        return client

    def connect_iopub(self, identity: bytes | None = None) -> Any:
        """Return an IOPub socket that is subscribed to everything, without a presence topic."""
        return subscribed_socket(self, identity=identity)


class WelcomeKernelManager(WelcomeManagerMixin, KernelManager):
    """jupyter_client's ``KernelManager`` with clients that wait for the welcome."""


class AsyncWelcomeKernelManager(WelcomeManagerMixin, AsyncKernelManager):
    """jupyter_client's ``AsyncKernelManager`` with clients that wait for the welcome."""
