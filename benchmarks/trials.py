"""What is met or not, beside ipykernel: ``python benchmarks/trials.py [NAME...] [--quick]``.

Loss, storms, strangers and crowds: no ratio says how a kernel bears them. Each trial runs against
our kernel and the stock one, prints what it found out about both, and says whether ours does what
it should. Needs ``pip install .[bench]``. The exit status is 1 if a goal is missed; Ctrl-C stops
every kernel.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from lean_messages import KernelLost
from peers import isolated
from ready import SUBJECTS, judge_ready, ready
from trial_kernel import OURS, OURS_SWITCHING, STOCK, Facts, Subject
from trials_abuse import JUNK_BOUND, judge_junk, junk
from trials_comms import (
    CLOSE_BOUND,
    ECHO,
    EXECUTE_BOUND,
    FAIL_BOUND,
    judge_killed_client,
    killed_client,
)
from trials_crowd import joins, judge_joins
from trials_loss import judge_never_reads, judge_pausing, never_reads, pausing_reader
from trials_service import (
    ROUND_TRIP_BOUND,
    busy_thread,
    interrupts,
    judge_busy_thread,
    judge_interrupts,
)

INTERRUPTED = 130

FAILURE = "failure"
"""The only fact about a kernel that did not get through its trial."""


@dataclass(frozen=True)
class Result:
    """What came of one trial."""

    title: str
    goal: str
    seconds: float
    subjects: dict[str, str]
    """Labels by kernelspec name, ours first."""
    facts: dict[str, Facts]
    """By kernelspec name."""
    missed: list[str]
    """What our kernel should have done and did not; empty: the goal is met."""


@dataclass(frozen=True)
class Trial:
    """One row of the goals that is no simple ratio."""

    name: str
    title: str
    goal: str
    measure: Callable[[Subject, bool], Facts]
    """Tries one kernel, in full or quickly."""
    judge: Callable[[Mapping[str, Facts]], Iterator[str]]
    """Says what ours misses; only asked when all of ours got through."""
    subjects: tuple[Subject, ...] = (OURS, STOCK)

    def run(self, quick: bool = False, say: Callable[[str], None] = lambda text: None) -> Result:
        """Try all subjects, within `peers.isolated`; tell ``say`` of the progress."""
        begun = time.monotonic()
        facts = {}
        for subject in self.subjects:
            say(f"{self.name}: {subject.label}")
            try:
                facts[subject.name] = self.measure(subject, quick)
            except KernelLost as error:
                facts[subject.name] = {FAILURE: str(error)}
        # What the stock kernel could not get through is no miss of ours.
        got_through = {name: found for name, found in facts.items() if FAILURE not in found}
        missed = [
            f"{subject.label}: {facts[subject.name][FAILURE]}"
            for subject in self.subjects
            if subject is not STOCK and subject.name not in got_through
        ]
        return Result(
            self.title,
            self.goal,
            round(time.monotonic() - begun, 1),
            {subject.name: subject.label for subject in self.subjects},
            facts,
            missed or list(self.judge(got_through)),
        )


TRIALS = (
    Trial(
        "loss",
        "A stock client that sleeps while the kernel publishes",
        "nothing lost, idle seen",
        pausing_reader,
        judge_pausing,
    ),
    Trial(
        "never-reads",
        "A subscriber that never reads, a flood, and a client that reads",
        "others miss nothing small; memory under the bound; all status messages; the loss is said",
        never_reads,
        judge_never_reads,
    ),
    Trial(
        "interrupts",
        "Executes under a storm of SIGINTs",
        "every execute answered, idle for each, no damaged message",
        interrupts,
        judge_interrupts,
    ),
    Trial(
        "busy-thread",
        "Round trip of an execute while another thread of the kernel computes",
        f"at most {ROUND_TRIP_BOUND:g} ms with the option; without it, no longer than ipykernel's",
        busy_thread,
        judge_busy_thread,
        (OURS, OURS_SWITCHING, STOCK),
    ),
    Trial(
        "junk",
        "Peers without the key: large topics, connects, garbage",
        f"memory grows by at most {JUNK_BOUND:g} MB, service goes on",
        junk,
        judge_junk,
    ),
    Trial(
        "joins",
        "1,000 subscribers who join and leave, and 100 on the empty topic",
        "every one welcomed",
        joins,
        judge_joins,
    ),
    Trial(
        "ready",
        "1,000 clients that connect, wait for the welcome and execute at once",
        "nothing lost; no first start longer than with jupyter_client's client",
        ready,
        judge_ready,
        SUBJECTS,
    ),
    Trial(
        "comms",
        "A client with open comms is killed",
        f"its request fails within {FAIL_BOUND:g} ms, its comm closes within {CLOSE_BOUND:g} ms,"
        f" no execute takes more than {EXECUTE_BOUND:g} ms while 10,000 close",
        killed_client,
        judge_killed_client,
        (ECHO,),
    ),
)


def main() -> int:
    options = _parse()
    for name in ("SIGTERM", "SIGHUP"):  # leave like Ctrl-C: through what ends the kernels
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)
    results: dict[str, Result] = {}
    try:
        with isolated():
            for trial in TRIALS:
                if trial.name in (options.names or [trial.name]):
                    results[trial.name] = trial.run(options.quick, _say)
                    print("\n".join(lines(results[trial.name])), flush=True)
    except KeyboardInterrupt:
        _say("interrupted; every kernel has been stopped")
        return INTERRUPTED
    finally:
        if options.json:
            text = json.dumps({name: asdict(result) for name, result in results.items()}, indent=1)
            options.json.write_text(text + "\n", encoding="utf-8")
    return 1 if any(result.missed for result in results.values()) else 0


def lines(result: Result) -> list[str]:
    """Return a trial's result as text: one row for each fact, one column for each kernel."""
    rows = [["", *result.subjects.values()]]
    for what in _in_order(result.facts.values()):
        found = (result.facts[name].get(what) for name in result.subjects)
        rows.append([what, *("-" if fact is None else _cell(fact) for fact in found)])
    widths = [max(map(len, column)) + 2 for column in zip(*rows, strict=True)]
    table = [
        "".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    verdict = [f"MISSED: {what}" for what in result.missed] or ["met"]
    return [f"{result.title} ({result.seconds:g} s)", *table, f"goal: {result.goal}", *verdict, ""]


def _in_order(found: Iterable[Facts]) -> list[str]:
    """Return the names of all facts, once each."""
    return list(dict.fromkeys(what for facts in found for what in facts))


def _cell(fact: float | str) -> str:
    if isinstance(fact, bool):
        return "yes" if fact else "no"
    if isinstance(fact, str):
        return " ".join(fact.split())[:60]
    if isinstance(fact, int) or abs(fact) >= 100:
        return f"{fact:,.0f}"
    return f"{fact:.3g}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    names = [trial.name for trial in TRIALS]
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(names)}")
    parser.add_argument("--quick", action="store_true", help="small sizes: two minutes for all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write all of it there")
    options = parser.parse_args()
    for name in options.names:
        if name not in names:
            parser.error(f"no trial is called {name}; there are {', '.join(names)}")
    return options


if __name__ == "__main__":
    sys.exit(main())
