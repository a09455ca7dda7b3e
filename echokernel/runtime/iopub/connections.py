"""The connections of IOPub's subscribers: each subscription is related to its connection (C1, C4).

An unauthenticated peer can send an unsubscription for a topic to which it never subscribed, and
libzmq reports it like any other. Therefore each report is checked against the connection that it
came over. An unsubscription without a connection (closed already) is only a reason to check which
connections have ended.

libzmq can report a new subscription before the end of the previous one. Therefore each new
subscriber is a reason to check as well; otherwise requests to the one that disconnected would wait
forever.
"""

from __future__ import annotations

import os
import select
import socket
import sys
from collections.abc import Callable, Iterable
from typing import NamedTuple

from ...protocol.subscriptions import (
    LastSubscriberLeft,
    SessionDisconnected,
    Subscribed,
    Subscribers,
    Unsubscribed,
    is_comm_topic,
)


class Connection(NamedTuple):
    """A descriptor, and the inode that identifies it while the number can be used again.

    The descriptor is ZeroMQ's: it can be closed, and another file can get its number.
    """

    descriptor: int
    device: int
    inode: int

    @property
    def is_open(self) -> bool:
        return connection_of(self.descriptor) == self

    def duplicate(self) -> socket.socket | None:
        """Return a new socket for this connection, which the caller closes; None if it ended."""
        try:
            copy = os.dup(self.descriptor)
        except OSError:
            return None
        try:
            if connection_of(copy) == self._replace(descriptor=copy):
                return socket.socket(fileno=copy)
        except OSError:
            pass  # it is not a socket
        os.close(copy)  # the number belongs to another file now
        return None


def connection_of(descriptor: int | None) -> Connection | None:
    """Return the connection with this descriptor; None if it is not open, and on Windows."""
    if descriptor is None or sys.platform == "win32":  # a SOCKET is not a file descriptor there
        return None
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return Connection(descriptor, status.st_dev, status.st_ino)


class ConnectionRegistry:
    """Keeps `Subscribers` up to date; belongs to the publisher's thread.

    Args:
        endpoint: where IOPub is bound, such as ``tcp://127.0.0.1:5555`` (``ZMQ_LAST_ENDPOINT``).

    Attributes: ``subscribers`` (any thread may query it), ``on_disconnect`` (called in the
    publisher's thread with the consequence for comms; None: not called).
    """

    def __init__(self, endpoint: str) -> None:
        self._local_address = _local_address(endpoint)
        self.subscribers = Subscribers()
        self.on_disconnect: Callable[[LastSubscriberLeft | SessionDisconnected], None] | None = None
        # Whether the connection has subscribed to a topic that concerns comms.
        self._connections: dict[Connection, bool] = {}

    def apply(self, event: Subscribed | Unsubscribed, descriptor: int | None) -> None:
        """Apply an event that came over the connection with this descriptor."""
        connection = self._subscriber(descriptor)
        if isinstance(event, Subscribed):
            if connection is not None:
                receives_comms = self._connections.get(connection, False)
                if not receives_comms and is_comm_topic(event.topic):
                    receives_comms = True
                    self._prune_closed()  # C1: earlier ends come before this subscription
                self._connections[connection] = receives_comms
            self.subscribers.add(event.topic, connection)
            return
        # Not for each topic of a connection with ten thousand: all ended with the first.
        topic_counts = self.subscribers.has(event.topic) or not is_comm_topic(event.topic)
        if connection is None and topic_counts:
            self._prune_closed()
        self._report(self.subscribers.remove(event.topic, connection))

    def open_connections(self) -> list[Connection]:
        """Return the connections that have subscribed and are open; from any thread."""
        return [connection for connection in list(self._connections) if connection.is_open]

    def _subscriber(self, descriptor: int | None) -> Connection | None:
        connection = connection_of(descriptor)
        # The number of a connection that has ended can be that of any other file by now.
        if connection is None or not _is_bound_to(connection, self._local_address):
            return None
        return connection

    def _prune_closed(self) -> None:
        closed = _closed(self._connections)
        if closed:
            for connection in closed:
                del self._connections[connection]
            self._report(self.subscribers.remove_connections(closed))

    def _report(self, events: list[LastSubscriberLeft | SessionDisconnected]) -> None:
        if self.on_disconnect is not None:
            for event in events:
                self.on_disconnect(event)


def _local_address(endpoint: str) -> int | str:
    """Return what identifies the kernel's ends of connections to ``endpoint``: port or path."""
    transport, _, address = endpoint.partition("://")
    return address if transport == "ipc" else int(address.rpartition(":")[2])


def _is_bound_to(connection: Connection, local_address: int | str) -> bool:
    copy = connection.duplicate()
    if copy is None:
        return False
    with copy:
        name = copy.getsockname()
    return bool((name[1] if isinstance(name, tuple) else name) == local_address)


def _closed(connections: Iterable[Connection]) -> set[Connection]:
    """Return the connections that are closed here or at their other end."""
    if sys.platform == "win32":
        return set()
    # POLLRDHUP reports an end of file; macOS lacks it and reports POLLHUP.
    poller, hung_up = select.poll(), getattr(select, "POLLRDHUP", 0)
    connections = list(connections)
    for connection in connections:
        poller.register(connection.descriptor, hung_up)
    reported = {descriptor for descriptor, _ in poller.poll(0)}
    # A number can belong to another file by now; then the report does not matter.
    return {c for c in connections if c.descriptor in reported or not c.is_open}
