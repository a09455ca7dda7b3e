"""What the soak's clients do, each in turns, and what each must see for it.

A turn sends requests and compares everything that is published for them, in its order, with what
the cell must say; one message that is missing, damaged, too many or misplaced ends the soak.
Cells are always the same ones and stay out of the history: what IPython keeps of each new cell
would look like a leak of the kernel's.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

from lean_client import ANSWER_TIME
from lean_messages import KernelLost
from trial_client import Client, Message
from trial_kernel import Running

Said = tuple[str, str]
"""What a message says: its kind or its stream's name, and its text."""

BUSY, IDLE = ("status", "busy"), ("status", "idle")

PRINTS = "for number in range(50): print(number, flush=number % 10 == 0)"
DISPLAYS = "for number in range(20): print(number); display(number)"
CELLS: tuple[tuple[str, list[Said], str], ...] = (
    (PRINTS, [("stdout", "".join(f"{number}\n" for number in range(50)))], "ok"),
    (
        DISPLAYS,
        [said for n in range(20) for said in (("stdout", f"{n}\n"), ("display_data", f"{n}"))],
        "ok",
    ),
    ("6 * 7", [("execute_result", "42")], "ok"),
    ("1 / 0", [("error", "ZeroDivisionError")], "error"),
)
"""Cells, what is published for each, and the status of the reply."""

ENDLESS = (
    "print('begun', flush=True)\nwhile True: pass",
    "import time\nprint('begun', flush=True)\ntime.sleep(600)",
    "import asyncio\nprint('begun', flush=True)\nawait asyncio.sleep(600)",
)
"""Cells that only an interrupt ends: in Python, in a system call, awaiting."""

BURST = 30
"""Executes sent at once."""

COMM_TARGET = "soak"

SET_UP = f"""
def _opened(comm, message):
    comm.on_msg(lambda message: comm.send(message["content"]["data"]))
    comm.send({{"opened": message["content"]["data"]}})

def _forget(result):
    get_ipython().history_manager.outputs.clear()

get_ipython().kernel.comm_manager.register_target("{COMM_TARGET}", _opened)
get_ipython().events.register("post_run_cell", _forget)
"""
"""Makes a comm target that answers what opens it, and then everything that it is sent.

And lets IPython (9) forget what cells have shown: it keeps all of it, history or not.
"""

KERNELS_COMM = """
from comm import create_comm
view = create_comm(target_name="view", data={"a": 1})
view.send({"b": 2})
view.close()
"""


class Wrong(KernelLost):
    """Something was published that is not what the cell said, or a reply was not what it did."""


# --- the turns --------------------------------------------------------------------------------


def cells(client: Client, kernel: Running, counts: Counter[str]) -> None:
    """Run one cell of each sort."""
    for code, published, status in CELLS:
        _ended(client, _execute(client, code), [("execute_input", code), *published], status)
    counts["executes"] += len(CELLS)


def bursts(client: Client, kernel: Running, counts: Counter[str]) -> None:
    """Send many executes at once; each must be answered, in order."""
    code, published, status = CELLS[0]
    for msg_id in [_execute(client, code) for _ in range(BURST)]:
        _ended(client, msg_id, [("execute_input", code), *published], status)
    counts["executes"] += BURST


def comms(client: Client, kernel: Running, counts: Counter[str]) -> None:
    """Open a comm, talk over it, close it; then let the kernel do the same."""
    comm = {"comm_id": uuid.uuid4().hex}
    opening = {**comm, "target_name": COMM_TARGET, "data": {"n": -1}}
    opened = [("comm_msg", _sorted({"opened": {"n": -1}}))]
    _published(client, client.send("comm_open", opening), opened)
    data = [{"n": number} for number in range(10)]
    sent = [client.send("comm_msg", {**comm, "data": each}) for each in data]
    for msg_id, each in zip(sent, data, strict=True):
        _published(client, msg_id, [("comm_msg", _sorted(each))])
    _published(client, client.send("comm_close", {**comm, "data": {}}), [])
    of_kernel = [("comm_open", '{"a": 1}'), ("comm_msg", '{"b": 2}'), ("comm_close", "{}")]
    published = [("execute_input", KERNELS_COMM), *of_kernel]
    _ended(client, _execute(client, KERNELS_COMM), published, "ok")
    counts["executes"] += 1
    counts["comm messages"] += len(data) + 6


def controls(client: Client, kernel: Running, counts: Counter[str]) -> None:
    """Ask on control, whatever runs on shell."""
    msg_id = client.send("kernel_info_request", {}, "control")
    _replied(client, msg_id, "ok", "control")
    _published(client, msg_id, [])
    counts["control requests"] += 1


def interrupts(client: Client, kernel: Running, counts: Counter[str]) -> None:
    """Run cells without an end, and interrupt each, with a signal and with a request."""
    for code, by_signal in itertools.product(ENDLESS, (True, False)):
        msg_id, heard, asked = _execute(client, code), [], ""
        for message in client.published(msg_id):
            heard.append(message)
            # Not before it has begun: somebody else's cell would be hit; and not in its print().
            if message.kind != "stream" or not message.content["text"].endswith("\n"):
                continue
            if by_signal:
                kernel.interrupt()
            else:
                asked = client.send("interrupt_request", {}, "control")
        stopped = "CancelledError" if "await" in code else "KeyboardInterrupt"
        ended = [("execute_input", code), ("stdout", "begun\n"), ("error", stopped)]
        _compare(heard, ended)
        _replied(client, msg_id, "error")
        if asked:
            _replied(client, asked, "ok", "control")
        counts["interrupts"] += 1
    counts["executes"] += 2 * len(ENDLESS)


def visits(client: Client | None, kernel: Running, counts: Counter[str]) -> None:
    """Come, be welcomed, run a cell to its end; come again and leave while one runs."""
    code, published, status = CELLS[1]
    for stays in (True, False):
        topic = f"session.{uuid.uuid4()}"
        topics = (b"", topic.encode())
        visitor = Client(kernel.connection, kernel.is_alive, topics)
        with contextlib.closing(visitor):
            deadline = time.monotonic() + ANSWER_TIME
            while not _is_welcome(visitor.receive("iopub", deadline), topic):
                pass
            msg_id = _execute(visitor, code)
            if stays:
                _ended(visitor, msg_id, [("execute_input", code), *published], status)
                counts["executes"] += 1
            else:
                next(visitor.published(msg_id))
        counts["visitors"] += 1


Role = Callable[[Any, Running, Counter[str]], None]
"""Takes one turn; counts what it did."""

ROLES: dict[str, Role] = {
    "cells 1": cells,
    "cells 2": cells,
    "bursts": bursts,
    "comms": comms,
    "controls": controls,
    "interrupts": interrupts,
}
"""Those who stay. A visitor makes clients of its own."""


# --- what must be seen ------------------------------------------------------------------------


def _execute(client: Client, code: str) -> str:
    return client.execute(code, store_history=False)


def _ended(client: Client, msg_id: str, published: Iterable[Said], status: str) -> None:
    _published(client, msg_id, published)
    _replied(client, msg_id, status)


def _replied(client: Client, msg_id: str, status: str, channel: str = "shell") -> None:
    reply = client.reply(msg_id, ANSWER_TIME, channel)
    if reply.content["status"] != status:
        raise Wrong(f"{reply.kind} says {reply.content}, not {status}")


def _published(client: Client, msg_id: str, expected: Iterable[Said]) -> None:
    _compare(client.published(msg_id), expected)


def _compare(messages: Iterable[Message], expected: Iterable[Said]) -> None:
    """Raise Wrong unless ``messages`` say what is expected, between busy and idle."""
    heard = _joined(_said(message) for message in messages)
    wanted = [BUSY, *expected, IDLE]
    if heard != wanted:
        pairs = zip(wanted, heard, strict=False)
        same = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))
        raise Wrong(f"after {same} messages: {heard[same:]}, where {wanted[same:]} should be")


def _joined(said: Iterable[Said]) -> list[Said]:
    """Put neighbouring pieces of a stream together: how it is cut is the kernel's choice."""
    groups = itertools.groupby(said, key=lambda each: each[0])
    joined: list[Said] = []
    for kind, group in groups:
        if kind in ("stdout", "stderr"):
            joined.append((kind, "".join(text for _, text in group)))
        else:
            joined.extend(group)
    return joined


def _said(message: Message) -> Said:
    kind, content = message.kind, message.content
    if kind == "status":
        return kind, content["execution_state"]
    if kind == "stream":
        return content["name"], content["text"]
    if kind == "execute_input":
        return kind, content["code"]
    if kind == "error":
        return kind, content["ename"]
    if kind in ("display_data", "execute_result"):
        return kind, content["data"]["text/plain"]
    return kind, _sorted(content.get("data", {}))


def _sorted(data: dict[str, Any]) -> str:
    return json.dumps(data, sort_keys=True)


def _is_welcome(message: Message, topic: str) -> bool:
    return message.kind == "iopub_welcome" and message.content["subscription"] == topic
