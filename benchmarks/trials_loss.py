"""Trials of slow readers: one that pauses, and one that never reads."""

from __future__ import annotations

import contextlib
import itertools
import json
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from queue import Empty
from typing import Any, NamedTuple

from jupyter_client.blocking.client import BlockingKernelClient
from raw_zmtp import RawPeer
from trial_client import Client, Message, Reader
from trial_kernel import MB, OURS, Facts, MemoryWatch, Running, Subject, running

# --- a client that pauses --------------------------------------------------------------------

PAUSE = 10.0
"""Seconds for which the client does not read."""

FENCE_TIME = 3.0
"""Seconds without any message after which the fence, lost like others, is sent anew."""

READ_TIME = 120.0
"""Seconds in which a slow reader must be through with what was published."""

REPLY_TIME = 60.0
"""Seconds from the end of the pause, or from the request, to the reply."""


def pausing_reader(subject: Subject, quick: bool) -> Facts:
    """Publish while jupyter_client's own client sleeps; count what it finds when it wakes."""
    pause, share = (2.0, 10) if quick else (PAUSE, 1)
    orders = {
        "displays": {"do": "display", "times": 50_000 // share},
        "lines": {"do": "print", "times": 100_000 // share, "flush": False},
    }
    facts: Facts = {"asleep, s": pause}
    for name, order in orders.items():
        with running(subject) as kernel, kernel.stock_client() as client:
            facts |= {f"{name}: {what}": fact for what, fact in _asleep(client, order, pause)}
    return facts


def judge_pausing(facts: Mapping[str, Facts]) -> Iterator[str]:
    """Yield what our kernel misses."""
    ours = facts[OURS.name]
    for name in ("displays", "lines"):
        if ours[f"{name}: lost"]:
            yield f"{ours[f'{name}: lost']} {name} were lost"
        if ours[f"{name}: out of order"]:
            yield f"{name} came out of order"
        if not ours[f"{name}: idle seen"]:
            yield f"the idle status after the {name} was lost"


def _asleep(
    client: BlockingKernelClient, order: Mapping[str, Any], pause: float
) -> Iterator[tuple[str, int | float]]:
    """Yield what becomes of one cell's output."""
    msg_id = client.execute(json.dumps(order))
    time.sleep(pause)  # this is what is on trial, and no wait for anything
    reply = client.get_shell_msg(timeout=REPLY_TIME)
    while reply["parent_header"].get("msg_id") != msg_id:
        reply = client.get_shell_msg(timeout=REPLY_TIME)
    idle, texts = False, []
    for message in _up_to_fence(client):
        if message["parent_header"].get("msg_id") == msg_id:
            idle = idle or message["content"].get("execution_state") == "idle"
        # Whatever its parent: ipykernel's streams do not know it, unless the kernel is IPython.
        texts.append(_text(message["msg_type"], message["content"]))
    numbers = _numbers(texts)
    yield "sent", order["times"]
    yield "lost", order["times"] - len(set(numbers))
    yield "out of order", sum(b <= a for a, b in itertools.pairwise(numbers))
    yield "idle seen", idle
    yield "published in, s", reply["content"]["user_expressions"]["seconds"]


def _up_to_fence(client: BlockingKernelClient) -> Iterator[dict[str, Any]]:
    """Yield what was published so far, and what comes meanwhile."""
    fences = {client.kernel_info()}
    deadline = time.monotonic() + READ_TIME
    while time.monotonic() < deadline:
        try:
            message = client.get_iopub_msg(timeout=FENCE_TIME)
        except Empty:
            fences.add(client.kernel_info())
            continue
        if message["parent_header"].get("msg_id") in fences:
            return  # its busy status: published after everything before, and in order
        yield message


# --- a peer that never reads ------------------------------------------------------------------

MEMORY_BOUND = 512 * 1.048576
"""MB; what the kernel may hold for slow readers, all together (512 MiB)."""

LATER_REQUESTS = 20
"""Executes after the flood: their status must reach even who never read."""

LOSS_SAID = re.compile(r"\b(drop|los[ts]|lose|slow)", re.IGNORECASE)
"""What a notice of the loss contains, in the log as in the stream."""


class Flood(NamedTuple):
    """What is published past a peer that does not read."""

    cells: int
    times: int
    """Displays of each cell."""
    size: int
    """Bytes of each display, and a little more."""


FLOODS = {
    "small": (Flood(30, 10_000, 1), Flood(4, 1_000, 1)),
    "big": (Flood(40, 20, 1_000_000), Flood(4, 10, 1_000_000)),
}
"""Full and quick. Big ones fill the memory before they fill a queue that counts messages."""


def never_reads(subject: Subject, quick: bool, bound: float = MEMORY_BOUND) -> Facts:
    """Flood a peer that does not read, while another does; then let it read.

    Args:
        subject: the kernel.
        quick: too little to reach any bound.
        bound: MB by which the kernel may grow.
    """
    facts: Facts = {"memory bound, MB": bound}
    for name, sizes in FLOODS.items():
        with (
            running(subject) as kernel,
            kernel.client() as reader,
            _never_reading(kernel, reader) as idler,
        ):
            flooded = _flood(kernel, reader, idler, sizes[quick])
            facts |= {f"{name}: {what}": fact for what, fact in flooded.items()}
    return facts


def judge_never_reads(facts: Mapping[str, Facts]) -> Iterator[str]:
    """Yield what our kernel misses."""
    ours = facts[OURS.name]
    for name in FLOODS:
        start = f"{name}: "
        found = {what.removeprefix(start): ours[what] for what in ours if what.startswith(start)}
        # Of large messages only the number that wait can be bounded: all are told of that loss.
        if found["reader lost"] and name == "small":
            yield f"{name}: the reader, too, lost displays"
        if found["memory grew, MB"] > ours["memory bound, MB"]:
            yield f"{name}: memory over the bound"
        if found["status missed"]:
            yield f"{name}: {found['status missed']} status messages did not reach who never read"
        if found["displays missed"]:
            for where in ("log", "stream"):
                if not found[f"loss said in {where}"]:
                    yield f"{name}: the loss is not said in the {where}"


@contextlib.contextmanager
def _never_reading(kernel: Running, reader: Client) -> Iterator[RawPeer]:
    """Have a peer that hears everything, and has read none of it."""
    with contextlib.closing(RawPeer(kernel.address("iopub"))) as idler:
        idler.subscribe(b"")
        # Its welcome, or what is published for somebody else: then the kernel knows of it.
        for _ in range(100):
            if idler.readable(0.2):
                yield idler
                return
            reader.fence()
    raise AssertionError("a subscriber hears nothing")


def _flood(kernel: Running, reader: Client, idler: RawPeer, flood: Flood) -> Facts:
    order = {"do": "display", "times": flood.times, "size": flood.size}
    received, parents = 0, set()
    log_begins = len(kernel.log())
    with MemoryWatch(kernel) as memory:
        for _ in range(flood.cells):
            answer = reader.run(order, REPLY_TIME)
            received += sum(message.kind == "display_data" for message in answer)
            parents.add(answer[0].parent)
        parents |= {reader.run("later")[0].parent for _ in range(LATER_REQUESTS)}
    said_in_log = bool(LOSS_SAID.search(kernel.log(), log_begins))
    heard = list(_reads_again(kernel, reader, idler))
    notices = _notices(heard)
    sent = flood.cells * flood.times
    mine = [message for message in heard if message.parent in parents]
    return {
        "displays": sent,
        "MB": sent * flood.size / MB,
        "reader lost": sent - received,
        "memory grew, MB": memory.grew,
        "displays missed": sent - sum(message.kind == "display_data" for message in mine),
        "status missed": 2 * len(parents) - sum(message.kind == "status" for message in mine),
        "loss said in log": said_in_log,
        "loss said in stream": bool(notices),
        "notice": notices[0] if notices else "-",
    }


def _reads_again(kernel: Running, reader: Client, idler: RawPeer) -> Iterator[Message]:
    """Yield what waits for who never read, and what comes before a last request's idle."""
    take = Reader(kernel.connection["key"]).message
    last = {reader.run("last")[0].parent}
    deadline = time.monotonic() + READ_TIME
    while time.monotonic() < deadline:
        if not idler.readable(FENCE_TIME):
            last.add(reader.run("last")[0].parent)
            continue
        try:
            message = take(idler.receive(deadline))
        except OSError:
            return  # nothing more in time, or hung up: what is missing is counted
        yield message
        if message.parent in last and message.is_idle:
            return


def _notices(messages: Iterable[Message]) -> list[str]:
    """Return what the kernel, not a cell, says in a stream about a loss."""
    said = (message.content["text"] for message in messages if message.kind == "stream")
    return [text.strip() for text in said if LOSS_SAID.search(text)]


# --- what the workload kernel counts ----------------------------------------------------------


def _text(kind: str, content: Mapping[str, Any]) -> str:
    """Return what a message shows; nothing, if it shows nothing."""
    if kind == "stream":
        return content["text"]
    return content["data"]["text/plain"] + "\n" if kind == "display_data" else ""


def _numbers(texts: list[str]) -> list[int]:
    """Return the numbers at which lines begin; a notice of the kernel's has none."""
    words = (line.partition(" ")[0] for line in "".join(texts).splitlines())
    return [int(word) for word in words if word.isdecimal()]
