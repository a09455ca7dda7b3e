"""What is measured: one small function per measure.

Each takes one turn of a given size, of a `Peer` that it starts itself or of a `JoinedKernel`,
and returns values in the measure's unit; of all of them, less is better. `plan.py` says how often.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import NamedTuple

from crowd import Crowd
from kernels import JoinedKernel, Kernel, stock_execute
from lean_client import LeanClient
from lean_messages import Request, is_display, printed_lines
from peers import Peer

BATCH = 500
"""Displays that one execute publishes where none may be lost: ipykernel keeps up to 1,000 per
subscriber, and drops what is more."""

MEGABYTE = 1_000_000


class Turn(NamedTuple):
    """What one turn of one peer gave."""

    values: list[float]
    lost: int = 0
    """Outputs that never came."""


# --- peers that are started -------------------------------------------------------------------


def start_to_first_cell(peer: Peer, starts: int) -> Turn:
    """Milliseconds from nothing until a stock client has executed a cell."""
    times = []
    for _ in range(starts):
        begun = time.perf_counter()
        with Kernel(peer) as kernel:
            kernel.first_cell()
            times.append(_milliseconds_since(begun))
    return Turn(times)


def memory(peer: Peer, executes: int) -> Turn:
    """Megabytes of memory (RSS) of a new kernel after some executes."""
    with JoinedKernel(peer) as kernel:
        _one_by_one(kernel.client, kernel.client.requests(executes))
        return Turn([kernel.resident() / MEGABYTE])


def buffer_memory(peer: Peer, megabytes: int) -> Turn:
    """Megabytes by which the memory's peak grows beyond the buffer that is displayed.

    In a new kernel: the peak of one that has worked says nothing.
    """
    with JoinedKernel(peer) as kernel:
        request = _order(kernel.client, "buffer", size=megabytes * MEGABYTE)
        before = kernel.resident()
        flood = kernel.client.flood(request)
        grew = kernel.peak_resident() - before - megabytes * MEGABYTE
    lost = 1 - _displays(flood.messages, request)
    return Turn([grew / MEGABYTE], lost)


# --- kernels that echo ------------------------------------------------------------------------


def round_trips(kernel: JoinedKernel, executes: int) -> Turn:
    """Milliseconds of each execute, one after the other: request to reply and idle."""
    return _one_by_one(kernel.client, kernel.client.requests(executes))


def info_round_trips(kernel: JoinedKernel, requests: int) -> Turn:
    """Milliseconds of each kernel_info, one after the other: request to reply and idle."""
    return _one_by_one(kernel.client, kernel.client.info_requests(requests))


def stock_round_trips(kernel: JoinedKernel, executes: int) -> Turn:
    """Milliseconds of each execute through jupyter_client's blocking client."""
    times = []
    with kernel.stock_client() as client:
        for _ in range(executes):
            begun = time.perf_counter()
            stock_execute(client)
            times.append(_milliseconds_since(begun))
    return Turn(times)


def pipelined(kernel: JoinedKernel, executes: int) -> Turn:
    """Milliseconds per execute when all are sent at once: the batch's time by their number."""
    requests = kernel.client.requests(executes)
    begun = time.perf_counter()
    lost = kernel.client.execute_all(requests)
    return Turn([_milliseconds_since(begun) / executes], lost)


def cpu_per_execute(kernel: JoinedKernel, executes: int) -> Turn:
    """Microseconds of the kernel's CPU per execute, one after the other."""
    requests = kernel.client.requests(executes)
    before = kernel.cpu_seconds()
    for request in requests:
        kernel.client.execute(request)
    return Turn([(kernel.cpu_seconds() - before) * 1e6 / executes])


# --- kernels that publish on demand ------------------------------------------------------------


def cpu_per_message(subscribers: int) -> Callable[[JoinedKernel, int], Turn]:
    """Return a measure: microseconds of the kernel's CPU, I/O thread included, per display."""

    def measure(kernel: JoinedKernel, displays: int) -> Turn:
        received = 0
        with Crowd(kernel.connection, subscribers - 1) as crowd:  # the client is one, too
            crowd.join(kernel.client)
            before = kernel.cpu_seconds()
            for done in range(0, displays, BATCH):
                request = _order(kernel.client, "display", times=min(BATCH, displays - done))
                received += _displays(kernel.client.flood(request).messages, request)
                received += crowd.collect(request)
            spent = kernel.cpu_seconds() - before
        return Turn([spent * 1e6 / displays], displays * subscribers - received)

    return measure


def displays(kernel: JoinedKernel, times: int) -> Turn:
    """Microseconds per display of one cell, until a subscriber that always reads has them all."""
    request = _order(kernel.client, "display", times=times)
    flood = kernel.client.flood(request)
    return Turn([flood.seconds * 1e6 / times], times - _displays(flood.messages, request))


def prints(kernel: JoinedKernel, times: int) -> Turn:
    """Microseconds per flushed print of one cell, until the subscriber has all of the text."""
    request = _order(kernel.client, "print", times=times, flush=True)
    flood = kernel.client.flood(request)
    lost = times - printed_lines(flood.messages)
    return Turn([flood.seconds * 1e6 / times], lost)


def buffer(kernel: JoinedKernel, megabytes: int) -> Turn:
    """Milliseconds until a display with a large buffer is received."""
    request = _order(kernel.client, "buffer", size=megabytes * MEGABYTE)
    flood = kernel.client.flood(request)
    return Turn([flood.seconds * 1000], 1 - _displays(flood.messages, request))


def _order(client: LeanClient, do: str, **how: int) -> Request:
    """Return what makes `Workload` do something."""
    return client.requests(1, json.dumps({"do": do, **how}))[0]


def _displays(messages: list[list[bytes]], request: Request) -> int:
    return sum(is_display(signed, request.mark) for signed in messages)


def _one_by_one(client: LeanClient, requests: list[Request]) -> Turn:
    times = []
    for request in requests:
        begun = time.perf_counter()
        client.execute(request)
        times.append(_milliseconds_since(begun))
    return Turn(times)


def _milliseconds_since(begun: float) -> float:
    return (time.perf_counter() - begun) * 1000
