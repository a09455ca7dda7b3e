"""How a client subscribes to a kernel and waits for it, with any kind of channels (S1, S2).

`WelcomeMixin` is the common part of the three classes in `clients`; each of them adds the way it
polls its IOPub channel. The rules that end the wait are in `protocol.readiness`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import zmq
from jupyter_client.client import KernelClient
from jupyter_client.manager import KernelManager

from ..protocol.errors import KernelDied, NotReady
from ..protocol.readiness import Readiness
from . import jupyter_client_compat as compat
from .channels import INVALID_MESSAGE, mix_in
from .jupyter_client_compat import Message

LIVENESS_INTERVAL = 0.1
"""Seconds between two checks whether the kernel is alive."""

HEARTBEAT_START_TIMEOUT = 1.0
"""Seconds that the heartbeat thread can take to start."""

HEARTBEAT_TIMEOUT = 5.0
"""Seconds without a heartbeat after which a kernel that has answered counts as dead. A client sees
no process of a kernel that another program started."""

LINGER_MS = 1000
"""Milliseconds; the value that jupyter_client sets on its sockets."""


def presence_topic(session: str) -> bytes:
    """Return the topic that identifies the client with this session id to the kernel (C4, ours)."""
    return f"session.{session}".encode()


def subscribed_socket(
    node: Any, *topics: bytes, identity: bytes | None = None
) -> zmq.Socket[bytes]:
    """Return a SUB socket that is connected to a kernel's IOPub channel.

    Args:
        node: a jupyter_client client or manager, which knows the address of the kernel.
        topics: subscriptions in addition to the empty topic, which receives everything.
        identity: as in jupyter_client's ``connect_iopub``.
    """
    sub: zmq.Socket[bytes] = node.context.socket(zmq.SUB)
    sub.linger = LINGER_MS
    if identity:
        sub.identity = identity
    if node.curve_publickey is not None:
        sub.curve_secretkey = node.curve_secretkey
        sub.curve_publickey = sub.curve_serverkey = node.curve_publickey
    # The kernel sends each welcome once, when the subscription arrives (S1). jupyter_client's own
    # `connect_iopub` is not used, because it would subscribe a second time.
    for topic in (b"", *topics):
        sub.subscribe(topic)
    sub.connect(compat.iopub_url(node))
    return sub


class WelcomeMixin(KernelClient):
    """The common part of the three welcome clients."""

    _channel_class: Any

    def connect_iopub(self, identity: bytes | None = None) -> zmq.Socket[bytes]:
        """Return an IOPub socket that is subscribed to everything and to the presence topic."""
        return subscribed_socket(self, presence_topic(self.session.session), identity=identity)

    @property
    def iopub_channel(self) -> Any:
        """The IOPub channel. Messages that arrived during a wait are read from it, in order."""
        if not compat.has_iopub_channel(self):
            self.iopub_channel_class = mix_in(self._channel_class, self.iopub_channel_class)
        return super().iopub_channel

    def stop_channels(self) -> None:
        """Stop all channels, as jupyter_client does."""
        compat.await_heartbeat_thread(self, HEARTBEAT_START_TIMEOUT)
        super().stop_channels()

    async def _wait_until_ready(self, timeout: float | None = None) -> None:
        """Wait until the kernel has answered and its IOPub messages arrive here (S2).

        No message is discarded. Everything that arrives on IOPub during the wait, welcomes
        included, is read from the channel afterwards, in order.

        Args:
            timeout: seconds; None means no limit.

        Raises:
            KernelDied: the process of the kernel ended, or its heartbeat stopped; a
                ``RuntimeError``.
            NotReady: the timeout expired, or the channels are stopped; a ``RuntimeError``.
        """
        started = time.monotonic()
        deadline = started + (math.inf if timeout is None else timeout)
        readiness, liveness = Readiness(self.session.session), LivenessMonitor(self, started)
        with self._observing(readiness) as poll:
            # A separate socket: late replies to repeated requests must not reach the reader of the
            # client's shell channel.
            shell = self.connect_shell()
            try:
                while not readiness.is_over:
                    now = time.monotonic()
                    if not readiness.due_in(now):
                        readiness.sent(self._send_kernel_info_request(shell), now)
                    pause = min(LIVENESS_INTERVAL, readiness.due_in(now), max(0, deadline - now))
                    await poll(shell, pause)
                    self._read_replies(shell, readiness)
                    if not readiness.is_over:
                        self._check_deadline(readiness, started, deadline)
                        await liveness.poll(readiness)
            finally:
                shell.close(linger=0)
        reply: Any = readiness.reply
        if isinstance(reply["content"].get("protocol_version"), str):
            compat.adapt_to_protocol(self, reply)

    def _observing(self, readiness: Readiness) -> Any:
        """Return a context manager that passes IOPub messages to ``readiness``.

        It yields ``async poll(shell, seconds)``, which returns when a message has arrived on IOPub
        or on the ``shell`` socket, at the latest after ``seconds``.
        """
        raise NotImplementedError

    @contextmanager
    def _observed_iopub(self, observer: Callable[[Message], object]) -> Iterator[Any]:
        channel = self.iopub_channel
        if channel.socket is None:
            raise NotReady("the channels of this client are stopped; make a new client", 0.0)
        channel.observer = observer
        try:
            yield channel
        finally:
            channel.observer = None

    def _check_deadline(self, readiness: Readiness, started: float, deadline: float) -> None:
        """Raise NotReady if the deadline has passed."""
        now = time.monotonic()
        if now < deadline:
            return
        if readiness.reply is None:
            problem = (
                f"no reply to {readiness.requests} kernel_info_request(s); check that the kernel"
                " is running, that it is not busy, and that the connection file is the kernel's"
            )
        else:
            problem = (
                "it replies, but none of its IOPub messages arrives; check the iopub_port in the"
                " connection file"
            )
        raise NotReady(problem, now - started)

    def _send_kernel_info_request(self, shell: zmq.Socket[bytes]) -> str:
        """Send the request and return its message id."""
        message = self.session.msg("kernel_info_request", {})
        self.session.send(shell, message)
        return str(message["header"]["msg_id"])

    def _read_replies(self, shell: zmq.Socket[bytes], readiness: Readiness) -> None:
        while True:
            try:
                message = self.session.recv(shell, zmq.NOBLOCK)[1]
            except INVALID_MESSAGE as error:
                self.log.warning("dropped an invalid shell message: %s", error)
                continue
            if message is None:
                return
            readiness.replied(message, time.monotonic())


class LivenessMonitor:
    """Checks periodically during a wait whether the kernel of a client is alive.

    Args:
        client: a jupyter_client client.
        started: the start of the wait, in seconds on the monotonic clock.
    """

    def __init__(self, client: Any, started: float) -> None:
        self._client = client
        self._started = started
        self._next_check = started + LIVENESS_INTERVAL
        self._last_beat = started

    async def poll(self, readiness: Readiness) -> None:
        """Check the kernel if a check is due.

        Raises:
            KernelDied: the kernel is dead; the error has the known facts about the cause.
        """
        now = time.monotonic()
        if now < self._next_check:
            return
        self._next_check = now + LIVENESS_INTERVAL
        manager = self._client.parent
        managed = isinstance(manager, KernelManager)
        if managed and manager.provisioner is not None:
            if not await compat.is_alive(manager):
                raise await self._exit_error(manager, readiness)
            return
        heartbeat = compat.running_heartbeat(self._client)
        if heartbeat is not None and heartbeat.is_beating():
            self._last_beat = now
        elif readiness.reply is None and not readiness.has_received:
            self._last_beat = now  # The kernel may still be starting.
            # A manager that has started no kernel has no process to check: it may have loaded the
            # connection file of another program's kernel.
            if managed and now > self._started + HEARTBEAT_TIMEOUT:
                raise await self._exit_error(manager, readiness)
        elif heartbeat is not None and now > self._last_beat + HEARTBEAT_TIMEOUT:
            problem = f"the kernel sent no heartbeat for {HEARTBEAT_TIMEOUT:g} s"
            raise self._error(problem, readiness)

    async def _exit_error(self, manager: Any, readiness: Readiness) -> KernelDied:
        """Return the error for the dead kernel of a manager."""
        # Only HandshakeProvisioner knows the last lines of stderr. Other provisioners know at most
        # the exit status.
        exit_error = getattr(manager.provisioner, "exit_error", None)
        error: KernelDied | None = await exit_error() if exit_error else None
        if error is not None:
            return error
        if not manager.has_kernel:
            problem = "no kernel is running: it was not started, or it was shut down"
            return self._error(problem, readiness)
        status = await manager.provisioner.poll()
        problem = f"the kernel ended (status {status}) before it was ready"
        return self._error(problem, readiness, status)

    def _error(self, problem: str, readiness: Readiness, status: int | None = None) -> KernelDied:
        return KernelDied(
            problem,
            tried=f"{readiness.requests} kernel_info_request(s)",
            elapsed=time.monotonic() - self._started,
            exit_status=status,
        )
