"""Benchmark the kernel beside its peers: ``python benchmarks/run.py [--quick] [--json FILE]``.

Needs ``pip install .[bench]``. In each round every peer has its turn, in an order drawn anew, so
that a noisy moment of the machine hits everybody alike. The table goes to stdout, progress to
stderr. A peer that is not installed is left out; one that fails is reported, and the exit status
is 1. Ctrl-C stops every kernel.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import report
from lean_client import KernelLost, LeanClient
from measures import MEASURES, Measure
from peers import PEERS, Kernel, Peer, StartFailed, isolated, missing
from report import Samples

LEAST_ROUNDS = 2
"""Rounds that are taken even when the time is over."""

WARM_UP = 50
"""Size at most of the turn before the first round: imports, byte code, caches."""

INTERRUPTED = 130


def main() -> int:
    options = _parse()
    for name in ("SIGTERM", "SIGHUP"):  # leave like Ctrl-C: through what ends the kernels
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)
    try:
        with isolated():
            result = benchmark(options.quick)
    except KeyboardInterrupt:
        say("interrupted; every kernel has been stopped")
        return INTERRUPTED
    print("\n".join(report.lines(result)))
    if options.json:
        options.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return 1 if result["failures"] else 0


def benchmark(quick: bool) -> dict[str, Any]:
    """Take every measure of every peer that is installed; return the report."""
    begun = time.monotonic()
    absent = {peer.name: peer.package for peer in PEERS if missing(peer)}
    present = {peer.name: peer for peer in PEERS if peer.name not in absent}
    for name in absent:
        say(f"{name}: not installed")
    about = report.machine()
    measures: dict[str, Any] = {}
    failures: dict[str, str] = {}
    for measure in MEASURES:
        if not measure.running:
            measures[measure.name] = take(measure, quick, present, failures)
    # Only now: kernels that run, if only idle, would be noise for those that start.
    with ExitStack() as at_exit:
        clients = start_all(present, failures, at_exit)
        for measure in MEASURES:
            if measure.running:
                measures[measure.name] = take(measure, quick, clients, failures)
                for name in [n for n in clients if f"{measure.name} of {n}" in failures]:
                    clients.pop(name)  # dead, or too slow to be waited for again
        lost = {name: client.lost for name, client in clients.items() if client.lost}
    return {
        "machine": about,
        "quick": quick,
        "seconds": round(time.monotonic() - begun, 1),
        "measures": measures,
        "not_installed": absent,
        "lost": lost,
        "failures": failures,
    }


def start_all(
    peers: Mapping[str, Peer], failures: dict[str, str], at_exit: ExitStack
) -> dict[str, LeanClient]:
    """Start a kernel of each peer; while one has its turn, the others idle."""
    clients = {}
    for name, peer in peers.items():
        try:
            kernel = Kernel(peer)
            at_exit.callback(kernel.stop)
            client = kernel.lean_client()
        except (StartFailed, KernelLost) as error:
            failures[f"start of {name}"] = str(error)
            continue
        at_exit.callback(client.close)
        clients[name] = client
    return clients


def take(
    measure: Measure, quick: bool, subjects: Mapping[str, Any], failures: dict[str, str]
) -> dict[str, Any]:
    """Take one measure in all its rounds; one who fails is out, and others go on."""
    plan = measure.quick if quick else measure.full
    samples = {name: Samples() for name in subjects}
    say(f"{measure.title} ({plan.rounds} rounds of {plan.size})")
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
    return report.measure_report(measure, samples)


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


def say(text: str, passing: bool = False) -> None:
    """Tell of the progress; what is ``passing`` is overwritten by the next line."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="" if passing else "\n", file=sys.stderr, flush=True)
    else:
        print(text, file=sys.stderr, flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a short run: less than 40 seconds")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all of it there")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
