"""How a client joins a kernel and waits for it, whatever its channels are (S1, S2).

`WelcomeMixin` is what the three clients of `client` share; each adds how it looks at its IOPub
channel. When the wait is over is decided in `protocol.readiness`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import zmq
from jupyter_client.channels import HBChannel
from jupyter_client.client import KernelClient
from jupyter_client.manager import KernelManager

from ..protocol.errors import KernelDied, NotReady
from ..protocol.readiness import Readiness
from .channels import joined

LOOK_EVERY = 0.1
"""Seconds between looks whether the kernel lives."""

HEART_START = 1.0
"""Seconds that the heartbeat's thread may take to begin."""

HEART_SILENCE = 5.0
"""Seconds without a heartbeat after which a kernel that had answered is dead. Of a kernel that
somebody else started we see no process."""


def presence_topic(session: str) -> bytes:
    """Return the topic by which a kernel knows the client of a session id (C4, ours)."""
    return f"session.{session}".encode()


def subscribed_socket(
    node: Any, *topics: bytes, identity: bytes | None = None
) -> zmq.Socket[bytes]:
    """Return a SUB socket, connected to a kernel's IOPub.

    Args:
        node: who knows where the kernel is: a client or a manager of jupyter_client's.
        topics: what to subscribe to besides everything.
        identity: as in jupyter_client's ``connect_iopub``.
    """
    sub: zmq.Socket[bytes] = node.context.socket(zmq.SUB)
    sub.linger = 1000  # milliseconds, as jupyter_client has it
    if identity:
        sub.identity = identity
    # jupyter_client before 8.9 does not encrypt.
    if getattr(node, "curve_publickey", None) is not None:
        sub.curve_secretkey = node.curve_secretkey
        sub.curve_publickey = sub.curve_serverkey = node.curve_publickey
    # S1: an XPUB socket sends its welcome once, when the subscription arrives. And once per topic:
    # jupyter_client's `connect_iopub` would subscribe again, and be welcomed again.
    for topic in (b"", *topics):
        sub.subscribe(topic)
    sub.connect(node._make_url("iopub"))
    return sub


class WelcomeMixin(KernelClient):
    """What the three clients share."""

    _channel_class: Any

    def connect_iopub(self, identity: bytes | None = None) -> zmq.Socket[bytes]:
        """Return an IOPub socket that is subscribed to everything and to the presence topic."""
        return subscribed_socket(self, presence_topic(self.session.session), identity=identity)

    @property
    def iopub_channel(self) -> Any:
        """The IOPub channel; what a wait has received is read from it, in order."""
        if self._iopub_channel is None:
            self.iopub_channel_class = joined(self._channel_class, self.iopub_channel_class)
        return super().iopub_channel

    def stop_channels(self) -> None:
        """Stop all channels, as jupyter_client does."""
        # Its heartbeat thread, if it is stopped before it runs, never ends: it makes sockets until
        # there are no more ("Too many open files").
        heart: Any = self._hb_channel
        latest = time.monotonic() + HEART_START
        while isinstance(heart, HBChannel) and heart.is_alive() and not heart._running:
            if time.monotonic() > latest:
                break
            time.sleep(0.001)
        super().stop_channels()

    async def _async_wait_for_ready(self, timeout: float | None = None) -> None:
        """Wait until the kernel has answered, and everything it publishes is heard.

        Nothing is thrown away: what came on IOPub meanwhile, welcomes included, is read from the
        channel afterwards, in order.

        Args:
            timeout: seconds; None waits for ever.

        Raises:
            KernelDied: the kernel's process ended, or its heart stopped; a ``RuntimeError``.
            NotReady: not within ``timeout``, or the channels do not run; a ``RuntimeError``.
        """
        begun = time.monotonic()
        deadline = begun + (math.inf if timeout is None else timeout)
        wait, death = Readiness(self.session.session), Death(self, begun)
        with self._watching(wait) as see:
            # Of our own: late answers to a second request must not surprise whoever reads shell.
            shell = self.connect_shell()
            try:
                while not wait.is_over:
                    now = time.monotonic()
                    if not wait.due_in(now):
                        wait.sent(self._ask(shell), now)
                    await see(shell, min(LOOK_EVERY, wait.due_in(now), max(0, deadline - now)))
                    self._take_answers(shell, wait)
                    if not wait.is_over:
                        self._give_up(wait, begun, deadline)
                        await death.look(wait)
            finally:
                shell.close(linger=0)
        self._adapt_to(wait.reply)

    def _watching(self, wait: Readiness) -> Any:
        """Tell ``wait`` of what comes on IOPub; yield ``async see(shell, seconds)``.

        It returns when something has come on either socket, or the seconds are over.
        """
        raise NotImplementedError

    @contextmanager
    def _listening(self, on_message: Callable[[dict[str, Any]], object]) -> Iterator[Any]:
        channel = self.iopub_channel
        if channel.socket is None:
            raise NotReady("its client's channels are stopped; make a new client", 0.0)
        channel.on_message = on_message
        try:
            yield channel
        finally:
            channel.on_message = None

    def _give_up(self, wait: Readiness, begun: float, deadline: float) -> None:
        """Raise NotReady when the time is over."""
        now = time.monotonic()
        if now < deadline:
            return
        if wait.reply is None:
            problem = (
                f"no answer to {wait.requests} kernel_info_request(s); it may be busy, or not run,"
                " or the connection file may be another kernel's"
            )
        else:
            problem = (
                "it answers, but nothing of what it publishes arrives; is its iopub_port the"
                " right one?"
            )
        raise NotReady(problem, now - begun)

    def _ask(self, shell: zmq.Socket[bytes]) -> str:
        """Send a ``kernel_info_request``; return its id."""
        message = self.session.msg("kernel_info_request", {})
        self.session.send(shell, message)
        return str(message["header"]["msg_id"])

    def _take_answers(self, shell: zmq.Socket[bytes], wait: Readiness) -> None:
        while True:
            try:
                message = self.session.recv(shell, zmq.NOBLOCK)[1]
            except (ValueError, TypeError, KeyError) as error:
                self.log.warning("dropped a message that is not genuine: %s", error)
                continue
            if message is None:
                return
            wait.replied(message, time.monotonic())

    def _adapt_to(self, answer: Any) -> None:
        """Take note of the kernel's protocol version, as jupyter_client does."""
        if isinstance(answer["content"].get("protocol_version"), str):
            self._handle_kernel_info_reply(answer)


class Death:
    """Looks now and then whether the kernel of a client lives."""

    def __init__(self, client: Any, begun: float) -> None:
        self._client = client
        self._begun = begun
        self._next = begun + LOOK_EVERY
        self._last_beat = begun

    async def look(self, wait: Readiness) -> None:
        """Raise KernelDied if the kernel is dead, with what is known of the cause."""
        now = time.monotonic()
        if now < self._next:
            return
        self._next = now + LOOK_EVERY
        manager = self._client.parent
        managed = isinstance(manager, KernelManager)
        if managed and manager.provisioner is not None:
            if not await manager._async_is_alive():
                raise await self._of(manager, wait)
            return
        heart = self._client._hb_channel
        if heart is not None and heart.is_alive() and not getattr(heart, "_pause", False):
            if heart.is_beating():
                self._last_beat = now
                return
            if (wait.reply or wait.has_received) and now > self._last_beat + HEART_SILENCE:
                raise self._error(f"no heartbeat of the kernel for {HEART_SILENCE:g} s", wait)
        if not (wait.reply or wait.has_received):
            self._last_beat = now  # nobody is there yet: a kernel may come up late
            # A manager that has started nothing may have loaded the connection file of somebody
            # else's kernel: it has no process to look at.
            if managed and now > self._begun + HEART_SILENCE:
                raise await self._of(manager, wait)

    async def _of(self, manager: Any, wait: Readiness) -> KernelDied:
        """Return why a manager's kernel is not there."""
        # Only our provisioner knows the last lines of stderr; any other knows the status at most.
        cause = getattr(manager.provisioner, "death", None)
        error: KernelDied | None = await cause() if cause else None
        if error is not None:
            return error
        if not manager.has_kernel:
            return self._error("no kernel runs: it was not started, or was shut down", wait)
        status = await manager.provisioner.poll()
        return self._error(f"the kernel ended (status {status}) before it was ready", wait, status)

    def _error(self, problem: str, wait: Readiness, status: int | None = None) -> KernelDied:
        return KernelDied(
            problem,
            tried=f"{wait.requests} kernel_info_request(s)",
            elapsed=time.monotonic() - self._begun,
            exit_status=status,
        )
