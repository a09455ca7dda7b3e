"""From samples to the JSON that scripts read, and that tables and plot are made from."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import metadata
from statistics import median, quantiles
from typing import Any

from measures import Turn
from plan import Measure, Plan

PACKAGES = (
    "echokernel",
    "echo_kernel",
    "ipykernel",
    "async-kernel",
    "xeus-python",
    "jupyter_client",
    "pyzmq",
)


@dataclass
class Samples:
    """What one peer did in one measure."""

    rounds: list[Turn] = field(default_factory=list)
    failure: str = ""

    def ratios(self, reference: Samples) -> list[float]:
        """Return this peer's values over the reference's, round by round."""
        # A peer that failed has fewer rounds; those it has are the first ones.
        pairs = zip(self.rounds, reference.rounds, strict=False)
        return [median(own.values) / median(other.values) for own, other in pairs]


def measure_report(measure: Measure, plan: Plan, samples: Mapping[str, Samples]) -> dict[str, Any]:
    """Return one measure as JSON: per peer its values and its ratios to the references."""
    family = measure.family
    references = {n: samples[n] for n in family.references if n in samples and measure.ratios}
    return {
        "name": measure.name,
        "title": measure.title,
        "detail": measure.detail,
        "unit": measure.unit,
        "per_second": measure.per_second,
        "size": plan.size,
        "order": [peer.name for peer in family.peers],
        "ours": family.ours,
        "references": list(references),
        "peers": {
            name: {
                "value": _summary([value for turn in own.rounds for value in turn.values]),
                "ratio_to": {r: _summary(own.ratios(other)) for r, other in references.items()},
                "round_medians": [median(turn.values) for turn in own.rounds],
                "lost": sum(turn.lost for turn in own.rounds),
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
        "load_at_start": load(),
        "packages": {name: version for name, version in found.items() if version},
    }


def load() -> float:
    """Return how many processes wanted to run in the last minute: the noise."""
    return round(os.getloadavg()[0], 1)


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
