"""Trial of comms whose client is killed: how soon its requests fail, and its comms are closed."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

from trial_client import Client, Message
from trial_kernel import Facts, Running, Subject, running

ECHO = Subject("trial-comms", "echokernel", ("-m", "echokernel"))

GRACE_MS = 1000.0
"""Milliseconds, the kernel's default."""

FAIL_BOUND = 100.0
CLOSE_BOUND = GRACE_MS + 200
EXECUTE_BOUND = 100.0
"""Milliseconds: SIGKILL to the failed request; to the closed comm; an execute's round trip while
all comms close."""

SECONDS = 60.0
"""That anything may take before the trial is given up."""


def killed_client(subject: Subject, quick: bool) -> Facts:
    """Kill a client that is known by its presence topic; another one looks on."""
    rounds, many = (3, 1000) if quick else (10, 10_000)
    with running(subject) as kernel, kernel.client() as onlooker:
        failed, closed = zip(*(_kill_one(kernel, onlooker) for _ in range(rounds)), strict=True)
        undisturbed = [_round_trip(onlooker) for _ in range(20)]
        facts = _kill_many(kernel, onlooker, many)
    return {
        "clients killed": rounds,
        "SIGKILL to failed request, median ms": median(failed),
        "worst ms": max(failed),
        "SIGKILL to closed comm, median ms": median(closed),
        "execute undisturbed, median ms": median(undisturbed),
        **facts,
    }


def judge_killed_client(facts: Mapping[str, Facts]) -> Iterator[str]:
    """Yield what our kernel misses."""
    ours: Any = facts[ECHO.name]
    if ours["SIGKILL to failed request, median ms"] > FAIL_BOUND:
        yield f"a request fails more than {FAIL_BOUND:g} ms after the client was killed"
    if ours["SIGKILL to closed comm, median ms"] > CLOSE_BOUND:
        yield f"a comm is closed more than {CLOSE_BOUND:g} ms after the client was killed"
    if ours["execute while they close, worst ms"] > EXECUTE_BOUND:
        yield f"an execute takes more than {EXECUTE_BOUND:g} ms while comms close"


def _kill_one(kernel: Running, onlooker: Client) -> tuple[float, float]:
    """Return milliseconds to the failed request, and to the closed comm."""
    with _victim(kernel, 1) as victim:
        _next(onlooker, lambda m: "method" in _data(m))  # the kernel has asked
        begun = time.perf_counter()
        victim.kill()
        # `ask` is answered, for all to hear, with an error as soon as its own request has failed.
        _next(onlooker, lambda m: "error" in _data(m))
        failed = time.perf_counter()
        _next(onlooker, lambda m: m.kind == "comm_close")
        return (failed - begun) * 1000, (time.perf_counter() - begun) * 1000


def _kill_many(kernel: Running, onlooker: Client, many: int) -> Facts:
    # Who executes hears no comms: what it costs to read 10,000 of them is no matter of the kernel.
    with _victim(kernel, many) as victim, kernel.client(b"kernel.") as other:
        _next(onlooker, lambda m: "method" in _data(m))
        other.fence()  # past the statuses of all that the victim has sent
        begun = time.perf_counter()
        victim.kill()
        _next(onlooker, lambda m: m.kind == "comm_close")
        first = time.perf_counter()
        times = []
        while not times or _comms(other):
            times.append(_round_trip(other))
        closed = 1
        while closed < many:
            closed += onlooker.receive("iopub", time.monotonic() + SECONDS).kind == "comm_close"
        ended = time.perf_counter()
        return {
            "comms closed at once": closed,
            "SIGKILL to the last closed, ms": (ended - begun) * 1000,
            "first to last closed, ms": (ended - first) * 1000,
            "executes meanwhile": len(times),
            "execute while they close, median ms": median(times),
            "execute while they close, worst ms": max(times),
        }


def _round_trip(client: Client) -> float:
    begun = time.perf_counter()
    client.run("1")
    return (time.perf_counter() - begun) * 1000


def _comms(client: Client) -> bool:
    """Whether some of the comms to close are still open."""
    msg_id = client.send("comm_info_request", {"target_name": "echo"}, "control")
    return bool(client.reply(msg_id, SECONDS, "control").content["comms"])


def _next(client: Client, wanted: Any) -> Message:
    while not wanted(got := client.receive("iopub", time.monotonic() + SECONDS)):
        pass
    return got


def _data(message: Message) -> dict[str, Any]:
    return message.content.get("data", {}) if message.kind == "comm_msg" else {}


@contextlib.contextmanager
def _victim(kernel: Running, comms: int) -> Iterator[Any]:
    """Have a client in a process of its own; it opens comms, and has the kernel ask over one."""
    work = multiprocessing.get_context("spawn").Process(
        target=_be_the_victim, args=(kernel.connection, comms), daemon=True
    )
    work.start()
    try:
        yield work
    finally:
        work.kill()
        work.join()


def _be_the_victim(connection: dict[str, Any], comms: int) -> None:
    with contextlib.closing(
        Client(connection, lambda: True, (b"kernel.", b"session.victim"))
    ) as client:
        client.join()
        client.session = "victim"
        for number in range(comms):
            opening = {"comm_id": f"victim-{number}", "target_name": "echo", "data": {}}
            client.send("comm_open", opening)
        data = {"jsonrpc": "2.0", "id": 1, "method": "ask"}
        client.send("comm_msg", {"comm_id": "victim-0", "data": data})
        while True:
            time.sleep(SECONDS)
