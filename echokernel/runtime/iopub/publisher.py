"""The IOPub publisher: sends from any thread, welcomes every subscriber (JEP 65).

One thread, the *owner*, holds the XPUB socket: it alone sends and receives on it, so no message
is ever half-sent and no lock is needed. Everybody else only queues frames. User code that keeps
the main thread busy delays neither output nor welcomes.

A second thread watches the socket's file descriptor, since the owner sleeps in its queue. That
descriptor is edge-triggered: watching it alone missed 7 of 2,400 subscriptions, so the owner
also looks for subscriptions when it has sent what was queued.
"""

from __future__ import annotations

import itertools
import logging
import queue
import selectors
import socket
import threading
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple

import zmq

from ...protocol import subscriptions
from ...protocol.headers import header
from ...protocol.wire import DELIMITER, JsonObject, Message, Signer, pack_json, pack_message
from .. import zmq_multipart
from .connections import Listeners, descriptor_of
from .flow_control.slow_readers import SlowReaders

CONTROL_THREAD = "Control"
"""Name of the thread that serves the control channel, by which ipykernel, too, tells it."""

QUEUE_BOUND = 10_000
"""Messages that may wait for the owner; beyond, a sender waits until there is room."""

LARGE = 64 * 1024
LARGE_BOUND = 64 * 1024 * 1024
"""Bytes in messages of LARGE and more that may wait likewise."""

TICK = 0.1
"""Seconds after which the owner looks at subscribers that did not read."""

SUBSCRIPTIONS_AT_ONCE = 200
"""Subscriptions handled before the next output gets its turn."""

MESSAGES_AT_ONCE = 50
"""Messages sent before the next look for subscriptions, if more are queued."""


class _Frames(NamedTuple):
    frames: Sequence[Any]
    copy: bool
    size: int


class _Token:
    """What the owner finds in its queue besides frames."""


_SUBSCRIPTIONS = _Token()  # the watcher saw something arrive
_LOOK = _Token()  # nothing came for a while
_STOP = _Token()


class TakingFrom:
    """Queues one message, and removes the first of ``waiting``: both, or neither.

    A signal handler that raises, an interrupt's say, ends a send anywhere; then it is known whether
    to send again, and no output is lost or sent twice.
    """

    def __init__(
        self,
        waiting: list[Any],
        admitted: Callable[[Sequence[Any], bool], _Frames],
        put: Callable[[_Frames], None],
    ) -> None:
        self._waiting = waiting
        self._admitted = admitted
        self._put = put

    def send_multipart(
        self, frames: Sequence[Any], flags: int = 0, copy: bool = True, track: bool = False
    ) -> None:
        waiting, put, item = self._waiting, self._put, self._admitted(frames, copy)
        # Python (3.10 to 3.14) runs signal handlers when a call returns and when a loop begins
        # anew. So between these two lines it does not.
        del waiting[0]
        put(item)


class IOPub:
    """Publishes on an XPUB socket; offers the part of a socket's interface that Session needs.

    Args:
        xpub: bound XPUB socket; this object owns it from ``start`` to ``stop``.
        signer: signs welcomes; other messages come signed.
        session: session id for the headers of welcomes.
        topic: prefix of the kernel's own topics, e.g. ``kernel.<id>``.
    """

    def __init__(
        self,
        xpub: zmq.Socket[bytes],
        signer: Signer,
        session: str,
        topic: str,
        log: logging.Logger,
    ) -> None:
        self.socket = xpub
        self._out = SlowReaders(xpub, self._notice, self._pause, log)
        self.listeners = Listeners(xpub.getsockopt_string(zmq.LAST_ENDPOINT))
        self._signer = signer
        self._session = session
        self._status_topic = f"{topic}.status".encode()
        self._log = log
        self._count = itertools.count()
        self._heard_starting = False
        self._queue: queue.SimpleQueue[_Frames | _Token] = queue.SimpleQueue()
        self._arrived = zmq_multipart.has_arrived(xpub)
        self._room = threading.Event()
        self._large = 0  # bytes in large messages in the queue
        self._large_lock = threading.Lock()
        self._drained = threading.Event()
        self._owner = threading.Thread(target=self._own, name="IOPub", daemon=True)
        self._watcher = threading.Thread(target=self._watch, name="IOPub watch", daemon=True)
        self._ending = False  # the owner, and then
        self._stopping = False  # the watcher
        self._stop_writer, self._stop_reader = socket.socketpair()

    def start(self) -> None:
        """Begin to publish and to welcome."""
        self._owner.start()
        self._watcher.start()

    def stop(self) -> None:
        """Send what is queued, then stop; the socket belongs to the caller again."""
        if not self._owner.is_alive():
            return
        self._ending = True
        self._queue.put(_STOP)
        self._owner.join()
        self._stopping = True
        self._stop_writer.close()  # wakes the watcher from its look at the socket,
        self._drained.set()  # and from its wait for the owner
        self._watcher.join()
        self._stop_reader.close()

    # --- called from any thread ---------------------------------------------------------

    def taking_from(self, waiting: list[Any]) -> TakingFrom:
        """Return a socket for the message that ``waiting[0]`` has become."""
        return TakingFrom(waiting, self._admitted, self._queue.put)

    def send_multipart(
        self, frames: Sequence[Any], flags: int = 0, copy: bool = True, track: bool = False
    ) -> None:
        """Queue one message. ``flags`` and ``track`` are a socket's, and have no meaning here.

        Raises:
            TypeError: ``frames`` are no message.
        """
        self._queue.put(self._admitted(frames, copy))

    def _admitted(self, frames: Sequence[Any], copy: bool) -> _Frames:
        """Return what is to be queued, when there is room for it."""
        size = zmq_multipart.check(frames)
        if self._queue.qsize() > QUEUE_BOUND or self._large > LARGE_BOUND:
            self._wait_for_room()
        if size >= LARGE:
            self._count_large(size)
        return _Frames(frames, copy, size)

    def send(self, frame: Any, flags: int = 0, copy: bool = True, track: bool = False) -> None:
        """Queue a message of one frame."""
        self.send_multipart([frame], flags, copy, track)

    @property
    def waiting(self) -> int:
        """Number of messages that have not been sent yet."""
        return self._queue.qsize()

    def _wait_for_room(self) -> None:
        # Not the control thread: a kernel whose output nobody takes can still be interrupted.
        if threading.current_thread().name == CONTROL_THREAD:
            return
        while self._is_crowded(1) and self._owner.is_alive():
            self._room.clear()
            self._room.wait(0.05)

    def _is_crowded(self, share: float) -> bool:
        return self._queue.qsize() > QUEUE_BOUND * share or self._large > LARGE_BOUND * share

    def _count_large(self, size: int) -> None:
        with self._large_lock:
            self._large = max(0, self._large + size)

    # --- the owner thread ----------------------------------------------------------------

    def _own(self) -> None:
        unchecked = 0  # messages since the last look for subscriptions
        while True:
            try:
                item = self._queue.get(timeout=TICK if self._out.is_waiting else None)
            except queue.Empty:
                item = _LOOK
            if item is _STOP:
                return
            try:
                if isinstance(item, _Frames):
                    if item.size >= LARGE:
                        self._count_large(-item.size)
                    self._out.publish(item.frames, item.copy, item.size)
                elif item is _LOOK:
                    self._out.look()
                unchecked += 1
                due = item is _SUBSCRIPTIONS or unchecked > MESSAGES_AT_ONCE
                if due or self._queue.empty():
                    unchecked = 0
                    if self._large and self._queue.empty():
                        # A signal handler raised between the count and the queue.
                        self._count_large(-self._large)
                    if self._arrived():
                        self._receive_subscriptions()
            except Exception:
                # Whatever one message did, the next one must still go out: an IOPub thread
                # that dies leaves a kernel that answers and shows nothing.
                self._log.exception("IOPub: a message could not be handled")
            finally:
                if item is _SUBSCRIPTIONS:
                    self._drained.set()
                if not self._room.is_set() and not self._is_crowded(0.5):
                    self._room.set()

    def _receive_subscriptions(self) -> None:
        for _ in range(SUBSCRIPTIONS_AT_ONCE):
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK, copy=False)
            except zmq.Again:
                return
            self._receive(frames)
        self._queue.put(_SUBSCRIPTIONS)

    def _receive(self, frames: Sequence[zmq.Frame]) -> None:
        event = subscriptions.parse([frame.bytes for frame in frames])
        if isinstance(event, subscriptions.Malformed):
            self._log.warning("IOPub: ignored what is no subscription: %s", event.why)
            return
        descriptor = descriptor_of(frames[0])
        self.listeners.take(event, descriptor)
        if isinstance(event, subscriptions.Subscribed):
            self._out.joined(event.topic, descriptor)
        # W2: every reported subscription with a UTF-8 topic is welcomed.
        content = subscriptions.welcome_content(event)
        if content is None or not isinstance(event, subscriptions.Subscribed):
            return
        self._publish(subscriptions.welcome(event, content, self._header(subscriptions.WELCOME)))
        # W5 (ours, as ark does): `starting` once, as soon as somebody is there to hear it.
        if not self._heard_starting and self._status_topic.startswith(event.topic):
            self._heard_starting = True
            self._publish(
                Message(
                    self._header("status"),
                    content={"execution_state": "starting"},
                    identities=[self._status_topic],
                )
            )

    def _publish(self, message: Message) -> None:
        self._out.send_at_once(pack_message(message, self._signer))

    def _notice(self, text: str, about: Sequence[bytes]) -> list[bytes]:
        """Return a message to stderr, belonging to the request that ``about`` belongs to."""
        parts = [
            pack_json(self._header("stream")),
            bytes(about[list(about).index(DELIMITER) + 3]) if DELIMITER in about else b"{}",
            b"{}",
            pack_json({"name": "stderr", "text": text}),
        ]
        return [b"stream.stderr", DELIMITER, self._signer.sign(parts), *parts]

    def _pause(self) -> bool:
        """Serve subscriptions for a moment; tell whether there is time for another."""
        # Not a moment for each of the thousands of messages that the end finds waiting.
        if not self._ending and self.socket.poll(10):
            self._receive_subscriptions()
        return not self._ending

    def _header(self, msg_type: str) -> JsonObject:
        return header(
            msg_type,
            msg_id=f"{self._session}_iopub_{next(self._count)}",
            session=self._session,
            date=datetime.now(timezone.utc).isoformat(),
        )

    # --- the watcher thread ----------------------------------------------------------------

    def _watch(self) -> None:
        """Tell the owner when something arrived; look again after it has drained it."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.socket.fileno(), selectors.EVENT_READ)
            selector.register(self._stop_reader, selectors.EVENT_READ)
            while True:
                selector.select()
                self._drained.clear()
                if self._stopping:  # looked at after clear(): stop() sets it before it set()s
                    return
                self._queue.put(_SUBSCRIPTIONS)
                self._drained.wait()
