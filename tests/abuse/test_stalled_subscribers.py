"""Subscribers that do not read while the kernel publishes very much (P3, K10).

The tests of flow control cover a single stalled subscriber and the text of its notices.
"""

import contextlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from abuse.running_kernel import MB, MemoryWatch
from echokernel.conformance.raw_client import DEADLINE
from echokernel.conformance.raw_messages import IDLE, parent_id_of, parse_message

pytestmark = pytest.mark.timeout(240)

MEMORY_BOUND = 512 * 1024 * 1024

REPLY_TIME = 60.0
"""Seconds for a cell that publishes very much."""


@pytest.mark.parametrize(
    "instruction", [{"do": "display", "times": 20_000}, {"do": "print", "times": 100_000}]
)
def test_jupyter_client_that_pauses_until_the_reply_loses_nothing(instruction, kernel):
    """P3: jupyter_client's own client receives every message, in order."""
    with kernel.stock_client() as client:
        msg_id = client.execute(json.dumps(instruction))
        deadline = time.monotonic() + REPLY_TIME
        while client.get_shell_msg(timeout=REPLY_TIME)["parent_header"]["msg_id"] != msg_id:
            assert time.monotonic() < deadline
        texts = []
        while True:
            message = client.get_iopub_msg(timeout=DEADLINE)
            content = message["content"]
            if message["msg_type"] == "stream":
                texts.append(content["text"])
            elif message["msg_type"] == "display_data":
                texts.append(content["data"]["text/plain"].split()[0] + "\n")
            elif (message["parent_header"].get("msg_id"), content) == (msg_id, IDLE[1]):
                break
    assert "".join(texts).split() == [str(number) for number in range(instruction["times"])]


FLOODS = {"small": (16, 10_000, 1), "large": (30, 20, MB)}
"""Cells; displays of each cell; bytes of each display. Each flood exceeds a bound of the queue:
the number of messages, or their size."""

STALLED = 3


@pytest.mark.parametrize("flood", FLOODS)
def test_a_client_is_served_beside_three_stalled_subscribers(flood, kernel, client):
    """P3, K10: a client that reads is served, within the memory bound. The stalled subscribers
    receive every status and a notice of the loss when they read again."""
    cells, times, size = FLOODS[flood]
    instruction = {"do": "display", "times": times, "size": size}
    with contextlib.ExitStack() as at_exit:
        stalled = [at_exit.enter_context(stalled_subscriber(kernel)) for _ in range(STALLED)]
        requests, received = [], 0
        with MemoryWatch(kernel) as memory:
            for _ in range(cells):
                requests.append(client.execute(instruction))
                published = client.receive_until_idle(requests[-1], REPLY_TIME)
                received += sum(kind == "display_data" for kind, _ in published)
                assert client.receive_reply(requests[-1])["content"]["status"] == "ok"
                assert client.request("kernel_info_request", {}, "control")["status"] == "ok"
        assert memory.growth < MEMORY_BOUND
        # The queues bound the number of small messages, but the bytes of large messages: a reader
        # can lose large messages while it is the slowest.
        assert received == cells * times or flood == "large"
        requests += [client.execute("later") for _ in range(20)]
        for msg_id in requests[-20:]:
            assert client.receive_reply(msg_id)["content"]["status"] == "ok"
        expected = [(msg_id, state) for msg_id in requests for state in ("busy", "idle")]
        # They read at the same time: held messages are sent when no queue is full any more.
        with ThreadPoolExecutor() as threads:
            read = partial(read_all, last=expected[-1], key=kernel.connection["key"])
            for statuses, displays in threads.map(read, stalled):
                assert [status for status in statuses if status[0] in requests] == expected
                assert displays < cells * times


@contextlib.contextmanager
def stalled_subscriber(kernel):
    """Provide a subscriber of every topic that has received its welcome."""
    with kernel.raw_peer("iopub", b"SUB") as subscriber:
        subscriber.send(b"\x01")
        while b'"iopub_welcome"' not in b"".join(subscriber.receive()):
            pass
        yield subscriber


def read_all(subscriber, last, key):
    """Read until the status ``last`` and the notice of the loss; return statuses, displays.

    Displays are counted without parsing: there are very many.
    """
    statuses, displays, noticed = [], 0, False
    while last not in statuses or not noticed:
        frames = subscriber.receive()
        if b'"display_data"' in frames[-4]:
            displays += 1
            continue
        message = parse_message(frames, key)
        content = message["content"]
        if message["msg_type"] == "status":
            statuses.append((parent_id_of(message), content["execution_state"]))
        elif content.get("name") == "stderr":
            noticed = noticed or "were not sent" in content["text"]
    return statuses, displays
