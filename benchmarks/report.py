"""From samples to ratios, to JSON, and to the printed tables.

A ratio is formed within a round, from two turns that the machine served under similar conditions.
"""

from __future__ import annotations

import itertools
import math
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from statistics import median, quantiles
from typing import Any, NamedTuple

from measures import Measure, Plan, Turn
from peers import Family

PACKAGES = (
    "echokernel",
    "echo_kernel",
    "ipykernel",
    "async-kernel",
    "xeus-python",
    "kernmini",
    "jupyter_client",
    "pyzmq",
)

LEGEND = "Cells: median [quartiles]. Ratios are of times, CPU or memory: less is better."


class Goal(NamedTuple):
    """A bound for echokernel's median. A missed goal is reported, but is not a failure."""

    measure: str
    reference: str | None
    """The peer of the ratio; None if the bound is for the value, in the measure's unit."""
    at_most: float | None = None
    at_least: float | None = None
    """Instead of ``at_most``: a bound for the ratio of rates."""


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


class Table(NamedTuple):
    """The result of a benchmark that is not a measure: one column for each subject."""

    title: str
    columns: dict[str, dict[str, float | str]]


@dataclass
class Samples:
    """The turns of one peer in one measure."""

    rounds: list[Turn] = field(default_factory=list)
    failure: str = ""

    def ratios(self, reference: Samples) -> list[float]:
        """Return this peer's median over the reference's, for each round."""
        # A peer that failed has fewer rounds: the first ones.
        pairs = zip(self.rounds, reference.rounds, strict=False)
        return [median(own.values) / median(other.values) for own, other in pairs]


# --- as JSON -------------------------------------------------------------------------------------


def measure_report(
    measure: Measure, family: Family, plan: Plan, samples: Mapping[str, Samples]
) -> dict[str, Any]:
    """Return one measure as JSON: for each peer its values and its ratios to the references."""
    references = {n: samples[n] for n in family.references if n in samples and measure.ratios}
    return {
        "name": measure.name,
        "title": measure.title,
        "detail": measure.detail,
        "unit": measure.unit,
        "per_second": measure.per_second,
        "size": plan.size,
        "kind": measure.kind,
        "peers": {
            name: {
                "value": _summary([value for turn in taken.rounds for value in turn.values]),
                "ratio_to": {r: _summary(taken.ratios(s)) for r, s in references.items()},
                "round_medians": [median(turn.values) for turn in taken.rounds],
                "lost": sum(turn.lost for turn in taken.rounds),
                "failure": taken.failure or None,
            }
            for name, taken in samples.items()
        },
    }


def outcomes(
    measures: Mapping[str, Mapping[str, Any]], families: Mapping[str, Family]
) -> list[dict[str, Any]]:
    """Return the goals of these measures as JSON, each with the reached value."""
    results = []
    for goal in GOALS:
        if (measure := measures.get(goal.measure)) is None:
            continue
        subject = measure["peers"].get(families[measure["kind"]].subject, {})
        ratios = subject.get("ratio_to", {})
        reached = ratios.get(goal.reference) if goal.reference else subject.get("value")
        if reached and goal.at_least is not None:
            reached = {"median": 1 / reached["median"], "q1": 1 / reached["q3"],
                       "q3": 1 / reached["q1"], "n": reached["n"]}  # fmt: skip
        met = None
        if reached:
            low, high = goal.at_least or -math.inf, goal.at_most or math.inf
            met = low <= reached["median"] <= high
        unit = "" if goal.reference else measure["unit"]
        outcome = {"title": measure["title"], "unit": unit, "reached": reached, "met": met}
        results.append(goal._asdict() | outcome)
    return results


def machine() -> dict[str, Any]:
    """Return the conditions of the run."""
    versions = {name: _version(name) for name in PACKAGES}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "load_at_start": load(),
        "packages": {name: version for name, version in versions.items() if version},
    }


def load() -> float:
    """Return the mean number of runnable processes during the last minute."""
    return round(os.getloadavg()[0], 1)


def _summary(values: list[float]) -> dict[str, float] | None:
    """Return median and quartiles; None without values."""
    if not values:
        return None
    low, middle, high = quantiles(values, method="inclusive") if len(values) > 1 else values * 3
    return {"median": middle, "q1": low, "q3": high, "n": len(values)}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


# --- as text -------------------------------------------------------------------------------------


def lines(report: Mapping[str, Any], families: Mapping[str, Family]) -> Iterator[str]:
    """Yield the lines of the whole report."""
    about = report["machine"]
    yield (
        f"Python {about['python']}, {about['cpus']} CPUs, load {about['load_at_start']} at the"
        f" start and {report['load_at_end']} at the end, {report['seconds']:g} s"
        f"{', QUICK' * report['quick']}"
    )
    yield ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    if report["measures"]:
        yield LEGEND
    for measure in report["measures"].values():
        yield from ["", f"{measure['title']}: {measure['detail']}"]
        yield from _measure_lines(measure, families[measure["kind"]], report["not_installed"])
    if report["goals"]:
        short = {peer.name: peer.short for family in families.values() for peer in family.peers}
        yield from ["", "Goals of echokernel"]
        yield from _aligned([_goal_cells(goal, short) for goal in report["goals"]])
    for table in report["tables"].values():
        yield from ["", table["title"], *_table_lines(table["columns"])]
    yield ""
    for name, package in report["not_installed"].items():
        yield f"not installed: {name} (pip install {package})"
    for place, reason in report["failures"].items():
        yield f"FAILED {place}: {reason}"


def _measure_lines(
    measure: Mapping[str, Any], family: Family, absent: Mapping[str, str]
) -> list[str]:
    labels = {peer.name: peer.short for peer in family.peers}
    references = [n for n in family.references if any(n in p["ratio_to"] for p in
                                                      measure["peers"].values())]  # fmt: skip
    heads = ["", measure["unit"], *(f"/ {labels[name]}" for name in references)]
    if measure["per_second"]:
        heads.append("per second")
    rows = [heads]
    for peer in family.peers:
        if peer.name in measure["peers"]:
            cells = _peer_cells(measure, peer.name)
        else:
            cells = ["not installed" if peer.name in absent else "FAILED before"]
        rows.append([peer.label, *cells])
    return _aligned(rows)


def _peer_cells(measure: Mapping[str, Any], name: str) -> list[str]:
    result = measure["peers"][name]
    value = result["value"]
    cells = [_spread(value)]
    for reference, ratio in result["ratio_to"].items():
        cells.append("1" if reference == name and value else _spread(ratio))
    if measure["per_second"] and value:
        cells.append(f"{measure['per_second'] / value['median']:,.0f}")
    if result["lost"]:
        cells.append(f"{result['lost']:,} outputs lost in {len(result['round_medians'])} rounds")
    if result["failure"]:
        cells.append("FAILED")
    return cells


def _goal_cells(goal: Mapping[str, Any], short: Mapping[str, str]) -> list[str]:
    title = goal["title"] + (", rate" if goal["at_least"] else "")
    reference = f"/ {short[goal['reference']]}" if goal["reference"] else ""
    sign, bound = ("≤", goal["at_most"]) if goal["at_least"] is None else ("≥", goal["at_least"])
    verdict = {True: "met", False: "missed", None: "not measured"}[goal["met"]]
    limit = f"(goal {sign} {bound:g} {goal['unit']}".rstrip() + ")"
    return [title, reference, _spread(goal["reached"]), limit, verdict]


def _table_lines(columns: Mapping[str, Mapping[str, float | str]]) -> list[str]:
    names = dict.fromkeys(name for column in columns.values() for name in column)
    cells = ([_cell(column.get(name, "-")) for column in columns.values()] for name in names)
    return _aligned([["", *columns], *([n, *c] for n, c in zip(names, cells, strict=True))])


def _cell(value: float | str) -> str:
    return value if isinstance(value, str) else digits(value)


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines with aligned columns."""
    columns = itertools.zip_longest(*rows, fillvalue="")
    widths = [max(map(len, column)) + 2 for column in columns]
    return [
        "".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip()
        for row in rows
    ]


def _spread(summary: Mapping[str, float] | None) -> str:
    if summary is None:
        return "-"
    middle, low, high = (digits(summary[key]) for key in ("median", "q1", "q3"))
    return f"{middle} [{low}, {high}]" if summary["n"] > 1 else middle


def digits(value: float) -> str:
    """Return ``value`` with three significant digits, without an exponent."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
