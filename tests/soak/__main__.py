"""Half an hour of all kinds of load on one kernel: ``cd tests && python -m soak [--minutes 30]``.

IPython's kernel runs on echokernel. Clients execute, print, display, use comms, send control
requests, interrupt, connect and disconnect, without a pause. Each client checks every message of
each of its requests. Memory must stay flat. Progress goes to stderr, the summary to stdout. The
exit status is 1 if a message was lost or wrong, or if memory grew. Ctrl-C stops the kernel and
prints the summary so far.
"""

import argparse
import os
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median

import psutil
from abuse.running_kernel import MB, start_kernel

from echokernel.conformance.raw_client import DEADLINE
from soak.workloads import SET_UP, WORKLOADS, connect_and_disconnect

GROWTH_BOUND = 16.0
"""MB by which memory may grow from the second tenth of the time to the last tenth (medians).

A Session stores up to 65,536 signatures against replays, which take 10 MB: in a short run that
memory still grows.
"""

SAMPLE_INTERVAL = 0.5
PROGRESS_INTERVAL = 10.0
"""Seconds."""

VISITORS = 2
"""Workers whose clients connect and disconnect."""

MIN_SAMPLES = 20
"""Samples of the memory that a verdict needs."""

STOP_TIME = 3 * DEADLINE
"""Seconds in which each worker completes its turn when the time is over."""

INTERRUPTED = 130


class Worker(threading.Thread):
    """One client that takes turns until all workers stop.

    Args:
        name: for the summary.
        workload: takes one turn.
        client: belongs to this thread until it ends; None if each turn creates its own clients.
        kernel: the running kernel.
        stopping: stops all workers; set when this one fails.
    """

    def __init__(self, name, workload, client, kernel, stopping):
        super().__init__(name=name, daemon=True)
        self._workload = workload
        self._client = client
        self._kernel = kernel
        self._stopping = stopping
        self.counts = Counter()
        self.failure = ""

    def run(self):
        try:
            while not self._stopping.is_set():
                self._workload(self._client, self._kernel, self.counts)
                self.counts["turns"] += 1
        except Exception as error:  # any: a thread that ended silently would look like success
            self.failure = f"{type(error).__name__}: {error}"
            self._stopping.set()


class Soak:
    """One run against one kernel."""

    def __init__(self, kernel):
        self._kernel = kernel
        self._stopping = threading.Event()
        self._workers = []
        self._memory = []
        self._begun = time.monotonic()
        self._failures = []

    def run(self, minutes):
        """Run for this time, or until a worker fails."""
        with ExitStack() as at_exit:
            with self._kernel.client() as client:  # a client that stays connected must read
                client.run(SET_UP)
            for name, workload in WORKLOADS.items():
                self._start_worker(name, workload, at_exit.enter_context(self._kernel.client()))
            for number in range(VISITORS):
                self._start_worker(f"visitors {number + 1}", connect_and_disconnect, None)
            try:
                self._watch(minutes * 60)
            finally:
                self._stop_workers()
            if not self.failures():
                self._check_remains()

    def failures(self):
        """Return the failures so far."""
        failures = [f"{w.name}: {w.failure}" for w in self._workers if w.failure]
        if self._growth > GROWTH_BOUND:
            failures.append(f"memory grew by {self._growth:.1f} MB")
        return self._failures + failures

    def summary(self):
        """Yield the lines of a table: the counts of each worker, and the memory."""
        yield f"{len(self._workers)} clients at a time, {self._minutes:.1f} minutes"
        for worker in self._workers:
            yield f"{worker.name:<14}{format_counts(worker.counts)}"
        yield f"{'all':<14}{format_counts(self._counts)}"
        if self._memory:
            second, last = self._tenths
            yield (
                f"{'memory':<14}{second:.1f} MB in the second tenth of the time, {last:.1f} MB in"
                f" the last: {self._growth:+.1f} (bound {GROWTH_BOUND:g}); at most"
                f" {max(self._memory):.1f}"
            )
        for failure in self.failures():
            yield f"FAILED {failure}"

    def _start_worker(self, name, workload, client):
        worker = Worker(name, workload, client, self._kernel, self._stopping)
        self._workers.append(worker)
        worker.start()

    def _watch(self, seconds):
        """Sample the memory and show the progress until the time is over or a worker fails."""
        end, next_line = time.monotonic() + seconds, time.monotonic() + PROGRESS_INTERVAL
        while time.monotonic() < end and not self._stopping.wait(SAMPLE_INTERVAL):
            try:
                self._memory.append(self._kernel.memory() / MB)
            except psutil.NoSuchProcess:
                return  # the workers report it
            if time.monotonic() > next_line:
                next_line += PROGRESS_INTERVAL
                counts = format_counts(self._counts)
                show_progress(f"{self._minutes:.1f} min, {self._memory[-1]:.1f} MB: {counts}")

    def _stop_workers(self):
        """Let each worker complete its turn: messages that were sent must arrive, too."""
        self._stopping.set()
        deadline = time.monotonic() + STOP_TIME
        for worker in self._workers:
            worker.join(max(0, deadline - time.monotonic()))
            if worker.is_alive():
                self._failures.append(f"{worker.name}: still running {STOP_TIME:g} s after the end")

    def _check_remains(self):
        """Check that no comm and no line in the kernel's log remains."""
        with self._kernel.client() as client:
            if comms := client.request("comm_info_request", {})["comms"]:
                self._failures.append(f"{len(comms)} comms remain")
        if log := self._kernel.log().strip():
            self._failures.append(f"the kernel's log is not empty: {log[-2000:]}")

    @property
    def _minutes(self):
        return (time.monotonic() - self._begun) / 60

    @property
    def _counts(self):
        return sum((worker.counts for worker in self._workers), Counter())

    @property
    def _tenths(self):
        """The medians of the second tenth and of the last tenth, in MB."""
        tenth = max(1, len(self._memory) // 10)
        second = self._memory[tenth : 2 * tenth] or self._memory
        return median(second), median(self._memory[-tenth:])

    @property
    def _growth(self):
        """MB; 0 while there are too few samples."""
        if len(self._memory) < MIN_SAMPLES:
            return 0.0
        second, last = self._tenths
        return last - second


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30, help="duration (default: 30)")
    options = parser.parse_args()
    for name in ("SIGTERM", "SIGHUP"):  # exit as after Ctrl-C, which stops the kernel
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.default_int_handler)
    kernel_class = "ipykernel.ipkernel:IPythonKernel"
    with private_jupyter() as folder, start_kernel(folder, kernel_class=kernel_class) as kernel:
        soak = Soak(kernel)
        try:
            soak.run(options.minutes)
            status = 1 if soak.failures() else 0
        except KeyboardInterrupt:
            show_progress("interrupted")
            status = INTERRUPTED
        finally:
            print("\n".join(soak.summary()), flush=True)
    return status


@contextmanager
def private_jupyter():
    """Provide a temporary folder for the kernel, and for the files of Jupyter and IPython."""
    with tempfile.TemporaryDirectory(prefix="echokernel-soak-") as name:
        folder = Path(name)
        for variable in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
            os.environ[variable] = str(folder / variable.lower())
        yield folder


def format_counts(counts):
    return ", ".join(f"{number:,} {title}" for title, number in counts.items())


def show_progress(text):
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
