"""Half an hour of everything at once: ``python benchmarks/soak.py [--minutes 30]``.

IPython's kernel runs under our app, and clients execute, print, display, talk over comms, ask on
control, interrupt, come and go, without a pause. Nothing may be lost: each client checks every
message for each of its requests. And memory stays flat. Progress goes to stderr, the summary to
stdout. The exit status is 1 if anything was lost, or memory grew; Ctrl-C stops the kernel and
prints the summary so far.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from statistics import median

import psutil
from lean_client import ANSWER_TIME
from peers import isolated
from soak_roles import ROLES, SET_UP, Role, visits
from trial_client import Client
from trial_kernel import MB, OURS_WITH_IPYTHON, Running, running

GROWTH_BOUND = 16.0
"""MB that memory may grow from the second tenth of the time to the last tenth, as medians.

A Session remembers up to 65,536 signatures against replays, 10 MB once they are there: a short
soak sees them come.
"""

SAMPLE_EVERY = 0.5
"""Seconds between two looks at the memory."""

PROGRESS_EVERY = 10.0
"""Seconds."""

VISITORS = 2
"""Clients at a time who come and go."""

LEAST_SAMPLES = 20
"""Of the memory; of fewer, tenths say nothing."""

TURN_TIME = 3 * ANSWER_TIME
"""Seconds for the turns in hand when the time is over."""

INTERRUPTED = 130


class Worker(threading.Thread):
    """One client, taking turns until all are told to stop.

    Args:
        name: for the summary.
        role: what a turn is.
        client: whose turns; this thread's until it ends. A visitor has none that stays.
        stopping: ends all workers; set when this one fails.
    """

    def __init__(
        self,
        name: str,
        role: Role,
        client: Client | None,
        kernel: Running,
        stopping: threading.Event,
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._role = role
        self._client = client
        self._kernel = kernel
        self._stopping = stopping
        self.counts: Counter[str] = Counter()
        self.failure = ""

    def run(self) -> None:
        try:
            while not self._stopping.is_set():
                self._role(self._client, self._kernel, self.counts)
                self.counts["turns"] += 1
        except Exception as error:  # whatever it is: a thread that just ends would look like peace
            self.failure = f"{type(error).__name__}: {error}"
            self._stopping.set()


class Soak:
    """One soak of one running kernel."""

    def __init__(self, kernel: Running) -> None:
        self._kernel = kernel
        self._stopping = threading.Event()
        self._workers: list[Worker] = []
        self._memory: list[float] = []
        self._begun = time.monotonic()
        self._failures: list[str] = []

    def run(self, minutes: float) -> None:
        """Soak for so long, or until something fails."""
        with ExitStack() as at_exit:
            with self._kernel.client() as client:  # gone afterwards: who stays has to read
                client.run(SET_UP)
            for name, role in ROLES.items():
                self._begin(name, role, at_exit.enter_context(self._kernel.client()))
            for number in range(VISITORS):
                self._begin(f"visitors {number + 1}", visits, None)
            try:
                self._watch(minutes * 60)
            finally:
                self._end()
            if not self.failures():
                self._look_back()

    def failures(self) -> list[str]:
        """Return what went wrong so far."""
        found = [f"{each.name}: {each.failure}" for each in self._workers if each.failure]
        if self._growth > GROWTH_BOUND:
            found.append(f"memory grew by {self._growth:.1f} MB")
        return self._failures + found

    def summary(self) -> Iterator[str]:
        """Yield the lines of a table: who did what, and the memory."""
        yield f"{len(self._workers)} clients at a time, {self._minutes:.1f} minutes"
        for each in self._workers:
            yield f"{each.name:<14}{_told(each.counts)}"
        yield f"{'all':<14}{_told(self._counts)}"
        if self._memory:
            second, last = self._tenths
            yield (
                f"{'memory':<14}{second:.1f} MB in the second tenth of the time, {last:.1f} MB in"
                f" the last: {self._growth:+.1f} (bound {GROWTH_BOUND:g}); at most"
                f" {max(self._memory):.1f}"
            )
        for failure in self.failures():
            yield f"FAILED {failure}"

    # --- the steps ----------------------------------------------------------------------------

    def _begin(self, name: str, role: Role, client: Client | None) -> None:
        worker = Worker(name, role, client, self._kernel, self._stopping)
        self._workers.append(worker)
        worker.start()

    def _watch(self, seconds: float) -> None:
        """Take samples and tell of the progress until the time is over or somebody failed."""
        ends, tells = time.monotonic() + seconds, time.monotonic() + PROGRESS_EVERY
        while time.monotonic() < ends and not self._stopping.wait(SAMPLE_EVERY):
            try:
                self._memory.append(self._kernel.memory() / MB)
            except psutil.NoSuchProcess:
                return  # the workers say so
            if time.monotonic() > tells:
                tells += PROGRESS_EVERY
                _say(f"{self._minutes:.1f} min, {self._memory[-1]:.1f} MB: {_told(self._counts)}")

    def _end(self) -> None:
        """Let everybody finish the turn in hand: what is on its way must come, too."""
        self._stopping.set()
        deadline = time.monotonic() + TURN_TIME
        for worker in self._workers:
            worker.join(max(0, deadline - time.monotonic()))
            if worker.is_alive():
                self._failures.append(f"{worker.name}: still at it {TURN_TIME:g} s after the end")

    def _look_back(self) -> None:
        """Find what the crowd has left behind."""
        with self._kernel.client() as client:
            msg_id = client.send("comm_info_request", {})
            if left := client.reply(msg_id).content["comms"]:
                self._failures.append(f"{len(left)} comms are left")
        if log := self._kernel.log().strip():
            self._failures.append(f"the kernel's log is not empty: {log[-2000:]}")

    # --- the numbers --------------------------------------------------------------------------

    @property
    def _minutes(self) -> float:
        return (time.monotonic() - self._begun) / 60

    @property
    def _counts(self) -> Counter[str]:
        return sum((each.counts for each in self._workers), Counter())

    @property
    def _tenths(self) -> tuple[float, float]:
        """The medians of the second tenth and of the last tenth, MB."""
        tenth = max(1, len(self._memory) // 10)
        return median(self._memory[tenth : 2 * tenth] or self._memory), median(
            self._memory[-tenth:]
        )

    @property
    def _growth(self) -> float:
        """MB; 0 while there is too little to tell."""
        if len(self._memory) < LEAST_SAMPLES:
            return 0.0
        second, last = self._tenths
        return last - second


def main() -> int:
    options = _parse()
    for name in ("SIGTERM", "SIGHUP"):  # leave like Ctrl-C: through what ends the kernel
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)
    status = 1
    with isolated(), running(OURS_WITH_IPYTHON) as kernel:
        soak = Soak(kernel)
        try:
            soak.run(options.minutes)
            status = 1 if soak.failures() else 0
        except KeyboardInterrupt:
            _say("interrupted")
            status = INTERRUPTED
        finally:
            print("\n".join(soak.summary()), flush=True)
    return status


def _told(counts: Counter[str]) -> str:
    return ", ".join(f"{number:,} {what}" for what, number in counts.items())


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30, help="how long (default: 30)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
