"""The IOPub publisher: sends from any thread, welcomes every subscriber (JEP 65).

One thread, the *owner*, holds the XPUB socket: it alone sends and receives on it, so no message
is ever half-sent and no lock is needed. Everybody else only queues frames. User code that keeps
the main thread busy delays neither output nor welcomes.

A second thread watches the socket's file descriptor, since the owner sleeps in its queue. That
descriptor is edge-triggered: watching it alone missed 7 of 2,400 subscriptions, so the owner
also looks for subscriptions after each send.
"""

from __future__ import annotations

import itertools
import logging
import queue
import selectors
import socket
import threading
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any, NamedTuple

import zmq

from . import multipart
from .protocol import subscriptions
from .protocol.wire import JsonObject, Message, Signer, header, pack_message

QUEUE_BOUND = 10_000
"""Messages that may wait for the owner; beyond, a sender waits until there is room."""

SUBSCRIPTIONS_AT_ONCE = 200
"""Subscriptions handled before the next output gets its turn."""


_POLLIN = int(zmq.POLLIN)


class _Frames(NamedTuple):
    frames: Sequence[Any]
    copy: bool


class _Token:
    """What the owner finds in its queue besides frames."""


_SUBSCRIPTIONS = _Token()  # the watcher saw something arrive
_STOP = _Token()


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
        self._send = multipart.sender(xpub)
        self._signer = signer
        self._session = session
        self._status_topic = f"{topic}.status".encode()
        self._log = log
        self._count = itertools.count()
        self._heard_starting = False
        self._queue: queue.SimpleQueue[_Frames | _Token] = queue.SimpleQueue()
        self._room = threading.Event()
        self._drained = threading.Event()
        self._owner = threading.Thread(target=self._own, name="IOPub", daemon=True)
        self._watcher = threading.Thread(target=self._watch, name="IOPub watch", daemon=True)
        self._stopping = False
        self._stop_writer, self._stop_reader = socket.socketpair()

    def start(self) -> None:
        """Begin to publish and to welcome."""
        self._owner.start()
        self._watcher.start()

    def stop(self) -> None:
        """Send what is queued, then stop; the socket belongs to the caller again."""
        if not self._owner.is_alive():
            return
        self._queue.put(_STOP)
        self._owner.join()
        self._stopping = True
        self._stop_writer.close()  # wakes the watcher from its look at the socket,
        self._drained.set()  # and from its wait for the owner
        self._watcher.join()
        self._stop_reader.close()

    # --- called from any thread ---------------------------------------------------------

    def send_multipart(
        self, frames: Sequence[Any], flags: int = 0, copy: bool = True, track: bool = False
    ) -> None:
        """Queue one message. ``flags`` and ``track`` are a socket's, and have no meaning here.

        Raises:
            TypeError: ``frames`` are no message.
        """
        multipart.check(frames)
        while self._queue.qsize() > QUEUE_BOUND and self._owner.is_alive():
            self._room.clear()
            self._room.wait(0.05)
        self._queue.put(_Frames(frames, copy))

    def send(self, frame: Any, flags: int = 0, copy: bool = True, track: bool = False) -> None:
        """Queue a message of one frame."""
        self.send_multipart([frame], flags, copy, track)

    # --- the owner thread ----------------------------------------------------------------

    def _own(self) -> None:
        while True:
            item = self._queue.get()
            if item is _STOP:
                return
            try:
                if isinstance(item, _Frames):
                    self._send(item.frames, item.copy)
                if self.socket.getsockopt(zmq.EVENTS) & _POLLIN:  # type: ignore[operator]
                    self._receive_subscriptions()
            except Exception:
                # Whatever one message did, the next one must still go out: an IOPub thread
                # that dies leaves a kernel that answers and shows nothing.
                self._log.exception("IOPub: a message could not be handled")
            finally:
                if item is _SUBSCRIPTIONS:
                    self._drained.set()
                if not self._room.is_set() and self._queue.qsize() <= QUEUE_BOUND // 2:
                    self._room.set()

    def _receive_subscriptions(self) -> None:
        for _ in range(SUBSCRIPTIONS_AT_ONCE):
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._receive(frames)
        self._queue.put(_SUBSCRIPTIONS)

    def _receive(self, frames: Sequence[bytes]) -> None:
        event = subscriptions.parse(frames)
        if isinstance(event, subscriptions.Malformed):
            self._log.warning("IOPub: ignored what is no subscription: %s", event.why)
            return
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
        self._send(pack_message(message, self._signer))

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
