"""A trial of strangers: what peers without the key can do to a kernel."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence

import psutil
from lean_client import ANSWER_TIME
from lean_messages import DELIMITER, KernelLost
from raw_zmtp import GREETING, RawPeer
from trial_client import Client
from trial_kernel import OURS, Facts, MemoryWatch, Running, Subject, running

JUNK_BOUND = 64.0
"""MB by which the kernel may grow under each attack."""

HANG_UP = OSError
"""What a peer sees whom the kernel has cut off, as it should."""


def junk(subject: Subject, quick: bool) -> Facts:
    """Attack a kernel without its key, in several ways; see what it costs and who still works."""
    facts: Facts = {"growth allowed each, MB": JUNK_BOUND}
    for name, attack in ATTACKS.items():
        # A kernel of its own for each: memory that one attack freed would hide the next one's.
        with running(subject) as kernel, kernel.client() as client:
            with contextlib.ExitStack() as attackers, MemoryWatch(kernel) as memory:
                attack(kernel, attackers, quick)
                meanwhile = _slowest_round_trip(client)
            facts |= {
                f"{name}: memory grew, MB": memory.grew,
                f"{name}: log grew, KB": len(kernel.log()) / 1000,
                f"{name}: execute meanwhile, ms": meanwhile,
                f"{name}: execute afterwards, ms": _slowest_round_trip(client),
                f"{name}: a new client joins": _joins(kernel),
            }
    return facts


def judge_junk(facts: Mapping[str, Facts]) -> Iterator[str]:
    """Yield what our kernel misses."""
    ours = facts[OURS.name]
    for name in ATTACKS:
        if ours[f"{name}: memory grew, MB"] > JUNK_BOUND:
            yield f"{name}: memory grew by more than {JUNK_BOUND:g} MB"
        for when in ("meanwhile", "afterwards"):
            if ours[f"{name}: execute {when}, ms"] == UNANSWERED:
                yield f"{name}: an execute {when} is not answered"
        if not ours[f"{name}: a new client joins"]:
            yield f"{name}: nobody can join afterwards"


def _huge_topics(kernel: Running, attackers: contextlib.ExitStack, quick: bool) -> None:
    """Subscribe to topics of 10 MB; not many, since a kernel that takes them needs GBs."""
    for number in range(1 if quick else 2):
        _subscribe(kernel, attackers, [bytes([65 + number]) * 10_000_000])


def _large_topics(kernel: Running, attackers: contextlib.ExitStack, quick: bool) -> None:
    """Subscribe to many topics just below the size that our kernel takes, all different."""
    for number in range(2 if quick else 8):
        peer = bytes([65 + number])
        _subscribe(kernel, attackers, [peer + bytes([i]) * 60_000 for i in range(20)])


def _many_topics(kernel: Running, attackers: contextlib.ExitStack, quick: bool) -> None:
    """Subscribe to a great number of topics of a usual size."""
    topics = [f"session.{uuid.uuid4()}".encode() for _ in range(2_000 if quick else 20_000)]
    _subscribe(kernel, attackers, topics)


def _connects(kernel: Running, attackers: contextlib.ExitStack, quick: bool) -> None:
    """Connect, and stay: a third says nothing, others stop in or after their greeting."""
    if hasattr(kernel.process, "rlimit"):  # Linux: whatever it inherited, so runs agree
        kernel.process.rlimit(psutil.RLIMIT_NOFILE, (OPEN_FILES, OPEN_FILES))
    addresses = itertools.cycle(kernel.address(name) for name in CHANNELS)
    first_words = itertools.cycle([b"", GREETING[:12], GREETING])
    for _ in range(200 if quick else 2_000):
        try:
            peer = socket.create_connection(next(addresses), timeout=CONNECT_TIME)
        except TimeoutError:
            return  # it can take no more, and those who are in stay in
        attackers.callback(peer.close)
        with contextlib.suppress(HANG_UP):
            peer.sendall(next(first_words))


def _garbage(kernel: Running, attackers: contextlib.ExitStack, quick: bool) -> None:
    """Send what is no message to everything that listens to messages."""
    messages = [
        [b""],
        [b"", b"", b""],
        [os.urandom(100)],
        [DELIMITER],
        [DELIMITER, b"", b"{}", b"{}", b"{}", b"{}"],
        [DELIMITER, b"0" * 64, b"{", b"\xff", b"[]", b"null"],
        [b"identity"] * 100,
    ]
    for channel in ("shell", "control", "stdin", "hb"):
        for _ in range(20 if quick else 200):
            _send(kernel, attackers, channel, messages)


def _large_frames(channel: str) -> Callable[[Running, contextlib.ExitStack, bool], None]:
    """Return an attack with large frames on one channel."""

    def attack(kernel: Running, attackers: contextlib.ExitStack, quick: bool) -> None:
        _send(kernel, attackers, channel, [[bytes(1_000_000)]] * (20 if quick else 300))

    return attack


def _large_frames_while_busy(kernel: Running, attackers: contextlib.ExitStack, quick: bool) -> None:
    """Send large frames to shell while nobody reads it: a cell runs."""
    worker = attackers.enter_context(kernel.client())
    worker.execute({"do": "spin", "seconds": SPIN_TIME})
    while worker.receive("iopub", time.monotonic() + ANSWER_TIME).kind != "execute_input":
        pass
    _large_frames("shell")(kernel, attackers, quick)


CHANNELS = ("shell", "iopub", "stdin", "control", "hb")

SPIN_TIME = 2.0
"""Seconds for which a cell keeps the main thread."""

CONNECT_TIME = 5.0
"""Seconds."""

OPEN_FILES = 1024
"""How many a process may have by default on most systems: the kernel runs out of them."""

ATTACKS = {
    "topics of 10 MB": _huge_topics,
    "topics of 60 KB": _large_topics,
    "many topics": _many_topics,
    "connects": _connects,
    "garbage": _garbage,
    "1 MB frames on shell": _large_frames("shell"),
    "1 MB frames on shell, cell running": _large_frames_while_busy,
    "1 MB frames on stdin": _large_frames("stdin"),
}


def _subscribe(kernel: Running, attackers: contextlib.ExitStack, topics: Sequence[bytes]) -> None:
    """Have a peer with these topics, unless the kernel hangs up on it."""
    with contextlib.suppress(HANG_UP):
        peer = attackers.enter_context(contextlib.closing(RawPeer(kernel.address("iopub"))))
        for topic in topics:
            peer.subscribe(topic)


def _send(
    kernel: Running,
    attackers: contextlib.ExitStack,
    channel: str,
    messages: Sequence[list[bytes]],
) -> None:
    """Have a peer that has sent these messages, unless the kernel hangs up on it."""
    with contextlib.suppress(HANG_UP):
        peer = RawPeer(kernel.address(channel), kind=b"DEALER")
        attackers.callback(peer.close)
        for frames in messages:
            peer.send(frames)


UNANSWERED = "none"

ROUND_TRIPS = 20


def _slowest_round_trip(client: Client) -> float | str:
    """Return the milliseconds of the slowest of some executes, or that one is not answered."""
    slowest = 0.0
    for _ in range(ROUND_TRIPS):
        begun = time.perf_counter()
        try:
            client.run("1")
        except KernelLost:
            return UNANSWERED
        slowest = max(slowest, time.perf_counter() - begun)
    return slowest * 1000


def _joins(kernel: Running) -> bool:
    try:
        with kernel.client() as newcomer:
            newcomer.run("1")
    except KernelLost:
        return False
    return True
