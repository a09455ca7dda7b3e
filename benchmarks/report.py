"""From samples to the table that people read and the JSON that scripts do."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from statistics import median, quantiles
from typing import Any

from measures import Measure
from peers import PEERS, REFERENCES

PACKAGES = ("echokernel", "echo_kernel", "ipykernel", "jupyter_client", "pyzmq", "xeus-python")

LEGEND = "Each cell: median [quartiles]. Ratios are of times, taken within a round: less is faster."


@dataclass
class Samples:
    """What one peer did in one measure: milliseconds, in one list per round."""

    rounds: list[list[float]] = field(default_factory=list)
    failure: str = ""

    def ratios(self, reference: Samples) -> list[float]:
        """Return this peer's time over the reference's, round by round."""
        # A peer that failed has fewer rounds; those it has are the first ones.
        pairs = zip(self.rounds, reference.rounds, strict=False)
        return [median(own) / median(other) for own, other in pairs]


def measure_report(measure: Measure, samples: Mapping[str, Samples]) -> dict[str, Any]:
    """Return one measure as JSON: per peer its times and its ratios to the references."""
    references = {name: samples[name] for name in REFERENCES if name in samples}
    return {
        "title": measure.title,
        "per_second": measure.per_second,
        "peers": {
            name: {
                "ms": _summary([value for values in own.rounds for value in values]),
                "ratio_to": {r: _summary(own.ratios(other)) for r, other in references.items()},
                "round_medians_ms": [median(values) for values in own.rounds],
                "failure": own.failure or None,
            }
            for name, own in samples.items()
        },
    }


def machine() -> dict[str, Any]:
    """Return what the numbers depend on."""
    found = {name: _version(name) for name in PACKAGES}
    return {
        "python": platform.python_version(),
        "system": platform.platform(),
        "cpus": os.cpu_count(),
        "load_at_start": _load(),
        "packages": {name: version for name, version in found.items() if version},
    }


def lines(report: Mapping[str, Any]) -> list[str]:
    """Return the report as text: one table per measure, then what went wrong."""
    about = report["machine"]
    packages = ", ".join(f"{name} {version}" for name, version in about["packages"].items())
    text = [
        f"Python {about['python']}, {about['cpus']} CPUs, load {about['load_at_start']} at start"
        f" and {_load()} at the end, {report['seconds']:g} s{', QUICK' * report['quick']}",
        packages,
        LEGEND,
    ]
    for measure in report["measures"].values():
        text += ["", measure["title"], *_table(measure, report["not_installed"])]
    text.append("")
    text += [f"not installed: {k} (pip install {p})" for k, p in report["not_installed"].items()]
    text += [f"{name}: {number} outputs were lost" for name, number in report["lost"].items()]
    text += [f"FAILED {where}: {why}" for where, why in report["failures"].items()]
    return text


def _table(measure: Mapping[str, Any], absent: Mapping[str, str]) -> list[str]:
    labels = {peer.name: peer.label for peer in PEERS}
    heads = ["", "ms", *(f"/ {labels[name].split()[0]}" for name in REFERENCES)]
    if measure["per_second"]:
        heads.append("per second")
    rows = [heads]
    for peer in PEERS:
        result = measure["peers"].get(peer.name)
        if result is None:
            rows.append([peer.label, "not installed" if peer.name in absent else "FAILED before"])
            continue
        ratios = [
            "1" if name == peer.name and result["ms"] else _cell(result["ratio_to"].get(name))
            for name in REFERENCES
        ]
        rows.append([peer.label, _cell(result["ms"]), *ratios])
        if measure["per_second"] and result["ms"]:
            rows[-1].append(f"{1000 / result['ms']['median']:,.0f}")
        if result["failure"]:
            rows[-1].append("FAILED")
    widths = [28, 22, 22, 22, 22, 12, 0]
    return ["".join(c.ljust(w) for c, w in zip(row, widths, strict=False)).rstrip() for row in rows]


def _cell(summary: Mapping[str, float] | None) -> str:
    if summary is None:
        return "-"
    middle, low, high = (_digits(summary[key]) for key in ("median", "q1", "q3"))
    return f"{middle} [{low}-{high}]"


def _digits(value: float) -> str:
    """Return ``value`` with three significant digits, never in powers of ten."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _summary(values: list[float]) -> dict[str, float] | None:
    """Return median and quartiles; None if there is nothing."""
    if not values:
        return None
    low, middle, high = quantiles(values, method="inclusive") if len(values) > 1 else values * 3
    return {"median": middle, "q1": low, "q3": high, "n": len(values)}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _load() -> float | None:
    """Return how many processes wanted to run in the last minute: the noise."""
    return round(os.getloadavg()[0], 1) if hasattr(os, "getloadavg") else None
