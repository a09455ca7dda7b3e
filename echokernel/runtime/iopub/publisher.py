"""The IOPub publisher: sends from any thread, welcomes every subscriber (JEP 65).

One thread, the *owner*, owns the XPUB socket. Only this thread sends and receives on it, so no
message is ever half-sent and no lock is needed; all other threads only queue frames. User code
that keeps the main thread busy delays neither output nor welcomes.

The owner sleeps in its queue, so a second thread watches the socket's descriptor. The descriptor
is edge-triggered: an edge can be missed. Therefore the owner also checks for subscriptions when it
has sent everything that was queued.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import zmq

from ...protocol import subscriptions
from ...protocol.flow_control import FlowLimits
from .. import zmq_multipart
from .connections import ConnectionRegistry
from .messages import PublisherMessages
from .queue import IDLE, STOP, SUBSCRIPTIONS, AtomicHandoff, Outgoing, OutgoingQueue
from .watcher import SubscriptionWatcher

log = logging.getLogger("echokernel")

IDLE_POLL = 0.1
"""Seconds after which the owner polls an outlet that holds messages back."""

SUBSCRIPTIONS_AT_ONCE = 200
"""Subscriptions handled before the next output is sent."""

MESSAGES_AT_ONCE = 50
"""Messages sent before the owner checks for subscriptions again, if more are queued."""


class Outlet(Protocol):
    """Decides when, and whether, a message is sent on the socket. Called by the owner only."""

    @property
    def is_waiting(self) -> bool:
        """Whether `poll` is to be called from time to time."""

    def publish(self, frames: Sequence[Any], copy: bool, size: int) -> None:
        """Send a message of ``size`` bytes."""

    def send_now(self, frames: Sequence[bytes]) -> None:
        """Send a message that is not output (a welcome) before messages that wait."""

    def subscribed(self, topic: bytes, descriptor: int | None) -> None:
        """Note a subscription that came over the connection ``descriptor``."""

    def poll(self) -> None:
        """Check whether messages that wait can be sent."""


class DirectOutlet:
    """Sends immediately: ZeroMQ's high-water mark is the only bound, and it drops silently."""

    is_waiting = False

    def __init__(self, xpub: zmq.Socket[bytes]) -> None:
        self._send = zmq_multipart.sender(xpub)

    def publish(self, frames: Sequence[Any], copy: bool, size: int) -> None:
        self._send(frames, copy)

    def send_now(self, frames: Sequence[bytes]) -> None:
        self._send(frames)

    def subscribed(self, topic: bytes, descriptor: int | None) -> None:
        """Nothing to note."""

    def poll(self) -> None:
        """Nothing waits."""


class IOPub:
    """Publishes on an XPUB socket; offers the part of a socket's interface that Session needs.

    Args:
        xpub: bound XPUB socket; this object owns it from ``start`` to ``stop``.
        messages: makes welcomes; all other messages are signed already.
        outlet: makes the `Outlet`; it gets this object.
        limits: how much may wait.

    Attributes: ``connections`` (of the subscribers).
    """

    def __init__(
        self,
        xpub: zmq.Socket[bytes],
        messages: PublisherMessages,
        outlet: Callable[[IOPub], Outlet],
        limits: FlowLimits,
    ) -> None:
        self.socket = xpub
        self.messages = messages
        self.limits = limits
        self.connections = ConnectionRegistry(xpub.getsockopt_string(zmq.LAST_ENDPOINT))
        self._queue = OutgoingQueue(limits)
        self._has_arrived = zmq_multipart.has_arrived(xpub)
        self._owner = threading.Thread(target=self._run, name="IOPub", daemon=True)
        self._watcher = SubscriptionWatcher(
            xpub.fileno(), lambda: self._queue.put_signal(SUBSCRIPTIONS)
        )
        self._ending = False
        self._outlet = outlet(self)

    def start(self) -> None:
        """Begin to publish and to welcome."""
        self._owner.start()
        self._watcher.start()

    def stop(self) -> None:
        """Send what is queued, then stop; the caller owns the socket again."""
        if not self._owner.is_alive():
            return
        self._ending = True
        self._queue.put_signal(STOP)
        self._owner.join()
        self._queue.close()
        self._watcher.stop()

    # --- called from any thread ---------------------------------------------------------

    def send_multipart(
        self, frames: Sequence[Any], flags: int = 0, copy: bool = True, track: bool = False
    ) -> None:
        """Queue one message. ``flags`` and ``track`` exist for Session; they have no effect.

        Raises:
            TypeError: ``frames`` is not a message.
        """
        self._queue.put(frames, copy)

    def send(self, frame: Any, flags: int = 0, copy: bool = True, track: bool = False) -> None:
        """Queue a message of one frame."""
        self._queue.put([frame], copy)

    def handoff(self, waiting: list[Any]) -> AtomicHandoff:
        """Return a socket that queues the message made of ``waiting[0]``, and removes that item."""
        return AtomicHandoff(self._queue, waiting)

    @property
    def waiting(self) -> int:
        """Number of messages that have not been sent yet."""
        return len(self._queue)

    # --- the owner thread ----------------------------------------------------------------

    def _run(self) -> None:
        unchecked = 0  # messages since the last check for subscriptions
        while True:
            item = self._queue.get(IDLE_POLL if self._outlet.is_waiting else None)
            if item is STOP:
                return
            try:
                if isinstance(item, Outgoing):
                    self._outlet.publish(item.frames, item.copy, item.size)
                elif item is IDLE:
                    self._outlet.poll()
                unchecked += 1
                due = item is SUBSCRIPTIONS or unchecked > MESSAGES_AT_ONCE
                if due or self._queue.is_empty:
                    unchecked = 0
                    if self._has_arrived():
                        self.receive_subscriptions()
            except Exception:
                # Whatever one message caused, the next one must be sent: without this thread, a
                # kernel answers and shows nothing.
                log.exception("IOPub: a message could not be handled")
            finally:
                if item is SUBSCRIPTIONS:
                    self._watcher.resume()
                self._queue.reopen()

    def receive_subscriptions(self) -> None:
        """Handle subscriptions that have arrived, up to a bound."""
        for _ in range(SUBSCRIPTIONS_AT_ONCE):
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            self._receive(frames)
        self._queue.put_signal(SUBSCRIPTIONS)

    def _receive(self, frames: Sequence[zmq.Frame]) -> None:
        event = subscriptions.parse([frame.bytes for frame in frames])
        if isinstance(event, subscriptions.Malformed):
            log.warning("IOPub: ignored a frame that is not a subscription: %s", event.reason)
            return
        descriptor = zmq_multipart.descriptor_of(frames[0])
        self.connections.apply(event, descriptor)
        if not isinstance(event, subscriptions.Subscribed):
            return
        self._outlet.subscribed(event.topic, descriptor)
        welcome = self.messages.welcome(event)
        if welcome is None:
            return
        self._outlet.send_now(welcome)
        starting = self.messages.starting(event)
        if starting is not None:
            self._outlet.send_now(starting)

    def serve_subscriptions(self) -> bool:
        """Serve subscriptions for 10 ms; return False if the publisher stops.

        An outlet calls this while it waits for a subscriber.
        """
        # While stopping, do not wait for each message that is still queued.
        if not self._ending and self.socket.poll(10):
            self.receive_subscriptions()
        return not self._ending
