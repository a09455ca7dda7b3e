"""The report as text that people read: a table per measure, the goals, and what went wrong."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import trials
from peers import PEERS

LEGEND = (
    "Each cell: median [quartiles]. Ratios are of times (or CPU, memory), taken within a round: "
    "less is better."
)

LABELS = {peer.name: peer.label for peer in PEERS}
SHORT = {peer.name: peer.short for peer in PEERS}


def lines(report: Mapping[str, Any]) -> list[str]:
    """Return the whole report."""
    about = report["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    text = [
        f"Python {about['python']}, {about['cpus']} CPUs, load {about['load_at_start']} at start"
        f" and {report['load_at_end']} at the end, {report['seconds']:g} s"
        f"{', QUICK' * report['quick']}",
        packages,
        LEGEND,
    ]
    for measure in report["measures"].values():
        text += ["", f"{measure['title']}: {measure['detail']}"]
        text += _measure_table(measure, report["not_installed"])
    if report["goals"]:
        text += [
            "",
            "Goals, of echokernel",
            *_aligned([_goal_row(goal) for goal in report["goals"]]),
        ]
    text.append("")
    for tried in report["trials"].values():
        text += trials.lines(trials.Result(**tried))
    text += [f"not installed: {k} (pip install {p})" for k, p in report["not_installed"].items()]
    text += [f"FAILED {where}: {why}" for where, why in report["failures"].items()]
    return text


def _measure_table(measure: Mapping[str, Any], absent: Mapping[str, str]) -> list[str]:
    heads = ["", measure["unit"], *(f"/ {SHORT[name]}" for name in measure["references"])]
    if measure["per_second"]:
        heads.append("per second")
    rows = [heads]
    for name in measure["order"]:
        result = measure["peers"].get(name)
        if result is None:
            rows.append([LABELS[name], "not installed" if name in absent else "FAILED before"])
        else:
            rows.append([LABELS[name], *_cells(measure, name, result)])
    return _aligned(rows)


def _cells(measure: Mapping[str, Any], name: str, result: Mapping[str, Any]) -> list[str]:
    """Return what stands in the columns of one peer."""
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


def _goal_row(goal: Mapping[str, Any]) -> list[str]:
    peer = f"/ {SHORT[goal['reference']]}" if goal["reference"] else ""
    sign, bound = ("≤", goal["at_most"]) if goal["at_least"] is None else ("≥", goal["at_least"])
    if goal["reached"] is None:
        found, verdict = "-", "not measured"
    else:
        found, verdict = _spread(goal["reached"]), "met" if goal["met"] else "missed"
    what = goal["title"] + (", rate" if goal["at_least"] else "")
    return [what, peer, found, f"(goal {sign} {bound:g} {goal['unit']}".rstrip() + ")", verdict]


def _aligned(rows: list[list[str]]) -> list[str]:
    """Return rows of cells as lines, in columns."""
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
    """Return ``value`` with three significant digits, never in powers of ten."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
