"""Takes the measures in rounds, in which every peer has one turn.

Each round has its own random order, so that a short disturbance of the machine affects every peer
alike. A peer that fails leaves that measure, and the others continue.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import report
from lean_client import KernelLost
from measures import Measure
from peers import Family, JoinedKernel, Peer, StartFailed, is_missing
from progress import show_progress
from report import Samples

MIN_ROUNDS = 2
"""Rounds that are taken even if the time is over."""

WARM_UP = 50
"""Largest size of the turn before the first round."""


def take_all(
    measures: Sequence[Measure], families: Mapping[str, Family], quick: bool
) -> dict[str, Any]:
    """Take the measures of every installed peer, within `peers.isolated`.

    Returns:
        "measures", a report for each; "not_installed"; "failures".
    """
    results: dict[str, Any] = {}
    absent: dict[str, str] = {}
    failures: dict[str, str] = {}
    for kind, family in families.items():
        missing = {peer.name: peer.package for peer in family.peers if is_missing(peer)}
        absent |= missing
        present = {peer.name: peer for peer in family.peers if peer.name not in missing}
        selected = [measure for measure in measures if measure.kind == kind]
        for measure in selected:
            if not measure.running:
                results[measure.name] = _take(measure, family, quick, present, failures)
        # Afterwards: running kernels, even idle ones, would disturb the starts.
        running = [measure for measure in selected if measure.running]
        with ExitStack() as at_exit:
            kernels = _start_all(present, failures, at_exit) if running else {}
            for measure in running:
                results[measure.name] = _take(measure, family, quick, kernels, failures)
                for name in [n for n in kernels if f"{measure.name} of {n}" in failures]:
                    kernels.pop(name)  # it exited, or is too slow to wait for again
    return {
        "measures": {measure.name: results[measure.name] for measure in measures},
        "not_installed": absent,
        "failures": failures,
    }


def _start_all(
    peers: Mapping[str, Peer], failures: dict[str, str], at_exit: ExitStack
) -> dict[str, JoinedKernel]:
    """Start one kernel of each peer; record failures."""
    show_progress(f"starting {', '.join(peers)}")
    kernels = {}
    for name, peer in peers.items():
        try:
            kernels[name] = at_exit.enter_context(JoinedKernel(peer))
        except (StartFailed, KernelLost) as error:
            failures[f"start of {name}"] = str(error)
    return kernels


def _take(
    measure: Measure,
    family: Family,
    quick: bool,
    subjects: Mapping[str, Any],
    failures: dict[str, str],
) -> dict[str, Any]:
    """Take all rounds of one measure."""
    plan = measure.quick if quick else measure.full
    samples = {name: Samples() for name in subjects}
    show_progress(f"{measure.title} ({plan.rounds} rounds of {plan.size:,})")
    if measure.warm_up:
        _take_round(measure, min(plan.size, WARM_UP), subjects, samples, 0)
        for collected in samples.values():
            collected.rounds.clear()
    begun = time.monotonic()
    for number in range(1, plan.rounds + 1):
        if number > MIN_ROUNDS and time.monotonic() > begun + plan.seconds:
            show_progress(f"  stopped after {number - 1} rounds: {plan.seconds:g} s are over")
            break
        _take_round(measure, plan.size, subjects, samples, number)
    for name, collected in samples.items():
        if collected.failure:
            failures[f"{measure.name} of {name}"] = collected.failure
    return report.measure_report(measure, family, plan, samples)


def _take_round(
    measure: Measure,
    size: int,
    subjects: Mapping[str, Any],
    samples: Mapping[str, Samples],
    number: int,
) -> None:
    """Give every peer that has not failed one turn."""
    names = [name for name in subjects if not samples[name].failure]
    random.Random(number).shuffle(names)  # the same order in every run
    for name in names:
        show_progress(f"  {f'round {number}' if number else 'warm-up'}: {name}", transient=True)
        try:
            samples[name].rounds.append(measure.run(subjects[name], size))
        except (StartFailed, KernelLost) as error:
            samples[name].failure = str(error)
            show_progress(f"  {name}: {error}")
