"""The kernels on trial: how each is started, watched and stopped.

`peers.isolated` must surround all of it: the kernelspecs written here, the connection files and
the logs go to its temporary Jupyter, and it kills what a Ctrl-C leaves running.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager
from kernels import START_TIME
from lean_messages import KernelLost
from trial_client import Client

HERE = Path(__file__).resolve().parent

MEMORY_EVERY = 0.02
"""Seconds between two looks at a kernel's memory."""

Facts = dict[str, "int | float | str"]
"""What a trial found out about one kernel, in the order to print it."""

MB = 1_000_000


@dataclass(frozen=True)
class Subject:
    """A kernel to try, by its kernelspec's name."""

    name: str
    label: str
    argv: tuple[str, ...]
    """The kernelspec's, without the interpreter and the connection file."""


_OUR_APP = ("-m", "echokernel", "--kernel-class")

OURS = Subject("trial-ours", "echokernel", (*_OUR_APP, "workload:Workload"))
STOCK = Subject("trial-stock", "ipykernel", (str(HERE / "workload.py"),))
OURS_SWITCHING = Subject(
    "trial-switching",
    "echokernel --switch-interval 0.001",
    (*OURS.argv, "--switch-interval", "0.001"),
)
OURS_WITH_IPYTHON = Subject(
    "trial-ipython",
    "IPython on echokernel",
    (*_OUR_APP, "ipykernel.ipkernel:IPythonKernel"),
)


class Running:
    """A started kernel."""

    def __init__(self, manager: KernelManager, log: Path) -> None:
        self._manager = manager
        self._log = log
        self.connection: dict[str, Any] = manager.get_connection_info()
        self.process = psutil.Process(manager.provisioner.pid)

    def is_alive(self) -> bool:
        """Whether it runs; callable from any thread."""
        try:
            return self.process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    @contextlib.contextmanager
    def client(self, *topics: bytes) -> Iterator[Client]:
        """Have a client that has joined; by default it hears everything."""
        with contextlib.closing(Client(self.connection, self.is_alive, topics or (b"",))) as made:
            made.join()
            yield made

    @contextlib.contextmanager
    def stock_client(self) -> Iterator[BlockingKernelClient]:
        """Have jupyter_client's own client, ready, as it is by default."""
        made = self._manager.client()
        made.start_channels()
        try:
            made.wait_for_ready(timeout=START_TIME)
            yield made
        finally:
            made.stop_channels()

    def address(self, channel: str) -> tuple[str, int]:
        return self.connection["ip"], self.connection[f"{channel}_port"]

    def interrupt(self) -> None:
        """Send SIGINT, to the process alone."""
        os.kill(self.process.pid, signal.SIGINT)

    def cpu(self) -> float:
        """Return the CPU seconds that all threads have taken so far."""
        times = self.process.cpu_times()
        return times.user + times.system

    def memory(self) -> int:
        """Return the bytes that are resident now."""
        return self.process.memory_info().rss

    def log(self) -> str:
        """Return what it has written to stdout and stderr."""
        return self._log.read_text(encoding="utf-8", errors="replace")


@contextlib.contextmanager
def running(subject: Subject) -> Iterator[Running]:
    """Start a kernel; kill it at the end.

    Raises:
        KernelLost: it did not start; says the end of what it wrote.
    """
    _write_kernelspec(subject)
    folder = Path(os.environ["JUPYTER_DATA_DIR"])
    log = folder / f"{subject.name}.log"
    manager = KernelManager(kernel_name=subject.name)
    with log.open("wb") as output:
        # In a folder of its own: `python -m` would import from a checkout we stand in.
        manager.start_kernel(cwd=str(folder), stdout=output, stderr=output)
    try:
        kernel = Running(manager, log)
        with _start_told(kernel), kernel.client():
            pass
        yield kernel
    finally:
        manager.shutdown_kernel(now=True)


@contextlib.contextmanager
def _start_told(kernel: Running) -> Iterator[None]:
    try:
        yield
    except KernelLost as error:
        raise KernelLost(f"did not start: {error}\n{kernel.log()[-2000:]}".strip()) from error


def _write_kernelspec(subject: Subject) -> None:
    spec = Path(os.environ["JUPYTER_PATH"]) / "kernels" / subject.name / "kernel.json"
    spec.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "argv": [sys.executable, *subject.argv, "-f", "{connection_file}"],
        "env": {"PYTHONPATH": str(HERE)},  # where workload.py is
        "display_name": subject.label,
        "language": "workload",
    }
    spec.write_text(json.dumps(content), encoding="utf-8")


class MemoryWatch:
    """Watches how far a kernel's resident memory rises while the ``with`` block runs."""

    def __init__(self, kernel: Running) -> None:
        self._kernel = kernel
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> MemoryWatch:
        self.before = self._peak = self._kernel.memory()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._ended.set()
        self._thread.join()

    @property
    def grew(self) -> float:
        """MB between the beginning and the peak."""
        return (self._peak - self.before) / MB

    def _watch(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):  # others see that it ended
            while not self._ended.wait(MEMORY_EVERY):
                self._peak = max(self._peak, self._kernel.memory())
