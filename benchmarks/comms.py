"""How soon comms end when their client is killed: ``run.py --only comms``.

The client subscribes to its presence topic, so its comms end although another client stays (C4).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Iterator, Mapping
from multiprocessing.process import BaseProcess
from statistics import median
from typing import Any

import zmq
from lean_client import CONTENT, HEADER, KernelLost, LeanClient, endpoint, receiver, signed_frames
from peers import ECHO, START_TIME, Kernel
from progress import show_progress
from report import Table

from echokernel.client import BlockingWelcomeClient

KILLED = 10
"""Clients with one comm."""

COMMS = 10_000
"""Comms of one more client."""

COMM_TIME = 60.0
"""Seconds without a comm message after which the benchmark stops."""


def measure(quick: bool) -> Table:
    """Kill clients with one comm each, then a client with very many comms."""
    clients, comms = (3, COMMS // 10) if quick else (KILLED, COMMS)
    peer = next(peer for peer in ECHO.peers if peer.name == ECHO.subject)
    with (
        Kernel(peer) as kernel,
        contextlib.closing(CommSubscriber(kernel.connection)) as subscriber,
    ):
        # It does not receive comm messages, which would lengthen its round trips.
        client = kernel.lean_client(b"kernel.")
        show_progress(f"comms: killing {clients} clients with one comm, one with {comms}")
        pairs = [_kill_one(kernel.connection, subscriber) for _ in range(clients)]
        failed, closed = zip(*pairs, strict=True)
        undisturbed = [_round_trip(client) for _ in range(20)]
        cells: dict[str, float | str] = {
            "clients killed": clients,
            "SIGKILL to failed request, median ms": median(failed),
            "SIGKILL to failed request, longest ms": max(failed),
            "SIGKILL to closed comm, median ms": median(closed),
            "execute before, median ms": median(undisturbed),
            **_kill_many(kernel.connection, subscriber, client, comms),
        }
    return Table("A client with open comms is killed (grace period: 1000 ms)", {peer.short: cells})


class CommSubscriber:
    """A subscriber of comm messages; it matches bytes and parses nothing."""

    def __init__(self, connection: Mapping[str, Any]) -> None:
        self._context = zmq.Context()
        socket = self._context.socket(zmq.SUB)
        socket.set_hwm(0)
        socket.rcvtimeo = int(COMM_TIME * 1000)
        socket.subscribe(b"comm-")
        socket.connect(endpoint(connection, "iopub"))
        self._receive = receiver(socket)

    def close(self) -> None:
        self._context.destroy(linger=0)

    def wait_for(self, position: int, text: bytes) -> None:
        """Read until a signed frame at ``position`` contains ``text``."""
        try:
            while text not in signed_frames(self._receive())[position]:
                pass
        except zmq.Again:
            raise KernelLost(f"no comm message with {text.decode()} arrived")

    def count_arrived(self, position: int, text: bytes) -> int:
        """Return the number of such messages among those that have arrived; do not wait."""
        number = 0
        with contextlib.suppress(zmq.Again):
            while True:
                number += text in signed_frames(self._receive(zmq.NOBLOCK.value))[position]
        return number


def _kill_one(connection: Mapping[str, Any], subscriber: CommSubscriber) -> tuple[float, float]:
    """Return milliseconds from SIGKILL to the failed request, and to the closed comm."""
    with _client_process(connection, 1) as process:
        subscriber.wait_for(CONTENT, b'"method"')  # the kernel's request to the client
        begun = time.perf_counter()
        process.kill()
        # The method `ask` returns an error as soon as the kernel's own request has failed.
        subscriber.wait_for(CONTENT, b'"error"')
        failed = time.perf_counter()
        subscriber.wait_for(HEADER, b'"comm_close"')
        return (failed - begun) * 1000, (time.perf_counter() - begun) * 1000


def _kill_many(
    connection: Mapping[str, Any], subscriber: CommSubscriber, client: LeanClient, comms: int
) -> dict[str, float | str]:
    """Execute one cell after the other while the kernel closes very many comms."""
    with _client_process(connection, comms) as process:
        subscriber.wait_for(CONTENT, b'"method"')
        client.execute(client.requests(1)[0])  # the kernel has handled the earlier messages
        begun = time.perf_counter()
        process.kill()
        subscriber.wait_for(HEADER, b'"comm_close"')
        first = time.perf_counter()
        times: list[float] = []
        closed = 1
        while closed < comms:
            times.append(_round_trip(client))
            closed += subscriber.count_arrived(HEADER, b'"comm_close"')
            if time.perf_counter() > first + COMM_TIME:
                raise KernelLost(f"the kernel closed {closed} of {comms} comms in time")
        last = time.perf_counter()
    return {
        "comms of one client": closed,
        "SIGKILL to the last closed, ms": (last - begun) * 1000,
        "first to last closed, ms": (last - first) * 1000,
        "executes meanwhile": len(times),
        "execute meanwhile, median ms": median(times),
        "execute meanwhile, longest ms": max(times),
    }


def _round_trip(client: LeanClient) -> float:
    [request] = client.requests(1)
    begun = time.perf_counter()
    client.execute(request)
    return (time.perf_counter() - begun) * 1000


@contextlib.contextmanager
def _client_process(connection: Mapping[str, Any], comms: int) -> Iterator[BaseProcess]:
    """Run a client process with open comms; the kernel waits for its answer over one of them."""
    process = multiprocessing.get_context("spawn").Process(
        target=_run_client, args=(dict(connection), comms), daemon=True
    )
    process.start()
    try:
        yield process
    finally:
        process.kill()
        process.join()


def _run_client(connection: dict[str, Any], comms: int) -> None:
    """Open comms, call `ask` over the last one, and wait to be killed."""
    client = BlockingWelcomeClient()
    client.load_connection_info(connection)
    client.start_channels(hb=False)
    client.wait_for_ready(timeout=START_TIME)
    prefix = client.session.session
    names = [f"{prefix}-{number}" for number in range(comms)]
    call = {"jsonrpc": "2.0", "id": 1, "method": "ask"}
    for name in names:
        content = {"comm_id": name, "target_name": "echo", "data": {}}
        client.shell_channel.send(client.session.msg("comm_open", content))
    content = {"comm_id": names[-1], "data": call}
    client.shell_channel.send(client.session.msg("comm_msg", content))
    while True:
        time.sleep(COMM_TIME)
