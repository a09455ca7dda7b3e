"""The measures in their order, and how often each is taken.

To add one: write its function in `measures.py` and put it into `MEASURES`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import measures
from measures import Turn
from peers import ECHOES, WORKLOADS, Family


class Plan(NamedTuple):
    """How often a measure is taken."""

    rounds: int
    """In each round every peer has its turn."""
    size: int
    """Of one turn: starts, executes, displays, megabytes; what its function counts."""
    seconds: float
    """No further round begins after this time: a slow machine gets fewer, not a longer run."""


@dataclass(frozen=True)
class Measure:
    """One measure; of its values, less is better."""

    name: str
    title: str
    detail: str
    unit: str
    run: Callable[[Any, int], Turn]
    """Takes one turn: of a `Peer`, or if ``running`` of a `JoinedKernel`."""
    running: bool
    family: Family
    full: Plan
    quick: Plan
    per_second: float = 0
    """What to divide by a value to have the rate per second, where that says more."""
    ratios: bool = True
    """Whether its values can be divided by each other: what may be near zero cannot."""
    warm_up: bool = True
    """Whether it needs a turn that does not count before the first round, for what is done once:
    imports, byte code, caches."""


MEASURES = (
    Measure(
        "start", "Start to first executed cell",
        "stock client: start_new_kernel (0.2 s of it is its flush), then a cell",
        "ms", measures.start_to_first_cell, running=False, family=ECHOES,
        full=Plan(rounds=12, size=1, seconds=75), quick=Plan(rounds=2, size=1, seconds=12),
    ),
    Measure(
        "memory", "Memory (RSS)", "of a new kernel, after a hundred executes",
        "MB", measures.memory, running=False, family=ECHOES,
        full=Plan(rounds=4, size=100, seconds=40), quick=Plan(rounds=1, size=100, seconds=4),
        warm_up=False,
    ),
    Measure(
        "round_trip", "Execute round trip", "lean client, request to reply and idle",
        "ms", measures.round_trips, running=True, family=ECHOES,
        full=Plan(rounds=10, size=300, seconds=45), quick=Plan(rounds=3, size=50, seconds=5),
    ),
    Measure(
        "stock_round_trip", "Execute round trip, stock client",
        "jupyter_client's execute_interactive",
        "ms", measures.stock_round_trips, running=True, family=ECHOES,
        full=Plan(rounds=6, size=150, seconds=45), quick=Plan(rounds=2, size=25, seconds=5),
    ),
    Measure(
        "kernel_info", "kernel_info round trip", "lean client, request to reply and idle",
        "ms", measures.info_round_trips, running=True, family=ECHOES,
        full=Plan(rounds=6, size=300, seconds=30), quick=Plan(rounds=3, size=50, seconds=4),
    ),
    Measure(
        "pipelined", "Pipelined executes",
        "lean client, all sent at once, to the last reply and idle, per execute",
        "ms", measures.pipelined, running=True, family=ECHOES,
        full=Plan(rounds=10, size=500, seconds=75), quick=Plan(rounds=2, size=100, seconds=6),
        per_second=1e3,
    ),
    Measure(
        "cpu", "CPU per execute", "of the kernel's process, one execute after the other",
        "µs", measures.cpu_per_execute, running=True, family=ECHOES,
        full=Plan(rounds=6, size=300, seconds=30), quick=Plan(rounds=3, size=50, seconds=4),
    ),
    Measure(
        "message_cpu", "CPU per IOPub message, 1 subscriber",
        "of the kernel's process, I/O thread included, per display",
        "µs", measures.cpu_per_message(1), running=True, family=WORKLOADS,
        full=Plan(rounds=8, size=4000, seconds=20), quick=Plan(rounds=3, size=1000, seconds=4),
    ),
    Measure(
        "message_cpu_100", "CPU per IOPub message, 100 subscribers",
        "of the kernel's process, I/O thread included, per display",
        "µs", measures.cpu_per_message(100), running=True, family=WORKLOADS,
        full=Plan(rounds=6, size=2000, seconds=60), quick=Plan(rounds=2, size=500, seconds=6),
    ),
    Measure(
        "displays", "Displays from one cell",
        "until a lean subscriber that always reads has the idle, per display",
        "µs", measures.displays, running=True, family=WORKLOADS,
        full=Plan(rounds=4, size=100_000, seconds=60), quick=Plan(rounds=2, size=5_000, seconds=6),
        per_second=1e6,
    ),
    Measure(
        "prints", "Prints with flush=True from one cell",
        "until a lean subscriber that always reads has the idle, per line",
        "µs", measures.prints, running=True, family=WORKLOADS,
        full=Plan(rounds=4, size=100_000, seconds=90), quick=Plan(rounds=2, size=5_000, seconds=8),
        per_second=1e6,
    ),
    Measure(
        "buffer", "Display of a 100 MB buffer", "until a lean subscriber has it",
        "ms", measures.buffer, running=True, family=WORKLOADS,
        full=Plan(rounds=6, size=100, seconds=20), quick=Plan(rounds=2, size=100, seconds=4),
    ),
    Measure(
        "buffer_memory", "Memory that a 100 MB buffer's display takes",
        "growth of a new kernel's peak beyond the buffer itself",
        "MB", measures.buffer_memory, running=False, family=WORKLOADS,
        full=Plan(rounds=3, size=100, seconds=15), quick=Plan(rounds=1, size=100, seconds=4),
        ratios=False, warm_up=False,
    ),
)  # fmt: skip
