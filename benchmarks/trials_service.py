"""Trials of the main thread: a storm of interrupts, and a busy thread beside it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from statistics import median, quantiles

from lean_messages import KernelLost
from trial_client import Client, Damaged, Message, Silence
from trial_kernel import OURS, OURS_SWITCHING, STOCK, Facts, Running, Subject, running

# --- interrupts ------------------------------------------------------------------------------

INTERRUPT_EVERY = 0.0007
"""Seconds between two SIGINTs; the system adds to it what it needs to wake us."""

STORM_ANSWER_TIME = 5.0
"""Seconds for the reply, and again for the idle status, of one execute in the storm."""

GIVE_UP = 3
"""Unanswered executes after which the rest is not tried: the kernel hangs."""

CELLS = (
    "an echo",
    {"do": "print", "times": 20},
    {"do": "spin", "seconds": 0.003},
    {"do": "display", "times": 20},
)
"""Orders to the workload kernel, in turn: interrupts fall on all that a kernel does."""


def interrupts(subject: Subject, quick: bool) -> Facts:
    """Execute cells while SIGINTs rain upon the kernel."""
    executes = 40 if quick else 150
    tally = dict.fromkeys(("executes", "ok", "error", "no reply", "no idle", "damaged"), 0)
    with running(subject) as kernel, kernel.client() as client:
        with Storm(kernel) as storm:
            for number in range(executes):
                if tally["no idle"] >= GIVE_UP:  # without a reply, none is counted either
                    break
                tally["executes"] += 1
                _weathered(client, client.execute(CELLS[number % len(CELLS)]), tally)
        return {
            "executes planned": executes,
            **tally,
            "interrupts sent": storm.sent,
            "every, ms": storm.seconds * 1000 / max(1, storm.sent),
            "answers afterwards": _answers(client),
        }


def judge_interrupts(facts: Mapping[str, Facts]) -> Iterator[str]:
    """Yield what our kernel misses."""
    ours = facts[OURS.name]
    for what in ("no reply", "no idle", "damaged"):
        if ours[what]:
            yield f"{ours[what]} of {ours['executes']} executes: {what}"
    if not ours["error"]:
        yield "no interrupt reached a cell: the trial proves nothing"
    if not ours["answers afterwards"]:
        yield "the kernel does not answer after the storm"


class Storm:
    """Interrupts a kernel again and again while the ``with`` block runs."""

    def __init__(self, kernel: Running) -> None:
        self._kernel = kernel
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._rain, daemon=True)
        self.sent = 0
        self.seconds = 0.0

    def __enter__(self) -> Storm:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _rain(self) -> None:
        begun = time.monotonic()
        while not self._ended.wait(INTERRUPT_EVERY) and self._kernel.is_alive():
            self._kernel.interrupt()
            self.sent += 1
        self.seconds = time.monotonic() - begun


def _weathered(client: Client, msg_id: str, tally: dict[str, int]) -> None:
    """Count what becomes of one execute."""
    reply = _one(client, "shell", msg_id, tally)
    tally["no reply" if reply is None else reply.content["status"]] += 1
    idle = reply
    while idle is not None and not idle.is_idle:
        idle = _one(client, "iopub", msg_id, tally)
    tally["no idle"] += idle is None


def _one(client: Client, channel: str, msg_id: str, tally: dict[str, int]) -> Message | None:
    """Return the next message for a request; None if it does not come."""
    deadline = time.monotonic() + STORM_ANSWER_TIME
    while True:
        try:
            message = client.receive(channel, deadline)
        except Damaged:
            tally["damaged"] += 1
            continue
        except Silence:
            return None
        if message.parent == msg_id:
            return message


def _answers(client: Client) -> bool:
    try:
        client.run("still there?", STORM_ANSWER_TIME)
    except KernelLost:
        return False
    return True


# --- a busy thread ---------------------------------------------------------------------------

ROUND_TRIP_BOUND = 30.0
"""Milliseconds for the median round trip beside a busy thread, with the option that bounds it."""


def busy_thread(subject: Subject, quick: bool) -> Facts:
    """Time executes while another thread of the kernel computes in Python."""
    seconds = 3.0 if quick else 15.0
    with running(subject) as kernel, kernel.client() as client:
        undisturbed = _round_trips(client, seconds / 5)
        client.run({"do": "spin_in_thread", "seconds": seconds + 1})
        busy = _round_trips(client, seconds)
    return {
        "executes": len(busy),
        "undisturbed, median ms": median(undisturbed),
        "median ms": median(busy),
        "p95 ms": quantiles(busy, n=20, method="inclusive")[-1],
    }


def judge_busy_thread(facts: Mapping[str, Facts]) -> Iterator[str]:
    """Yield what our kernel misses."""
    if facts[OURS_SWITCHING.name]["median ms"] > ROUND_TRIP_BOUND:
        yield f"with the option, a round trip takes more than {ROUND_TRIP_BOUND:g} ms"
    if STOCK.name in facts and facts[OURS.name]["median ms"] > facts[STOCK.name]["median ms"]:
        yield "without the option, a round trip takes longer than ipykernel's"


def _round_trips(client: Client, seconds: float) -> list[float]:
    """Return milliseconds of executes, one after the other, for some time (two at least)."""
    times: list[float] = []
    ends = time.monotonic() + seconds
    while time.monotonic() < ends or len(times) < 2:
        begun = time.perf_counter()
        client.run("1")
        times.append((time.perf_counter() - begun) * 1000)
    return times
