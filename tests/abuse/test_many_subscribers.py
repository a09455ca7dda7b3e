"""A thousand subscribers that connect and disconnect (W1, W2)."""

import time
import uuid

import pytest
import zmq

from echokernel.conformance.raw_client import DEADLINE, SECOND
from echokernel.conformance.raw_messages import DELIMITER, endpoint

pytestmark = pytest.mark.timeout(120)


def subscribe(context, kernel, topics):
    """Connect one socket for each topic; return the welcomed sockets, and the welcomes."""
    poller = zmq.Poller()
    for topic in topics:
        sock = context.socket(zmq.SUB)
        sock.subscribe(topic)  # before connecting (S1)
        sock.connect(endpoint(kernel.connection, "iopub"))
        poller.register(sock, zmq.POLLIN)
    welcomed, welcomes = set(), set()
    deadline = time.monotonic() + DEADLINE
    while min(len(welcomed), len(welcomes)) < len(topics) and time.monotonic() < deadline:
        for sock, _ in poller.poll(SECOND):
            frames = sock.recv_multipart()
            header = frames[frames.index(DELIMITER) + 2]
            if b'"iopub_welcome"' in header:
                welcomed.add(sock)
                welcomes.add(header)
    return welcomed, welcomes


def test_each_of_a_thousand_topics_is_welcomed(kernel, client):
    """W2: four waves of 250 subscribers; each wave disconnects after its welcomes."""
    for _ in range(4):
        topics = [f"session.{uuid.uuid4()}".encode() for _ in range(250)]
        with zmq.Context() as context:
            welcomed, welcomes = subscribe(context, kernel, topics)
            assert (len(welcomed), len(welcomes)) == (250, 250)
            context.destroy(linger=0)
    client.run("still here")


def test_each_of_a_hundred_subscribers_of_every_topic_is_welcomed(kernel, client):
    """W1, W2: each subscriber causes one welcome, although all topics are equal."""
    with zmq.Context() as context:
        welcomed, welcomes = subscribe(context, kernel, [b""] * 100)
        assert (len(welcomed), len(welcomes)) == (100, 100)
        context.destroy(linger=0)
    client.run("still here")
