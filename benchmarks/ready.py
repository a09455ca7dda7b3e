"""A trial of clients that connect: is anything lost, and how long until they are ready?

Each connect is followed by a cell at once, of which every message from busy to idle must come.
Three clients take turns on the same kernel: ours, jupyter_client's, and a naive one of plain pyzmq,
which connects, subscribes and executes, and waits for nothing.
"""

from __future__ import annotations

import contextlib
import os
import time
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from queue import Empty
from statistics import median
from typing import Any

import zmq
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.channels import ZMQSocketChannel
from jupyter_client.manager import KernelManager
from kernels import START_TIME
from lean_messages import KernelLost
from peers import ECHOES, missing
from progress import say
from trial_kernel import Facts, Subject

from echokernel.client import BlockingWelcomeClient

SUBJECTS = tuple(
    Subject(peer.name, peer.short, ())
    for peer in ECHOES.peers
    if peer.name in ("echo-handshake", "python3", "xpython-raw") and not missing(peer)
)
"""As the peers' own kernelspecs start them."""

CONNECTS = 1000
STOCK_CONNECTS = 100
"""Of jupyter_client's with its wait, which takes 0.2 s and more."""

STARTS = 10

ANSWER_TIME = 20.0
"""Seconds that a cell may take."""

LATE = 2.0
"""Seconds without a message, after two replies, until what has not come counts as lost: long,
so that a delay on a loaded machine is not taken for a loss."""

CELL = ("busy", "execute_input", "output", "idle")
"""The messages of a cell: a kernel's state by itself, others by their type."""

OUTPUTS = ("stream", "execute_result", "display_data")
"""How kernels say what a cell's value is."""

BOUND = 1.0
"""A first start by our client must not take longer than by jupyter_client's, give or take noise."""

NOISE = 0.1


def ready(subject: Subject, quick: bool) -> Facts:
    """Count what is lost, and take times, on one kernel."""
    share = 10 if quick else 1
    facts: Facts = {}
    ours, stock = _starts(subject, max(3, STARTS // share))
    facts |= _times("first start to ready", ours, stock)
    with _kernel(subject, BlockingKernelClient) as (manager, _):
        ours, stock = [], []
        lost, naively_lost = Counter[str](), Counter[str]()
        connects = CONNECTS // share
        for number in range(connects):
            if number % 10 == 0:
                say(f"  {number} of {connects} connects", passing=True)
            with _client(manager, BlockingWelcomeClient) as client:
                ours.append(_ready(client))
                lost += _lost(client)
            with _naive_client(manager) as client:
                naively_lost += _lost(client)
            if number % (CONNECTS // STOCK_CONNECTS) == 0:
                with _client(manager, BlockingKernelClient) as client:
                    stock.append(_ready(client))
    facts |= _times("reconnect to ready", ours, stock)
    facts["connects, each with a cell"] = connects
    facts["messages lost"] = lost.total()
    facts["messages lost by the naive client"] = naively_lost.total()
    if lost:
        facts["lost"] = ", ".join(f"{number} {kind}" for kind, number in lost.items())
    return facts


def judge_ready(facts: Mapping[str, Facts]) -> Iterator[str]:
    """Yield what our client misses, on any kernel."""
    for name, found in facts.items():
        if found["messages lost"]:
            yield f"{name}: {found['messages lost']} messages lost"
        if float(found["first start to ready: ours / stock"]) > BOUND + NOISE:
            yield f"{name}: a first start takes longer than with jupyter_client's client"


def _times(name: str, ours: list[float], stock: list[float]) -> Facts:
    return {
        f"{name}: ms, stock": median(stock),
        f"{name}: ms, ours": median(ours),
        f"{name}: ours / stock": median(ours) / median(stock),
    }


def _starts(subject: Subject, number: int) -> tuple[list[float], list[float]]:
    """Return the milliseconds from nothing to ready, of ours and of the stock client, in turns."""
    taken: dict[type[BlockingKernelClient], list[float]]
    taken = {BlockingWelcomeClient: [], BlockingKernelClient: []}
    for turn in range(number + 1):
        say(f"  start {turn} of {number}", passing=True)
        for kind, times in taken.items():
            begun = time.perf_counter()
            with _kernel(subject, kind):
                times.append((time.perf_counter() - begun) * 1000)
    for times in taken.values():
        del times[0]  # imports, byte code, caches
    return taken[BlockingWelcomeClient], taken[BlockingKernelClient]


@contextlib.contextmanager
def _kernel(
    subject: Subject, kind: type[BlockingKernelClient]
) -> Iterator[tuple[KernelManager, BlockingKernelClient]]:
    """Have a new kernel, and a client that is ready."""
    manager = KernelManager(kernel_name=subject.name)
    with open(os.devnull, "wb") as nowhere:
        manager.start_kernel(cwd=os.environ["JUPYTER_DATA_DIR"], stdout=nowhere, stderr=nowhere)
    try:
        with _client(manager, kind) as client:
            _ready(client)
            yield manager, client
    finally:
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


@contextlib.contextmanager
def _client(
    manager: KernelManager, kind: Callable[..., BlockingKernelClient]
) -> Iterator[BlockingKernelClient]:
    """Have a client that has yet to connect."""
    manager.client_factory = kind
    client = manager.client()
    # Clients of one manager share its session id, and kernels such as xeus answer only the first.
    client.session.session = uuid.uuid4().hex
    try:
        yield client
    finally:
        client.stop_channels()


@contextlib.contextmanager
def _naive_client(manager: KernelManager) -> Iterator[BlockingKernelClient]:
    """Have a client as one writes it by hand: two sockets, in jupyter_client's order, no wait."""
    with _client(manager, BlockingKernelClient) as client:
        iopub, shell = zmq.Socket(client.context, zmq.SUB), zmq.Socket(client.context, zmq.DEALER)
        shell.connect(client._make_url("shell"))
        iopub.connect(client._make_url("iopub"))
        iopub.subscribe(b"")
        client._iopub_channel = ZMQSocketChannel(iopub, client.session)
        client._shell_channel = ZMQSocketChannel(shell, client.session)
        yield client


def _ready(client: BlockingKernelClient) -> float:
    """Connect and wait; return the milliseconds."""
    begun = time.perf_counter()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=START_TIME)
    except RuntimeError as error:
        raise KernelLost(str(error)) from error
    return (time.perf_counter() - begun) * 1000


def _lost(client: BlockingKernelClient) -> Counter[str]:
    """Execute; return which of the cell's messages did not come."""
    cell = client.execute("1")
    heard = Counter[str]()
    try:
        client._recv_reply(cell, timeout=ANSWER_TIME)
        # A second request, because messages come in order: what has not come before this one's
        # idle never comes, and nobody has to wait for it.
        second = client.kernel_info()
        while True:
            message = client.get_iopub_msg(timeout=LATE)
            # A header that is null: xeus's welcome.
            parent = (message["parent_header"] or {}).get("msg_id")
            if parent == cell:
                heard[_kind(message)] += 1
            elif parent == second and _kind(message) == "idle":
                break
    except TimeoutError as error:
        raise KernelLost("a cell was not answered") from error
    except Empty:
        pass
    return Counter(CELL) - heard


def _kind(message: Mapping[str, Any]) -> str:
    content = message["content"]
    # Not the cell's own: at its 1,000th value IPython warns on stderr that its cache is full.
    if content.get("name") == "stderr":
        return "warning"
    kind = content.get("execution_state") or message["msg_type"]
    return "output" if kind in OUTPUTS else str(kind)
