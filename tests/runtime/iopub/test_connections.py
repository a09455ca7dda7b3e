"""Subscriptions whose connection had closed before the kernel read their report (C1)."""

from __future__ import annotations

import os
import socket

import pytest

from echokernel.protocol.subscriptions import LastSubscriberLeft, Subscribed, Unsubscribed
from echokernel.runtime.iopub.connections import ConnectionRegistry

EVERY_TOPIC = b""
NO_SUBSCRIBER = LastSubscriberLeft(frozenset())


@pytest.fixture
def server():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def connected(server):
    """A connection: the kernel's socket, and the client's socket."""
    client_socket = socket.create_connection(server.getsockname())
    kernel_socket, _ = server.accept()
    with client_socket, kernel_socket:
        yield kernel_socket, client_socket


@pytest.fixture
def registry(server):
    return ConnectionRegistry("tcp://{}:{}".format(*server.getsockname()))


@pytest.fixture
def reports(registry):
    reports = []
    registry.on_disconnect = reports.append
    return reports


def lowest_free_descriptor():
    descriptor = os.dup(0)
    os.close(descriptor)
    return descriptor


def test_a_file_with_the_descriptor_of_a_closed_connection_is_not_a_subscriber(
    registry, reports, tmp_path
):
    """C1: the subscription is read when its connection has closed and the number is reused."""
    with open(tmp_path / "file", "w") as file:
        before = lowest_free_descriptor()
        registry.apply(Subscribed(EVERY_TOPIC), file.fileno())
        registry.apply(Unsubscribed(EVERY_TOPIC), None)
        assert lowest_free_descriptor() == before, "a copy was left open"
    assert reports == [NO_SUBSCRIBER]


def test_a_reused_descriptor_of_another_subscriber_counts_until_it_disconnects(
    registry, reports, connected
):
    """C1: the registry cannot distinguish it from the closed connection."""
    kernel_socket, client_socket = connected
    registry.apply(Subscribed(EVERY_TOPIC), kernel_socket.fileno())
    registry.apply(Unsubscribed(EVERY_TOPIC), None)
    registry.apply(Subscribed(b"kernel."), kernel_socket.fileno())
    assert reports == []
    client_socket.close()
    registry.apply(Unsubscribed(b"kernel."), None)
    assert reports == [NO_SUBSCRIBER]


def test_a_new_subscriber_is_counted_after_closed_connections_are_removed(
    registry, reports, server, connected
):
    """C1: the disconnect is reported, although libzmq reports the new subscription first."""
    kernel_socket, client_socket = connected
    registry.apply(Subscribed(EVERY_TOPIC), kernel_socket.fileno())
    client_socket.close()
    with socket.create_connection(server.getsockname()), server.accept()[0] as new_socket:
        registry.apply(Subscribed(EVERY_TOPIC), new_socket.fileno())
        assert reports == [NO_SUBSCRIBER]
        registry.apply(Unsubscribed(EVERY_TOPIC), None)  # the first subscriber's, reported late
        assert reports == [NO_SUBSCRIBER]
        assert registry.subscribers.has_subscriber(b"comm-one")
