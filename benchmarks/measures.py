"""What is measured: one small function per measure, and the plan of its rounds.

To add a measure: write a function that returns milliseconds, and put it into `MEASURES`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

from lean_client import LeanClient
from peers import Kernel, Peer


class Plan(NamedTuple):
    """How often a measure is taken."""

    rounds: int
    """In each round every peer has its turn."""
    size: int
    """Of one turn: starts, or executes."""
    seconds: float
    """No further round begins after this time: a slow machine gets fewer, not a longer run."""


@dataclass(frozen=True)
class Measure:
    """One measure; its values are milliseconds, and less is better."""

    name: str
    title: str
    run: Callable[[Any, int], list[float]]
    """Takes one turn of a given size: of a `Peer`, or if ``running`` of a `LeanClient`."""
    running: bool
    full: Plan
    quick: Plan
    per_second: bool = False
    """Whether how many of them there are in a second says more."""


def start_to_ready(peer: Peer, starts: int) -> list[float]:
    """Milliseconds from nothing to a kernel that the stock client calls ready."""
    times = []
    for _ in range(starts):
        begun = time.perf_counter()
        kernel = Kernel(peer)
        times.append(_milliseconds_since(begun))
        kernel.stop()
    return times


def round_trips(client: LeanClient, executes: int) -> list[float]:
    """Milliseconds of each execute, one after the other: request to reply and idle."""
    times = []
    for request in client.requests(executes):
        begun = time.perf_counter()
        client.execute(request)
        times.append(_milliseconds_since(begun))
    return times


def pipelined(client: LeanClient, executes: int) -> list[float]:
    """Milliseconds per execute when all are sent at once: the batch's time by their number."""
    requests = client.requests(executes)
    begun = time.perf_counter()
    client.execute_all(requests)
    return [_milliseconds_since(begun) / executes]


def _milliseconds_since(begun: float) -> float:
    return (time.perf_counter() - begun) * 1000


MEASURES = (
    Measure(
        "start",
        "Start to ready: jupyter_client's start_new_kernel (0.2 s of it is its flush)",
        start_to_ready,
        running=False,
        full=Plan(rounds=12, size=1, seconds=70),
        quick=Plan(rounds=3, size=1, seconds=8),
    ),
    Measure(
        "round_trip",
        "Round trip of an execute: request to reply and idle",
        round_trips,
        running=True,
        full=Plan(rounds=10, size=300, seconds=45),
        quick=Plan(rounds=4, size=50, seconds=6),
    ),
    Measure(
        "pipelined",
        "Pipelined executes: all sent at once, to the last reply and idle, per execute",
        pipelined,
        running=True,
        full=Plan(rounds=10, size=1000, seconds=75),
        quick=Plan(rounds=3, size=200, seconds=6),
        per_second=True,
    ),
)
