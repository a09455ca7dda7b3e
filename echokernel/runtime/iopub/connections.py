"""Who listens on IOPub: each subscription is given the name of its connection (SPEC C1, C4).

A stranger without a key can send an unsubscription for a topic that it never subscribed to, and
libzmq reports it like any other. So no report is believed that its connection does not bear out:
an unsubscription counts for the connection that it came over, and one that came over none (the
connection is gone) only is a reason to look which ones have ended.

libzmq reports a lost connection late. Who came a moment after the last one had gone was reported
first in 17 of 300 tries, so there never seemed to be nobody, and requests waited for ever. So each
newcomer is a reason to look, too.
"""

from __future__ import annotations

import os
import select
import socket
import sys
from collections.abc import Callable, Iterable
from typing import NamedTuple

import zmq

from ...protocol.subscriptions import (
    EveryoneLeft,
    SessionLeft,
    Subscribed,
    Subscribers,
    Unsubscribed,
    matters,
)


class Connection(NamedTuple):
    """A descriptor, and what tells it from others that the system gives the same number."""

    descriptor: int
    device: int
    inode: int

    @property
    def is_open(self) -> bool:
        return _name_of(self.descriptor) == self

    def duplicate(self) -> socket.socket | None:
        """Return a socket of the caller's own for this connection; None if that is closed."""
        try:
            copy = os.dup(self.descriptor)
        except OSError:
            return None
        try:
            if _name_of(copy) == self._replace(descriptor=copy):
                return socket.socket(fileno=copy)
        except OSError:
            pass  # it is no socket
        os.close(copy)  # the number is somebody else's now
        return None


class Listeners:
    """Keeps `Subscribers`; belongs to IOPub's own thread.

    Args:
        endpoint: where IOPub is bound, by ZeroMQ's words, e.g. ``tcp://127.0.0.1:5555``.

    Attributes: ``subscribers`` (any thread may ask it), ``on_leave`` (called in IOPub's thread,
    with what a leave means for comms; None: nobody wants to know).
    """

    def __init__(self, endpoint: str) -> None:
        self._end = _end_of(endpoint)
        self.subscribers = Subscribers()
        self.on_leave: Callable[[SessionLeft | EveryoneLeft], None] | None = None
        # And whether they have subscribed to what matters to comms.
        self._connections: dict[Connection, bool] = {}

    def take(self, event: Subscribed | Unsubscribed, descriptor: int | None) -> None:
        """Take note of ``event``, which came over the connection of that descriptor."""
        connection = self._named(descriptor)
        if isinstance(event, Subscribed):
            if connection is not None:
                hears_comms = self._connections.get(connection, False)
                if not hears_comms and matters(event.topic):
                    hears_comms = True
                    self._let_go()  # C1: who has left has left before this one came
                self._connections[connection] = hears_comms
            self.subscribers.joined(event.topic, connection)
            return
        # Not for each topic of one that had ten thousand: they all went with the first.
        if connection is None and (self.subscribers.has(event.topic) or not matters(event.topic)):
            self._let_go()
        self._tell(self.subscribers.left(event.topic, connection))

    def _named(self, descriptor: int | None) -> Connection | None:
        name = _name_of(descriptor)
        # The number of one that has left already may be anything's by now, and that stays open.
        return name if name is not None and _is_end(name, self._end) else None

    def _let_go(self) -> None:
        """Forget those who are gone."""
        ended = _ended(self._connections)
        if ended:
            for each in ended:
                del self._connections[each]
            self._tell(self.subscribers.gone(ended))

    def _tell(self, meanings: list[SessionLeft | EveryoneLeft]) -> None:
        if self.on_leave is not None:
            for meaning in meanings:
                self.on_leave(meaning)

    def connections(self) -> list[Connection]:
        """Return those that have subscribed and are open; for any thread."""
        return [each for each in list(self._connections) if each.is_open]


def descriptor_of(frame: zmq.Frame) -> int | None:
    """Return the descriptor of the connection that ``frame`` came over; None without one."""
    try:
        return int(frame.get("__fd"))
    except (zmq.ZMQError, ValueError):
        return None


def _name_of(descriptor: int | None) -> Connection | None:
    if descriptor is None or sys.platform == "win32":  # there it is no file's
        return None
    try:
        found = os.fstat(descriptor)
    except OSError:
        return None
    return Connection(descriptor, found.st_dev, found.st_ino)


def _end_of(endpoint: str) -> int | str:
    """Return what tells the kernel's ends of connections to ``endpoint``: a port or a path."""
    transport, _, address = endpoint.partition("://")
    return address if transport == "ipc" else int(address.rpartition(":")[2])


def _is_end(connection: Connection, end: int | str) -> bool:
    copy = connection.duplicate()
    if copy is None:
        return False
    with copy:
        address = copy.getsockname()
    return bool((address[1] if isinstance(address, tuple) else address) == end)


def _ended(connections: Iterable[Connection]) -> set[Connection]:
    """Return those that are closed here, or at their other end."""
    if sys.platform == "win32":
        return set()
    # An end of file alone is not reported everywhere; macOS has POLLHUP for it.
    poller, hung_up = select.poll(), getattr(select, "POLLRDHUP", 0)
    connections = list(connections)
    for each in connections:
        poller.register(each.descriptor, hung_up)
    reported = {descriptor for descriptor, _ in poller.poll(0)}
    # A number may be somebody else's by now; then what was said of it is of no interest.
    return {each for each in connections if each.descriptor in reported or not each.is_open}
