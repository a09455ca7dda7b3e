"""How long clients take to become ready, and which messages they lose: ``run.py --only ready``.

Three clients connect to the same kernel in turn: echokernel's, jupyter_client's, and a client
without a wait, which connects, subscribes and executes. After each connect, a cell runs
immediately, and each of its messages must arrive, from busy to idle.
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
from lean_client import ANSWER_TIME, KernelLost, endpoint
from peers import ECHO, START_TIME, is_missing
from progress import show_progress
from report import Table

from echokernel.client import BlockingWelcomeClient

KERNELS = ("echo-handshake", "python3", "xpython-raw")

CONNECTS = 1000
STARTS = 10

STOCK_SHARE = 10
"""One connect in this many is also made by jupyter_client's client, which takes 0.2 s."""

LOSS_TIME = 2.0
"""Seconds without a message, after two replies; after them, a missing message counts as lost."""

CELL = ("busy", "execute_input", "output", "idle")

OUTPUTS = ("stream", "execute_result", "display_data")
"""The types of message in which kernels publish the value of a cell."""


def measure(quick: bool) -> Table:
    """Connect to each installed kernel."""
    peers = [peer for peer in ECHO.peers if peer.name in KERNELS and not is_missing(peer)]
    columns = {peer.short: _measure_kernel(peer.name, 10 if quick else 1) for peer in peers}
    return Table("Clients that connect, become ready, and execute immediately", columns)


def _measure_kernel(name: str, share: int) -> dict[str, float | str]:
    show_progress(f"ready: {name}")
    cells = _times("first start to ready", *_first_starts(name, max(3, STARTS // share)))
    with _kernel(name, BlockingKernelClient) as manager:
        welcome, stock = [], []
        lost, lost_without_wait = Counter[str](), Counter[str]()
        for number in range(connects := CONNECTS // share):
            if number % 10 == 0:
                show_progress(f"  {number} of {connects} connects", transient=True)
            with _client(manager, BlockingWelcomeClient) as client:
                welcome.append(_wait(client))
                lost += _lost(client)
            with _client_without_wait(manager) as client:
                lost_without_wait += _lost(client)
            if number % STOCK_SHARE == 0:
                with _client(manager, BlockingKernelClient) as client:
                    stock.append(_wait(client))
    return {
        **cells,
        **_times("reconnect to ready", welcome, stock),
        "connects, each with a cell": connects,
        "messages lost": lost.total(),
        "lost messages": ", ".join(f"{number} {kind}" for kind, number in lost.items()) or "-",
        "messages lost by a client without a wait": lost_without_wait.total(),
    }


def _times(title: str, welcome: list[float], stock: list[float]) -> dict[str, float | str]:
    return {
        f"{title}, jupyter_client, ms": median(stock),
        f"{title}, echokernel, ms": median(welcome),
        f"{title}, echokernel / jupyter_client": median(welcome) / median(stock),
    }


def _first_starts(name: str, number: int) -> tuple[list[float], list[float]]:
    """Return milliseconds from no process to ready: echokernel's client, jupyter_client's."""
    times: dict[type[BlockingKernelClient], list[float]]
    times = {BlockingWelcomeClient: [], BlockingKernelClient: []}
    for _ in range(number + 1):
        for kind, taken in times.items():
            begun = time.perf_counter()
            with _kernel(name, kind):
                taken.append((time.perf_counter() - begun) * 1000)
    # The first ones do not count: imports, byte code, caches.
    return times[BlockingWelcomeClient][1:], times[BlockingKernelClient][1:]


@contextlib.contextmanager
def _kernel(name: str, kind: type[BlockingKernelClient]) -> Iterator[KernelManager]:
    """Start a kernel; a client of this kind has become ready."""
    manager = KernelManager(kernel_name=name)
    with open(os.devnull, "wb") as null:
        manager.start_kernel(cwd=os.environ["JUPYTER_DATA_DIR"], stdout=null, stderr=null)
    try:
        with _client(manager, kind) as client:
            _wait(client)
            yield manager
    finally:
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


@contextlib.contextmanager
def _client(
    manager: KernelManager, kind: Callable[..., BlockingKernelClient]
) -> Iterator[BlockingKernelClient]:
    """Provide a client that has not connected yet."""
    manager.client_factory = kind
    client = manager.client()
    # Clients of one manager share its session id; xeus answers only the first client with that id.
    client.session.session = uuid.uuid4().hex
    try:
        yield client
    finally:
        client.stop_channels()


@contextlib.contextmanager
def _client_without_wait(manager: KernelManager) -> Iterator[BlockingKernelClient]:
    """Provide a handwritten client: two sockets, connected in jupyter_client's order."""
    with _client(manager, BlockingKernelClient) as client:
        connection = client.get_connection_info()
        shell, iopub = zmq.Socket(client.context, zmq.DEALER), zmq.Socket(client.context, zmq.SUB)
        shell.connect(endpoint(connection, "shell"))
        iopub.connect(endpoint(connection, "iopub"))
        iopub.subscribe(b"")
        client._iopub_channel = ZMQSocketChannel(iopub, client.session)
        client._shell_channel = ZMQSocketChannel(shell, client.session)
        yield client


def _wait(client: BlockingKernelClient) -> float:
    """Connect and wait until the client is ready; return the milliseconds."""
    begun = time.perf_counter()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=START_TIME)
    except RuntimeError as error:
        raise KernelLost(str(error)) from error
    return (time.perf_counter() - begun) * 1000


def _lost(client: BlockingKernelClient) -> Counter[str]:
    """Execute a cell; return the messages that did not arrive."""
    cell = client.execute("1")
    received = Counter[str]()
    try:
        client._recv_reply(cell, timeout=ANSWER_TIME)
        # IOPub keeps the order: after the idle of a second request, nothing of the cell can arrive.
        second = client.kernel_info()
        while True:
            message = client.get_iopub_msg(timeout=LOSS_TIME)
            parent = (message["parent_header"] or {}).get("msg_id")  # xeus's welcome has null
            if parent == cell:
                received[_kind(message)] += 1
            elif parent == second and _kind(message) == "idle":
                break
    except TimeoutError as error:
        raise KernelLost("a cell was not answered") from error
    except Empty:
        pass
    return Counter(CELL) - received


def _kind(message: Mapping[str, Any]) -> str:
    """Return the state of a status message, "output" for any output, otherwise the type."""
    content = message["content"]
    if content.get("name") == "stderr":  # IPython warns when its cache of outputs is full
        return "warning"
    kind = content.get("execution_state") or message["msg_type"]
    return "output" if kind in OUTPUTS else str(kind)
