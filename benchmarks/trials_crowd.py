"""A trial of crowds: a thousand subscribers who come, are welcomed and go."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator, Mapping, Sequence

import zmq
from lean_messages import DELIMITER
from trial_client import endpoint
from trial_kernel import OURS, Facts, Running, Subject, running

WAVE = 250
"""Subscribers who are there at the same time: each takes two of a process's files."""

WELCOME_TIME = 5.0
"""Seconds without a welcome after which those who still wait are not welcomed."""


def joins(subject: Subject, quick: bool) -> Facts:
    """Let subscribers join and leave: each on a topic of its own, then all on the empty one."""
    share = 10 if quick else 1
    facts: Facts = {}
    with running(subject) as kernel:
        waves = [
            [f"session.{uuid.uuid4()}".encode() for _ in range(WAVE // share)] for _ in range(4)
        ]
        facts |= _crowd(kernel, "own topic", waves)
        facts |= _crowd(kernel, "empty topic", [[b""] * (100 // share)])
    return facts


def judge_joins(facts: Mapping[str, Facts]) -> Iterator[str]:
    """Yield what our kernel misses."""
    ours = facts[OURS.name]
    for name in ("own topic", "empty topic"):
        if ours[f"{name}: welcomed"] < ours[f"{name}: joins"]:
            yield f"{name}: not everybody is welcomed"


def _crowd(kernel: Running, name: str, waves: Sequence[Sequence[bytes]]) -> Facts:
    cpu, begun = kernel.cpu(), time.perf_counter()
    welcomed = sum(_wave(kernel, topics) for topics in waves)
    wall, number = time.perf_counter() - begun, sum(map(len, waves))
    return {
        f"{name}: joins": number,
        f"{name}: welcomed": welcomed,
        f"{name}: ms per join": wall / number * 1000,
        f"{name}: kernel's CPU ms per join": (kernel.cpu() - cpu) / number * 1000,
    }


def _wave(kernel: Running, topics: Sequence[bytes]) -> int:
    """Join all, wait for the welcomes, leave; return how many were welcomed."""
    url = endpoint(kernel.connection, "iopub")
    context, poller = zmq.Context(), zmq.Poller()
    heard, welcomes = set(), set()
    try:
        for topic in topics:
            listener = context.socket(zmq.SUB)
            listener.subscribe(topic)  # before it connects: a welcome comes once
            listener.connect(url)
            poller.register(listener, zmq.POLLIN)
        # On the empty topic one hears the welcomes of others, too: there must be one for each.
        while min(len(heard), len(welcomes)) < len(topics):
            ready = poller.poll(WELCOME_TIME * 1000)
            if not ready:
                break
            for listener, _ in ready:
                header = _header(listener.recv_multipart())
                if b'"iopub_welcome"' in header:
                    heard.add(listener)
                    welcomes.add(header)
        return min(len(heard), len(welcomes))
    finally:
        context.destroy(linger=0)


def _header(frames: list[bytes]) -> bytes:
    return frames[frames.index(DELIMITER) + 2]
