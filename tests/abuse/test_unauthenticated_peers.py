"""Attacks by peers without the key: memory and log stay bounded, clients are served (W3, W4, K12).

The wire tests cover a single malformed message, and a single junk frame on IOPub.
"""

import contextlib
import itertools
import os
import socket
import uuid

import psutil
import pytest

from abuse.running_kernel import MB, MemoryWatch
from echokernel.conformance.raw_client import DEADLINE
from echokernel.conformance.raw_messages import CHANNELS, DELIMITER, PeerError
from echokernel.conformance.raw_zmtp import GREETING

pytestmark = pytest.mark.timeout(120)

MEMORY_BOUND = 64 * MB

LINE_BOUND = 200
"""Bytes of a line in the log: no line repeats the data of a peer."""

DISCONNECTED = (OSError, PeerError)
"""Errors of a peer whose connection the kernel closes. The kernel may close it."""

UNREAD = 100
"""Frames of 1 MB to a socket that the kernel does not read. ZMQ_RCVHWM bounds the number of unread
messages, not their bytes, so the kernel holds them:
https://manpages.ubuntu.com/manpages/noble/man3/zmq_setsockopt.3.html"""

OPEN_FILES = 256
"""Limit of the kernel's process in the test of connections: the kernel runs out of files."""

EXECUTES = 20


def huge_topics(kernel, attackers):
    """Two topics of 10 MB."""
    for number in range(2):
        subscribe(kernel, attackers, [bytes([65 + number]) * 10 * MB])


def large_topics(kernel, attackers):
    """160 different topics just below the size that the kernel accepts."""
    for number in range(8):
        peer = bytes([65 + number])
        subscribe(kernel, attackers, [peer + bytes([i]) * 60_000 for i in range(20)])


def many_topics(kernel, attackers):
    """20,000 topics of the usual size."""
    topics = [f"session.{uuid.uuid4()}".encode() for _ in range(20_000)]
    subscribe(kernel, attackers, topics)


def many_connections(kernel, attackers):
    """More connections than the kernel's process may have files: silent, or in the greeting."""
    if hasattr(kernel.process, "rlimit"):  # psutil has it on Linux
        kernel.process.rlimit(psutil.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
    addresses = itertools.cycle(kernel.address(name) for name in CHANNELS)
    greetings = itertools.cycle([b"", GREETING[:12], GREETING])
    for _ in range(2 * OPEN_FILES):
        with contextlib.suppress(*DISCONNECTED):
            peer = socket.create_connection(next(addresses), timeout=DEADLINE)
            attackers.callback(peer.close)
            peer.sendall(next(greetings))


def garbage(kernel, attackers):
    """Messages that are malformed or not signed, from 100 peers on each socket."""
    messages = [
        [b""],
        [b"", b"", b""],
        [os.urandom(100)],
        [DELIMITER],
        [DELIMITER, b"", b"{}", b"{}", b"{}", b"{}"],
        [DELIMITER, b"0" * 64, b"{", b"\xff", b"[]", b"null"],
        [b"identity"] * 100,
    ]
    for channel in ("shell", "control", "stdin", "hb"):
        for _ in range(100):
            send(kernel, attackers, channel, messages)


def large_frames_on_shell(kernel, attackers):
    """300 MB."""
    send(kernel, attackers, "shell", [[bytes(MB)]] * 300)


def large_frames_on_stdin(kernel, attackers):
    """100 MB to a socket that the kernel reads only while a cell asks for input."""
    send(kernel, attackers, "stdin", [[bytes(MB)]] * UNREAD)


def large_frames_while_a_cell_runs(kernel, attackers):
    """100 MB while the main thread does not read."""
    other = attackers.enter_context(kernel.client())
    msg_id = other.execute({"do": "compute", "seconds": 2})
    for kind, _ in other.publications(msg_id):
        if kind == "execute_input":
            break
    send(kernel, attackers, "shell", [[bytes(MB)]] * UNREAD)


ATTACKS = {
    huge_topics: MEMORY_BOUND,
    large_topics: MEMORY_BOUND,
    many_topics: MEMORY_BOUND,
    many_connections: MEMORY_BOUND,
    garbage: MEMORY_BOUND,
    large_frames_on_shell: MEMORY_BOUND,
    large_frames_on_stdin: MEMORY_BOUND + UNREAD * MB,
    large_frames_while_a_cell_runs: MEMORY_BOUND + UNREAD * MB,
}
"""The bytes by which the kernel's memory may grow during each attack."""


@pytest.mark.parametrize("attack", ATTACKS)
def test_clients_are_served_during_an_attack_and_afterwards(attack, kernel, client):
    """W4, K12: clients, including new clients, are served; memory and log are bounded."""
    with contextlib.ExitStack() as attackers, MemoryWatch(kernel) as memory:
        attack(kernel, attackers)
        run_cells(client)
    run_cells(client)
    with kernel.client() as newcomer:
        run_cells(newcomer)
    assert memory.growth < ATTACKS[attack]
    lines = kernel.log().splitlines()
    assert [line for line in lines if len(line) > LINE_BOUND] == []


@pytest.mark.parametrize(
    "attack",
    [
        large_frames_while_a_cell_runs,
        pytest.param(
            large_frames_on_stdin,
            marks=pytest.mark.xfail(
                reason="libzmq keeps frames of a disconnected peer until the kernel reads stdin",
                strict=True,
            ),
        ),
    ],
)
def test_unread_frames_of_a_disconnected_peer_are_released(attack, kernel, client):
    """W4: the memory is released when the peer has disconnected and the cell has ended."""
    before = kernel.memory()
    with contextlib.ExitStack() as attackers:
        attack(kernel, attackers)
    run_cells(client)
    assert kernel.memory() - before < MEMORY_BOUND


def run_cells(client):
    for number in range(EXECUTES):
        kinds = [kind for kind, _ in client.run(f"cell {number}")]
        assert kinds == ["status", "execute_input", "stream", "status"]


def subscribe(kernel, attackers, topics):
    """Subscribe with one peer, until the kernel disconnects it."""
    with contextlib.suppress(*DISCONNECTED):
        peer = attackers.enter_context(kernel.raw_peer("iopub", b"SUB"))
        for topic in topics:
            peer.send(b"\x01" + topic)


def send(kernel, attackers, channel, messages):
    """Send with one peer, until the kernel disconnects it."""
    with contextlib.suppress(*DISCONNECTED):
        peer = attackers.enter_context(kernel.raw_peer(channel, b"DEALER"))
        for frames in messages:
            peer.send(*frames)
