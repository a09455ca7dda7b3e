"""The report as a picture: for each measure, every peer's ratio to the family's first reference.

The background is transparent and the colours are legible on white and on black.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter
from peers import Family
from report import digits

TEXT = "#747c85"
GRID = "#747c8540"
GOAL = "#d4a017"
SUBJECT = ("#e8590c", "o")

MARKS = {
    "python3": ("#b05c8a", "s"),
    "async": ("#9166cc", "D"),
    "xpython-raw": ("#3f86d6", "^"),
    "kernmini": ("#8a6d3b", "P"),
    "floor": ("#2e9d6c", "v"),
}
"""Colour and marker of the peers that are drawn beside the subject."""

SETTINGS: Any = {
    "font.size": 9,
    "text.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": TEXT,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "svg.hashsalt": "echokernel",  # the same numbers give the same file
}

WIDTH, ROW, MARGINS = 8.4, 0.42, 1.3
"""Inches: the picture, one measure, and the space above, between and below the panels."""


def draw(report: Mapping[str, Any], families: Mapping[str, Family], file: Path) -> None:
    """Draw all measures that have ratios; the suffix of ``file`` selects the format."""
    panels = []
    for kind, family in families.items():
        measures = [m for m in report["measures"].values()
                    if m["kind"] == kind and _ratios(m, family)]  # fmt: skip
        if measures:
            panels.append((family, measures))
    if not panels:
        return
    heights = [len(measures) for _, measures in panels]
    with matplotlib.rc_context(SETTINGS):
        figure = Figure(figsize=(WIDTH, ROW * sum(heights) + MARGINS), layout="constrained")
        all_axes = figure.subplots(
            len(panels), sharex=True, squeeze=False, gridspec_kw={"height_ratios": heights}
        )[:, 0]
        for axes, (family, measures) in zip(all_axes, panels, strict=True):
            _draw_panel(axes, family, measures, report["goals"])
        all_axes[-1].set_xlabel("ratio of times, CPU or memory (median, quartiles): left is better")
        _draw_legend(figure, all_axes)
        metadata = {"Date": None} if file.suffix == ".svg" else None
        figure.savefig(file, transparent=True, dpi=160, metadata=metadata)


def _ratios(measure: Mapping[str, Any], family: Family) -> dict[str, dict[str, float]]:
    """Return each peer's ratio to the first reference."""
    ratios = {name: p["ratio_to"].get(family.references[0]) for name, p in measure["peers"].items()}
    return {name: ratio for name, ratio in ratios.items() if ratio}


def _draw_panel(
    axes: Axes, family: Family, measures: list[Mapping[str, Any]], goals: list[Mapping[str, Any]]
) -> None:
    """Draw one row per measure."""
    reference = next(peer for peer in family.peers if peer.name == family.references[0])
    axes.set_title(f"1 = {reference.label}", loc="left", fontsize=9, fontweight="bold")
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
    _write_right_of(axes, -0.6, "echokernel", va="bottom", fontweight="bold")
    for row, measure in enumerate(measures):
        _draw_row(axes, family, row, measure)
        for goal in goals:
            if goal["measure"] == measure["name"] and goal["reference"] == reference.name:
                limit = goal["at_most"] or 1 / goal["at_least"]
                ends = [row - 0.34, row + 0.34]
                axes.plot([limit, limit], ends, color=GOAL, linewidth=2.2, label="goal")


def _draw_row(axes: Axes, family: Family, row: int, measure: Mapping[str, Any]) -> None:
    labels = {peer.name: peer.short for peer in family.peers}
    for name, ratio in _ratios(measure, family).items():
        is_subject = name == family.subject
        if not is_subject and name not in MARKS:
            continue
        colour, marker = SUBJECT if is_subject else MARKS[name]
        axes.errorbar(
            ratio["median"],
            row,
            xerr=[[ratio["median"] - ratio["q1"]], [ratio["q3"] - ratio["median"]]],
            fmt=marker,
            color=colour,
            markersize=8 if is_subject else 5.5,
            elinewidth=1.6,
            zorder=4 if is_subject else 3,
            label=labels[name],
        )
    if value := measure["peers"].get(family.subject, {}).get("value"):
        _write_right_of(axes, row, _amount(measure, value["median"]), va="center")


def _write_right_of(axes: Axes, row: float, text: str, **style: Any) -> None:
    """Write in the subject's colour, to the right of a row."""
    axes.annotate(text, (1.01, row), xycoords=("axes fraction", "data"), color=SUBJECT[0], **style)


def _amount(measure: Mapping[str, Any], value: float) -> str:
    """Return the subject's value, or the rate where the report has one."""
    if measure["per_second"]:
        return f"{measure['per_second'] / value:,.0f} / s"
    return f"{digits(value)} {measure['unit']}"


def _draw_legend(figure: Figure, all_axes: Any) -> None:
    """Name every peer once, above the panels."""
    entries: dict[str, Any] = {}
    for axes in all_axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    figure.legend(entries.values(), entries.keys(), loc="outside upper center",
                  ncols=len(entries), frameon=False)  # fmt: skip
