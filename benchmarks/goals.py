"""What echokernel wants to reach beside its peers, as data, and whether it did.

A goal is met or missed by the median of one run. Neither is an error: the numbers are printed
whatever they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Goal:
    """A bound for a measure of ours, as a ratio to a peer's."""

    measure: str
    reference: str | None
    """A peer; None if the bound is for the value itself, in the measure's unit."""
    at_most: float | None = None
    at_least: float | None = None
    """In place of ``at_most``: of rates, i.e. how many times as many of them in a second."""


GOALS = (
    Goal("start", "echo", at_most=0.65),
    Goal("memory", "echo", at_most=0.85),
    Goal("round_trip", "echo", at_most=0.22),
    Goal("round_trip", "xpython-raw", at_most=0.85),
    Goal("round_trip", "floor", at_most=1.3),
    Goal("pipelined", "echo", at_least=9),
    Goal("pipelined", "xpython-raw", at_least=1.5),
    Goal("pipelined", "floor", at_least=0.9),
    Goal("cpu", "echo", at_most=0.2),
    Goal("message_cpu", "workload-ipykernel", at_most=0.3),
    Goal("message_cpu_100", "workload-ipykernel", at_most=0.75),
    Goal("displays", "workload-ipykernel", at_least=4),
    Goal("prints", "workload-ipykernel", at_least=5),
    Goal("buffer_memory", None, at_most=10),  # a copy would be 100 MB
)


def outcome(goal: Goal, result: Mapping[str, Any]) -> dict[str, Any]:
    """Return a goal and what became of it, as JSON; ``result`` is the measure's report."""
    ours = result["peers"].get(result["ours"], {})
    reached = ours.get("ratio_to", {}).get(goal.reference) if goal.reference else ours.get("value")
    if reached and goal.at_least is not None:
        reached = _rate(reached)
    return asdict(goal) | {
        "title": result["title"],
        "unit": "" if goal.reference else result["unit"],
        "reached": reached,
        "met": _is_met(goal, reached["median"]) if reached else None,
    }


def _is_met(goal: Goal, reached: float) -> bool:
    if goal.at_least is not None:
        return reached >= goal.at_least
    return goal.at_most is not None and reached <= goal.at_most


def _rate(ratio: Mapping[str, float]) -> dict[str, float]:
    """Turn a ratio of times into one of rates."""
    return {
        "median": 1 / ratio["median"],
        "q1": 1 / ratio["q3"],
        "q3": 1 / ratio["q1"],
        "n": ratio["n"],
    }
