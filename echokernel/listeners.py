"""Who listens on IOPub: each subscription is given the name of its connection (SPEC C1, C4).

A stranger without a key can send an unsubscription for a topic that it never subscribed to, and
libzmq reports it like any other. So no report is believed that its connection does not bear out:
an unsubscription counts for the connection that it came over, and a report that came over none
(the connection is gone) for one that is really closed.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from typing import NamedTuple

import zmq

from .protocol.subscriptions import (
    EveryoneLeft,
    SessionLeft,
    Subscribed,
    Subscribers,
    Unsubscribed,
)


class Connection(NamedTuple):
    """A descriptor, and what tells it from others that the system gives the same number."""

    descriptor: int
    device: int
    inode: int

    @property
    def is_open(self) -> bool:
        return _named(self.descriptor) == self

    def duplicate(self) -> socket.socket | None:
        """Return a socket of the caller's own for this connection; None if that is closed."""
        try:
            copy = os.dup(self.descriptor)
        except OSError:
            return None
        if _named(copy) != self._replace(descriptor=copy):  # the number is somebody else's now
            os.close(copy)
            return None
        return socket.socket(fileno=copy)


class Listeners:
    """Keeps `Subscribers`; belongs to IOPub's own thread.

    Attributes: ``subscribers`` (any thread may ask it), ``on_leave`` (called in IOPub's thread,
    with what a leave means for comms; None: nobody wants to know).
    """

    def __init__(self) -> None:
        self.subscribers = Subscribers()
        self.on_leave: Callable[[SessionLeft | EveryoneLeft], None] | None = None
        self._connections: dict[Connection, None] = {}

    def take(self, event: Subscribed | Unsubscribed, descriptor: int | None) -> None:
        """Take note of ``event``, which came over the connection of that descriptor."""
        if isinstance(event, Subscribed):
            newcomer = _named(descriptor)
            self.subscribers.joined(event.topic, newcomer)
            if newcomer is not None:
                self._connections[newcomer] = None
            return
        there = self.subscribers.of(event.topic)
        who = next((each for each in there if self._is_leaving(each, descriptor)), None)
        if who is None and descriptor is not None and _named(descriptor) is not None:
            return  # it was not there
        meaning = self.subscribers.left(event.topic, who)
        if meaning is not None and self.on_leave is not None:
            self.on_leave(meaning)

    def connections(self) -> list[Connection]:
        """Return those that have subscribed, and forget those that are closed; from one thread."""
        for each in list(self._connections):
            if not each.is_open:
                self._connections.pop(each, None)
        return list(self._connections)

    @staticmethod
    def _is_leaving(connection: object, descriptor: int | None) -> bool:
        assert isinstance(connection, Connection)
        if descriptor is None:
            return not connection.is_open
        return connection.descriptor == descriptor


def descriptor_of(frame: zmq.Frame) -> int | None:
    """Return the descriptor of the connection that ``frame`` came over; None without one."""
    try:
        return int(frame.get("__fd"))
    except (zmq.ZMQError, ValueError):
        return None


def _named(descriptor: int | None) -> Connection | None:
    if descriptor is None or sys.platform == "win32":  # there it is no file's
        return None
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return Connection(descriptor, found.st_dev, found.st_ino)
