"""Subscribers that do not read while the kernel publishes very much (P3, K10).

A single such subscriber, and what its notices say, are tested with the flow control.
"""

import contextlib
import json
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import pytest

from abuse.peers import DEADLINE, MB, MemoryWatch, RawPeer, Signer

pytestmark = pytest.mark.timeout(240)

MEMORY_BOUND = 512 * 1024 * 1024

IDLE = {"execution_state": "idle"}

REPLY_TIME = 60.0
"""Seconds for a cell that publishes very much."""


@pytest.mark.parametrize(
    "order", [{"do": "display", "times": 20_000}, {"do": "print", "times": 100_000}]
)
def test_jupyter_client_pauses_until_the_reply(order, kernel):
    """P3: jupyter_client's own client loses nothing, and the order is kept."""
    with kernel.stock_client() as client:
        msg_id = client.execute(json.dumps(order))
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
            elif (message["parent_header"].get("msg_id"), content) == (msg_id, IDLE):
                break
    assert "".join(texts).split() == [str(number) for number in range(order["times"])]


FLOODS = {"small": (16, 10_000, 1), "large": (30, 20, MB)}
"""Cells; displays of each cell; bytes of each display. Each exceeds a bound of the queue:
the number of messages, or their size."""

STALLED = 3


@pytest.mark.parametrize("flood", FLOODS)
def test_three_subscribers_never_read(flood, kernel, client):
    """P3, K10: a client that reads is served, within the memory bound. The stalled subscribers
    receive every status and a notice of the loss when they read at last."""
    cells, times, size = FLOODS[flood]
    order = {"do": "display", "times": times, "size": size}
    with contextlib.ExitStack() as at_exit:
        stalled = [at_exit.enter_context(stalled_subscriber(kernel)) for _ in range(STALLED)]
        requests, received = [], 0
        with MemoryWatch(kernel) as memory:
            for _ in range(cells):
                requests.append(client.execute(order))
                published = list(client.published(requests[-1], REPLY_TIME))
                received += sum(message.kind == "display_data" for message in published)
                assert client.reply(requests[-1]).content["status"] == "ok"
                assert client.ask("kernel_info_request", "control")["status"] == "ok"
        assert memory.growth < MEMORY_BOUND
        # The queues bound the number of small messages, but the bytes of large ones: a reader
        # can lose large ones while it is the slowest.
        assert received == cells * times or flood == "large"
        requests += [client.execute("later") for _ in range(20)]
        for msg_id in requests[-20:]:
            assert client.reply(msg_id).content["status"] == "ok"
        expected = [(msg_id, state) for msg_id in requests for state in ("busy", "idle")]
        # Together: what was held for them is sent when no queue is full any more.
        with ThreadPoolExecutor() as threads:
            read = partial(read_all, last=expected[-1], key=kernel.connection["key"])
            for statuses, displays in threads.map(read, stalled):
                assert [status for status in statuses if status[0] in requests] == expected
                assert displays < cells * times


@contextlib.contextmanager
def stalled_subscriber(kernel):
    """Provide a subscriber of everything that has received its welcome."""
    with contextlib.closing(RawPeer(kernel.address("iopub"))) as subscriber:
        subscriber.subscribe(b"")
        while b'"iopub_welcome"' not in b"".join(subscriber.receive()):
            pass
        yield subscriber


def read_all(subscriber, last, key):
    """Read until the status ``last`` and the notice of the loss; return statuses, displays.

    Displays are counted without parsing: there are very many.
    """
    parse = Signer(key).parse
    statuses, displays, noticed = [], 0, False
    while last not in statuses or not noticed:
        frames = subscriber.receive()
        if b'"display_data"' in frames[-4]:
            displays += 1
            continue
        message = parse(frames)
        if message.kind == "status":
            statuses.append((message.parent, message.content["execution_state"]))
        elif message.content.get("name") == "stderr":
            noticed = noticed or "were not sent" in message.content["text"]
    return statuses, displays
