"""The report as a picture: per measure everybody's ratio to the peer that counts as 1.

Transparent, and in colours that can be read on white and on black: the picture is for a README.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter
from peers import ECHOES, WORKLOADS, Family
from tables import digits

TEXT = "#747c85"
GRID = "#747c8540"
GOAL = "#d4a017"

MARKS = {
    "python3": ("#b05c8a", "s"),
    "async": ("#9166cc", "D"),
    "xpython-raw": ("#3f86d6", "^"),
    "floor": ("#2e9d6c", "v"),
    "echo-handshake": ("#e8590c", "o"),
    "workload-ours": ("#e8590c", "o"),
}
"""Colour and form of those who are drawn; of the two starts of ours, once it has started, one is
enough."""

SETTINGS: Any = {
    "font.size": 9,
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": TEXT,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "svg.hashsalt": "echokernel",  # the same numbers give the same file
}

WIDTH, ROW, AROUND = 8.4, 0.42, 1.3
"""Inches: of the picture, of one measure, and of what is above, between and below them."""


def draw(report: Mapping[str, Any], file: Path) -> None:
    """Draw all measures that have ratios; the file's suffix says in which format."""
    panels = [
        (family, measures) for family in (ECHOES, WORKLOADS) if (measures := _of(report, family))
    ]
    if not panels:
        return
    heights = [len(measures) for _, measures in panels]
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(WIDTH, ROW * sum(heights) + AROUND), layout="constrained")
        all_axes = figure.subplots(
            len(panels), sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
        )[:, 0]
        for axes, (family, measures) in zip(all_axes, panels, strict=True):
            _panel(axes, family, measures, report["goals"])
        all_axes[-1].set_xlabel("ratio of times, CPU or memory (median, quartiles): left is better")
        _legend(figure, all_axes)
        metadata = {"Date": None} if file.suffix == ".svg" else None
        figure.savefig(file, transparent=True, dpi=160, metadata=metadata)


def _of(report: Mapping[str, Any], family: Family) -> list[Mapping[str, Any]]:
    """Return the measures of a family that can be drawn."""
    measures = report["measures"].values()
    return [m for m in measures if m["ours"] == family.ours and family.references[0] in m["peers"]
            and m["references"]]  # fmt: skip


def _panel(
    axes: Axes, family: Family, measures: list[Mapping[str, Any]], goals: list[Mapping[str, Any]]
) -> None:
    """Draw one row per measure; the family's first reference is 1."""
    one = next(peer for peer in family.peers if peer.name == family.references[0])
    axes.set_title(f"1 = {one.label}", loc="left", fontsize=9, fontweight="bold")
    axes.set_xscale("log")
    axes.set_ylim(len(measures) - 0.5, -0.5)
    axes.set_yticks(range(len(measures)), [measure["title"] for measure in measures])
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.grid(axis="x", color=GRID, linewidth=0.6)
    axes.axvline(1, color=TEXT, linewidth=1.2)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.annotate("echokernel", (1.01, -0.6), xycoords=("axes fraction", "data"), va="bottom",
                  color=MARKS[family.ours][0], fontweight="bold")  # fmt: skip
    for row, measure in enumerate(measures):
        _row(axes, family, row, measure)
        for goal in goals:
            if goal["measure"] == measure["name"] and goal["reference"] == one.name:
                _goal(axes, row, goal)


def _row(axes: Axes, family: Family, row: int, measure: Mapping[str, Any]) -> None:
    drawn = [peer for peer in family.peers if peer.name in MARKS and peer.name in measure["peers"]]
    for peer in drawn:
        ratio = measure["peers"][peer.name]["ratio_to"][family.references[0]]
        if ratio is None:
            continue
        colour, form = MARKS[peer.name]
        ours = peer.name == family.ours
        axes.errorbar(
            ratio["median"],
            row,
            xerr=[[ratio["median"] - ratio["q1"]], [ratio["q3"] - ratio["median"]]],
            fmt=form,
            color=colour,
            markersize=8 if ours else 5.5,
            elinewidth=1.6,
            zorder=4 if ours else 3,
            label=peer.short,
        )
    if value := measure["peers"].get(family.ours, {}).get("value"):
        axes.annotate(
            _amount(measure, value["median"]),
            (1.01, row),
            xycoords=("axes fraction", "data"),
            va="center",
            color=MARKS[family.ours][0],
        )


def _amount(measure: Mapping[str, Any], value: float) -> str:
    """Return our own value, or the rate that it means."""
    if measure["per_second"]:
        return f"{measure['per_second'] / value:,.0f} / s"
    return f"{digits(value)} {measure['unit']}"


def _goal(axes: Axes, row: int, goal: Mapping[str, Any]) -> None:
    limit = goal["at_most"] if goal["at_least"] is None else 1 / goal["at_least"]
    axes.plot([limit, limit], [row - 0.34, row + 0.34], color=GOAL, linewidth=2.2, label="our goal")


def _legend(figure: Figure, all_axes: Any) -> None:
    """Name everybody once, above the panels."""
    entries: dict[str, Any] = {}
    for axes in all_axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    figure.legend(entries.values(), entries.keys(), loc="outside upper center",
                  ncols=len(entries), frameon=False)  # fmt: skip
