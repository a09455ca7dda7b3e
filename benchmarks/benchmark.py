"""Takes the measures: in rounds, in each of which every peer has its turn.

The order within a round is drawn anew each time, so that a noisy moment of the machine hits
everybody alike. One who fails is out of that measure, and the others go on.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

import report
from goals import GOALS, outcome
from kernels import JoinedKernel, StartFailed
from lean_messages import KernelLost
from peers import ECHOES, PEERS, WORKLOADS, Peer, isolated, missing
from plan import Measure
from progress import say
from report import Samples
from trials import Trial

LEAST_ROUNDS = 2
"""Rounds that are taken even when the time is over."""

WARM_UP = 50
"""Size at most of the turn before the first round."""


def run(measures: Sequence[Measure], trials: Sequence[Trial], quick: bool) -> dict[str, Any]:
    """Take these measures of every peer that is installed, then make these trials; return all.

    However this ends, no kernel is left.
    """
    begun = time.monotonic()
    about = report.machine()
    taken: dict[str, Any] = {}
    failures: dict[str, str] = {}
    with isolated():
        absent = {peer.name: peer.package for peer in PEERS if missing(peer)}
        for name in absent:
            say(f"{name}: not installed")
        for family in (ECHOES, WORKLOADS):
            present = {p.name: p for p in family.peers if p.name not in absent}
            own = [measure for measure in measures if measure.family is family]
            for measure in own:
                if not measure.running:
                    taken[measure.name] = _take(measure, quick, present, failures)
            # Only now: kernels that run, if only idle, would be noise for those that start.
            running = [measure for measure in own if measure.running]
            taken |= _take_of_running(running, quick, present, failures)
        tried = {trial.name: asdict(trial.run(quick, say)) for trial in trials}
    return {
        "machine": about,
        "quick": quick,
        "seconds": round(time.monotonic() - begun, 1),
        "measures": {measure.name: taken[measure.name] for measure in measures},
        "goals": [outcome(goal, taken[goal.measure]) for goal in GOALS if goal.measure in taken],
        "trials": tried,
        "not_installed": absent,
        "failures": failures,
        "load_at_end": report.load(),
    }


def _take_of_running(
    measures: Sequence[Measure], quick: bool, peers: Mapping[str, Peer], failures: dict[str, str]
) -> dict[str, Any]:
    """Take measures of kernels that run all the time: while one has its turn, the others idle."""
    taken = {}
    with ExitStack() as at_exit:
        kernels = _start_all(peers, failures, at_exit) if measures else {}
        for measure in measures:
            taken[measure.name] = _take(measure, quick, kernels, failures)
            for name in [n for n in kernels if f"{measure.name} of {n}" in failures]:
                kernels.pop(name)  # dead, or too slow to be waited for again
    return taken


def _start_all(
    peers: Mapping[str, Peer], failures: dict[str, str], at_exit: ExitStack
) -> dict[str, JoinedKernel]:
    """Start a kernel of each peer that can be started."""
    say(f"starting {', '.join(peers)}")
    kernels = {}
    for name, peer in peers.items():
        try:
            kernels[name] = at_exit.enter_context(JoinedKernel(peer))
        except (StartFailed, KernelLost) as error:
            failures[f"start of {name}"] = str(error)
    return kernels


def _take(
    measure: Measure, quick: bool, subjects: Mapping[str, Any], failures: dict[str, str]
) -> dict[str, Any]:
    """Take one measure in all its rounds."""
    plan = measure.quick if quick else measure.full
    samples = {name: Samples() for name in subjects}
    say(f"{measure.title} ({plan.rounds} rounds of {plan.size:,})")
    if measure.warm_up:
        _round(measure, min(plan.size, WARM_UP), subjects, samples, 0)
        for own in samples.values():
            own.rounds.clear()
    begun = time.monotonic()
    for number in range(1, plan.rounds + 1):
        if number > LEAST_ROUNDS and time.monotonic() > begun + plan.seconds:
            say(f"  {plan.seconds:g} s are over: {number - 1} rounds are all")
            break
        _round(measure, plan.size, subjects, samples, number)
    for name, own in samples.items():
        if own.failure:
            failures[f"{measure.name} of {name}"] = own.failure
    return report.measure_report(measure, plan, samples)


def _round(
    measure: Measure,
    size: int,
    subjects: Mapping[str, Any],
    samples: Mapping[str, Samples],
    number: int,
) -> None:
    """Give everybody who has not failed one turn."""
    names = [name for name in subjects if not samples[name].failure]
    random.Random(number).shuffle(names)  # nobody always follows the same one; runs agree
    for name in names:
        say(f"  {f'round {number}' if number else 'warm-up'}: {name}", passing=True)
        try:
            samples[name].rounds.append(measure.run(subjects[name], size))
        except (StartFailed, KernelLost) as error:
            samples[name].failure = str(error)
            say(f"  {name}: {error}")
