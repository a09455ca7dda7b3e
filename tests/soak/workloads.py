"""The turns of the soak's workers, and the messages that each turn must receive.

A turn sends requests and compares everything that is published for them with the expected messages,
in order. A message that is lost, damaged, repeated or misplaced ends the soak. The cells are always
the same and stay out of the history: IPython keeps each new cell, which would look like a leak.
"""

import itertools
import json
import uuid

from echokernel.conformance.raw_messages import BUSY, IDLE

PRINTS = "for number in range(50): print(number, flush=number % 10 == 0)"
DISPLAYS = "for number in range(20): print(number); display(number)"
CELLS = (
    (PRINTS, [("stdout", "".join(f"{number}\n" for number in range(50)))], "ok"),
    (
        DISPLAYS,
        [pair for n in range(20) for pair in (("stdout", f"{n}\n"), ("display_data", f"{n}"))],
        "ok",
    ),
    ("6 * 7", [("execute_result", "42")], "ok"),
    ("1 / 0", [("error", "ZeroDivisionError")], "error"),
)
"""Cells, the messages published for each (see `summarize`), and the status of the reply."""

ENDLESS_CELLS = (
    "print('begun', flush=True)\nwhile True: pass",
    "import time\nprint('begun', flush=True)\ntime.sleep(600)",
    "import asyncio\nprint('begun', flush=True)\nawait asyncio.sleep(600)",
)
"""Cells that end by an interrupt: in Python, in a system call, in an await."""

BURST = 30
"""Executes sent together."""

COMM_TARGET = "soak"

SET_UP = f"""
def _opened(comm, message):
    comm.on_msg(lambda message: comm.send(message["content"]["data"]))
    comm.send({{"opened": message["content"]["data"]}})

def _clear_outputs(result):
    get_ipython().history_manager.outputs.clear()

get_ipython().kernel.comm_manager.register_target("{COMM_TARGET}", _opened)
get_ipython().events.register("post_run_cell", _clear_outputs)
"""
"""Registers a comm target that echoes messages.

IPython 9 keeps the output of every cell, whether the cell is in the history or not: clear it.
"""

KERNEL_COMM = """
from comm import create_comm
view = create_comm(target_name="view", data={"a": 1})
view.send({"b": 2})
view.close()
"""


class UnexpectedMessage(AssertionError):
    """The published messages or the reply differ from the expected ones."""


def execute_cells(client, kernel, counts):
    """Execute one cell of each kind."""
    for code, published, status in CELLS:
        check_execute(client, execute(client, code), [("execute_input", code), *published], status)
    counts["executes"] += len(CELLS)


def execute_bursts(client, kernel, counts):
    """Send many executes together; the kernel must answer each of them, in order."""
    code, published, status = CELLS[0]
    for msg_id in [execute(client, code) for _ in range(BURST)]:
        check_execute(client, msg_id, [("execute_input", code), *published], status)
    counts["executes"] += BURST


def use_comms(client, kernel, counts):
    """Open a comm, exchange messages, close it; then let the kernel do the same."""
    comm = {"comm_id": uuid.uuid4().hex}
    opening = {**comm, "target_name": COMM_TARGET, "data": {"n": -1}}
    opened = [("comm_msg", as_json({"opened": {"n": -1}}))]
    check_published(client, client.send("comm_open", opening), opened)
    data = [{"n": number} for number in range(10)]
    sent = [client.send("comm_msg", {**comm, "data": item}) for item in data]
    for msg_id, item in zip(sent, data, strict=True):
        check_published(client, msg_id, [("comm_msg", as_json(item))])
    check_published(client, client.send("comm_close", {**comm, "data": {}}), [])
    by_kernel = [("comm_open", '{"a": 1}'), ("comm_msg", '{"b": 2}'), ("comm_close", "{}")]
    published = [("execute_input", KERNEL_COMM), *by_kernel]
    check_execute(client, execute(client, KERNEL_COMM), published, "ok")
    counts["executes"] += 1
    counts["comm messages"] += len(data) + 6


def send_control_requests(client, kernel, counts):
    """Send a request on control while shell may be busy."""
    msg_id = client.send("kernel_info_request", {}, "control")
    check_reply(client, msg_id, "ok", "control")
    check_published(client, msg_id, [])
    counts["control requests"] += 1


def interrupt(client, kernel, counts):
    """Execute endless cells; interrupt each with a signal, then with a request."""
    for code, by_signal in itertools.product(ENDLESS_CELLS, (True, False)):
        msg_id, received, request = execute(client, code), [], ""
        for kind, content in client.publications(msg_id):
            received.append((kind, content))
            # An earlier interrupt would hit another client's cell, or this cell's print().
            if kind != "stream" or not content["text"].endswith("\n"):
                continue
            if by_signal:
                kernel.interrupt()
            else:
                request = client.send("interrupt_request", {}, "control")
        error = "CancelledError" if "await" in code else "KeyboardInterrupt"
        compare(received, [("execute_input", code), ("stdout", "begun\n"), ("error", error)])
        check_reply(client, msg_id, "error")
        if request:
            check_reply(client, request, "ok", "control")
        counts["interrupts"] += 1
    counts["executes"] += 2 * len(ENDLESS_CELLS)


def connect_and_disconnect(_, kernel, counts):
    """Connect, wait for the welcome, execute; disconnect afterwards, or while the cell runs."""
    code, published, status = CELLS[1]
    for waits in (True, False):
        topic = f"session.{uuid.uuid4()}"
        with kernel.client((b"", topic.encode())) as client:
            msg_id = execute(client, code)
            if waits:
                check_execute(client, msg_id, [("execute_input", code), *published], status)
                counts["executes"] += 1
            else:
                next(client.publications(msg_id))
        counts["connections"] += 1


WORKLOADS = {
    "cells 1": execute_cells,
    "cells 2": execute_cells,
    "bursts": execute_bursts,
    "comms": use_comms,
    "control": send_control_requests,
    "interrupts": interrupt,
}
"""One turn of each worker whose client stays connected."""


# --- comparing -----------------------------------------------------------------------------------


def execute(client, code):
    return client.execute(code, store_history=False)


def check_execute(client, msg_id, published, status):
    check_published(client, msg_id, published)
    check_reply(client, msg_id, status)


def check_reply(client, msg_id, status, channel="shell"):
    reply = client.receive_reply(msg_id, channel)
    if reply["content"]["status"] != status:
        raise UnexpectedMessage(f"{reply['msg_type']} has {reply['content']}, expected: {status}")


def check_published(client, msg_id, expected):
    compare(client.publications(msg_id), expected)


def compare(published, expected):
    """Raise UnexpectedMessage unless the summaries between busy and idle are the expected ones."""
    received = join_streams(summarize(*message) for message in published)
    expected = [summarize(*BUSY), *expected, summarize(*IDLE)]
    if received != expected:
        pairs = zip(expected, received, strict=False)
        equal = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))
        raise UnexpectedMessage(
            f"after {equal} messages: {received[equal:]}, expected: {expected[equal:]}"
        )


def join_streams(summaries):
    """Join neighbouring parts of a stream: the kernel may split it anywhere."""
    result = []
    for kind, group in itertools.groupby(summaries, key=lambda pair: pair[0]):
        if kind in ("stdout", "stderr"):
            result.append((kind, "".join(text for _, text in group)))
        else:
            result.extend(group)
    return result


def summarize(kind, content):
    """Return (type or name of the stream, text) of a message."""
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
    return kind, as_json(content.get("data", {}))


def as_json(data):
    return json.dumps(data, sort_keys=True)
