"""The measures: one function each, and the table of how often each is taken.

A function takes one turn of a given size: of a `Peer` that it starts itself, or of a `JoinedKernel`
that runs. It returns values in the measure's unit. Less is always better. To add a measure, write
its function and add it to `MEASURES`.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from lean_client import LeanClient, Request, Subscribers, is_display, printed_lines
from peers import JoinedKernel, Kernel, Peer, execute

BATCH = 500
"""Displays of one execute where none may be lost: ipykernel queues up to 1,000 messages per
subscriber (ZeroMQ's default high-water mark) and drops the rest."""

MEGABYTE = 1_000_000


class Turn(NamedTuple):
    """The result of one turn."""

    values: list[float]
    lost: int = 0
    """Outputs that did not arrive."""


# --- peers that the measure starts ---------------------------------------------------------------


def start_to_first_cell(peer: Peer, starts: int) -> Turn:
    """Milliseconds from no process to a cell executed by jupyter_client's client."""
    times = []
    for _ in range(starts):
        begun = time.perf_counter()
        with Kernel(peer) as kernel:
            kernel.execute_first_cell()
            times.append(_milliseconds_since(begun))
    return Turn(times)


def memory(peer: Peer, executes: int) -> Turn:
    """Resident memory of a new kernel after some executes, in megabytes."""
    with JoinedKernel(peer) as kernel:
        _one_by_one(kernel.client, kernel.client.requests(executes))
        return Turn([kernel.resident() / MEGABYTE])


def buffer_memory(peer: Peer, megabytes: int) -> Turn:
    """Megabytes by which the peak of memory grows beyond the buffer that is displayed.

    The kernel is new, because the peak of a used kernel can already be higher.
    """
    with JoinedKernel(peer) as kernel:
        request = _order(kernel.client, "buffer", size=megabytes * MEGABYTE)
        before = kernel.resident()
        flood = kernel.client.flood(request)
        growth = kernel.peak_resident() - before - megabytes * MEGABYTE
    return Turn([growth / MEGABYTE], 1 - _displays(flood.messages, request))


# --- running kernels that echo -------------------------------------------------------------------


def round_trips(kernel: JoinedKernel, executes: int) -> Turn:
    """Milliseconds of each execute, one after the other."""
    return _one_by_one(kernel.client, kernel.client.requests(executes))


def info_round_trips(kernel: JoinedKernel, requests: int) -> Turn:
    """Milliseconds of each kernel_info request, one after the other."""
    return _one_by_one(kernel.client, kernel.client.info_requests(requests))


def stock_round_trips(kernel: JoinedKernel, executes: int) -> Turn:
    """Milliseconds of each execute through jupyter_client's blocking client."""
    times = []
    with kernel.stock_client() as client:
        for _ in range(executes):
            begun = time.perf_counter()
            execute(client)
            times.append(_milliseconds_since(begun))
    return Turn(times)


def pipelined(kernel: JoinedKernel, executes: int) -> Turn:
    """Milliseconds per execute when all requests are sent together."""
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


# --- running kernels that publish on demand ------------------------------------------------------


def cpu_per_message(subscribers: int) -> Callable[[JoinedKernel, int], Turn]:
    """Return a measure: microseconds of the kernel's CPU per display, all threads."""

    def measure(kernel: JoinedKernel, displays: int) -> Turn:
        received = 0
        with Subscribers(kernel.connection, subscribers - 1) as others:  # the client is one, too
            others.join(kernel.client)
            before = kernel.cpu_seconds()
            for done in range(0, displays, BATCH):
                request = _order(kernel.client, "display", times=min(BATCH, displays - done))
                received += _displays(kernel.client.flood(request).messages, request)
                received += others.count_displays(request)
            spent = kernel.cpu_seconds() - before
        return Turn([spent * 1e6 / displays], displays * subscribers - received)

    return measure


def displays(kernel: JoinedKernel, times: int) -> Turn:
    """Microseconds per display of one cell, until a subscriber has received all of them."""
    request = _order(kernel.client, "display", times=times)
    flood = kernel.client.flood(request)
    return Turn([flood.seconds * 1e6 / times], times - _displays(flood.messages, request))


def prints(kernel: JoinedKernel, times: int) -> Turn:
    """Microseconds per flushed print of one cell, until a subscriber has received the text."""
    flood = kernel.client.flood(_order(kernel.client, "print", times=times))
    return Turn([flood.seconds * 1e6 / times], times - printed_lines(flood.messages))


def buffer(kernel: JoinedKernel, megabytes: int) -> Turn:
    """Milliseconds until a subscriber has received a display with a large buffer."""
    request = _order(kernel.client, "buffer", size=megabytes * MEGABYTE)
    flood = kernel.client.flood(request)
    return Turn([flood.seconds * 1000], 1 - _displays(flood.messages, request))


def _order(client: LeanClient, do: str, **arguments: int) -> Request:
    """Return a request that `Workload` carries out."""
    return client.requests(1, json.dumps({"do": do, **arguments}))[0]


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


# --- how often -----------------------------------------------------------------------------------


class Plan(NamedTuple):
    """How often a measure is taken."""

    rounds: int
    """Every peer has one turn in each round."""
    size: int
    """Of one turn: starts, executes, displays or megabytes."""
    seconds: float
    """No round starts after this time: a slow machine takes fewer rounds, not more time."""


@dataclass(frozen=True)
class Measure:
    """One measure."""

    name: str
    title: str
    detail: str
    unit: str
    run: Callable[[Any, int], Turn]
    """Takes one turn of a `Peer`, or of a `JoinedKernel` if ``running``."""
    running: bool
    kind: str
    """The family of peers: "echo" or "workload"."""
    full: Plan
    quick: Plan
    per_second: float = 0
    """Divided by a value, this is a rate per second; 0 if the value says more."""
    ratios: bool = True
    """False for values that can be near zero."""
    warm_up: bool = True
    """True if the first turn differs (imports, byte code, caches) and must not count."""


MEASURES = (
    Measure(
        "start", "Start to first executed cell",
        "jupyter_client: start_new_kernel (its flush takes 0.2 s), then a cell",
        "ms", start_to_first_cell, running=False, kind="echo",
        full=Plan(rounds=12, size=1, seconds=80), quick=Plan(rounds=2, size=1, seconds=13),
    ),
    Measure(
        "memory", "Memory (RSS)", "of a new kernel, after a hundred executes",
        "MB", memory, running=False, kind="echo",
        full=Plan(rounds=4, size=100, seconds=45), quick=Plan(rounds=1, size=100, seconds=5),
        warm_up=False,
    ),
    Measure(
        "round_trip", "Execute round trip", "lean client, request to reply and idle",
        "ms", round_trips, running=True, kind="echo",
        full=Plan(rounds=10, size=300, seconds=45), quick=Plan(rounds=3, size=50, seconds=5),
    ),
    Measure(
        "stock_round_trip", "Execute round trip, jupyter_client's client", "execute_interactive",
        "ms", stock_round_trips, running=True, kind="echo",
        full=Plan(rounds=6, size=150, seconds=45), quick=Plan(rounds=2, size=25, seconds=5),
    ),
    Measure(
        "kernel_info", "kernel_info round trip", "lean client, request to reply and idle",
        "ms", info_round_trips, running=True, kind="echo",
        full=Plan(rounds=6, size=300, seconds=30), quick=Plan(rounds=3, size=50, seconds=4),
    ),
    Measure(
        "pipelined", "Pipelined executes",
        "lean client, all sent together, to the last reply and idle, per execute",
        "ms", pipelined, running=True, kind="echo",
        full=Plan(rounds=10, size=500, seconds=75), quick=Plan(rounds=2, size=100, seconds=6),
        per_second=1e3,
    ),
    Measure(
        "cpu", "CPU per execute", "of the kernel's process, one execute after the other",
        "µs", cpu_per_execute, running=True, kind="echo",
        full=Plan(rounds=6, size=300, seconds=30), quick=Plan(rounds=3, size=50, seconds=4),
    ),
    Measure(
        "message_cpu", "CPU per IOPub message, 1 subscriber",
        "of the kernel's process, all threads, per display",
        "µs", cpu_per_message(1), running=True, kind="workload",
        full=Plan(rounds=8, size=4000, seconds=20), quick=Plan(rounds=3, size=1000, seconds=4),
    ),
    Measure(
        "message_cpu_100", "CPU per IOPub message, 100 subscribers",
        "of the kernel's process, all threads, per display",
        "µs", cpu_per_message(100), running=True, kind="workload",
        full=Plan(rounds=6, size=2000, seconds=60), quick=Plan(rounds=2, size=500, seconds=6),
    ),
    Measure(
        "displays", "Displays from one cell", "until a lean subscriber has the idle, per display",
        "µs", displays, running=True, kind="workload",
        full=Plan(rounds=4, size=100_000, seconds=60), quick=Plan(rounds=2, size=5_000, seconds=6),
        per_second=1e6,
    ),
    Measure(
        "prints", "Prints with flush=True from one cell",
        "until a lean subscriber has the idle, per line",
        "µs", prints, running=True, kind="workload",
        full=Plan(rounds=4, size=100_000, seconds=90), quick=Plan(rounds=2, size=5_000, seconds=8),
        per_second=1e6,
    ),
    Measure(
        "buffer", "Display of a 100 MB buffer", "until a lean subscriber has received it",
        "ms", buffer, running=True, kind="workload",
        full=Plan(rounds=6, size=100, seconds=20), quick=Plan(rounds=2, size=100, seconds=4),
    ),
    Measure(
        "buffer_memory", "Memory for the display of a 100 MB buffer",
        "growth of a new kernel's peak beyond the buffer itself",
        "MB", buffer_memory, running=False, kind="workload",
        full=Plan(rounds=3, size=100, seconds=15), quick=Plan(rounds=1, size=100, seconds=4),
        ratios=False, warm_up=False,
    ),
)  # fmt: skip

HOT_PATH = ("start", "memory", "round_trip", "pipelined", "displays", "prints")
"""The measures that compare two versions of echokernel."""
