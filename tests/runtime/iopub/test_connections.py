"""Whose subscription it is, when its connection had closed before the report was read (C1)."""

from __future__ import annotations

import os
import socket

import pytest

from echokernel.protocol.subscriptions import LastSubscriberLeft, Subscribed, Unsubscribed
from echokernel.runtime.iopub.connections import ConnectionRegistry

EVERYTHING = b""
NOBODY_IS_LEFT = LastSubscriberLeft(frozenset())


@pytest.fixture
def server():
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


@pytest.fixture
def connected(server):
    """A connection: the kernel's end, and the client's."""
    client = socket.create_connection(server.getsockname())
    ours, _ = server.accept()
    with client, ours:
        yield ours, client


@pytest.fixture
def listeners(server):
    return ConnectionRegistry("tcp://{}:{}".format(*server.getsockname()))


@pytest.fixture
def meanings(listeners):
    told = []
    listeners.on_disconnect = told.append
    return told


def lowest_free_descriptor():
    found = os.dup(0)
    os.close(found)
    return found


def test_the_number_is_a_files_by_now(listeners, meanings, tmp_path):
    """A visitor's subscription is read when it is gone: the file is not taken for it."""
    with open(tmp_path / "file", "w") as file:
        before = lowest_free_descriptor()
        listeners.apply(Subscribed(EVERYTHING), file.fileno())
        listeners.apply(Unsubscribed(EVERYTHING), None)
        assert lowest_free_descriptor() == before, "a copy was left open"
    assert meanings == [NOBODY_IS_LEFT]


def test_the_number_is_another_subscribers_by_now(listeners, meanings, connected):
    """That one is taken for it, and so at most until it leaves itself."""
    ours, client = connected
    listeners.apply(Subscribed(EVERYTHING), ours.fileno())
    listeners.apply(Unsubscribed(EVERYTHING), None)
    listeners.apply(Subscribed(b"kernel."), ours.fileno())
    assert meanings == []
    client.close()
    listeners.apply(Unsubscribed(b"kernel."), None)
    assert meanings == [NOBODY_IS_LEFT]


def test_a_newcomer_is_there_after_those_who_have_gone(listeners, meanings, server, connected):
    ours, client = connected
    listeners.apply(Subscribed(EVERYTHING), ours.fileno())
    client.close()
    with socket.create_connection(server.getsockname()), server.accept()[0] as newcomers:
        listeners.apply(Subscribed(EVERYTHING), newcomers.fileno())
        assert meanings == [NOBODY_IS_LEFT]
        listeners.apply(Unsubscribed(EVERYTHING), None)  # the first one's, reported late
        assert meanings == [NOBODY_IS_LEFT]
        assert listeners.subscribers.has_subscriber(b"comm-one")
