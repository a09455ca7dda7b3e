"""A peer's running kernel: its clients, and what its process costs."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import start_new_kernel
from lean_client import ANSWER_TIME, LeanClient
from lean_messages import KernelLost
from peers import Peer

if TYPE_CHECKING:
    from typing_extensions import Self

START_TIME = 30.0
"""Seconds until a kernel must be ready."""


class StartFailed(Exception):
    """A kernel did not start; says why, with the end of what it wrote."""


class Kernel:
    """A peer's running kernel; `stop` it, or use it as a context manager.

    Raises:
        StartFailed: it did not become ready.
    """

    def __init__(self, peer: Peer) -> None:
        folder = Path(os.environ["JUPYTER_DATA_DIR"])
        log = folder / f"{peer.name}.log"
        with log.open("wb") as output:
            try:
                # In a folder of its own: `python -m` would import from a checkout we stand in.
                self._manager, self._first_client = start_new_kernel(
                    startup_timeout=START_TIME,
                    kernel_name=peer.name,
                    cwd=str(folder),
                    stdout=output,
                    stderr=output,
                )
            except Exception as error:
                end = log.read_text(encoding="utf-8", errors="replace")[-2000:].strip()
                raise StartFailed(f"{error}\n{end}".strip()) from error
        self._at_stop = contextlib.ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Kill it: how it shuts down is not what we measure."""
        self._at_stop.close()
        self._first_client.stop_channels()
        self._manager.shutdown_kernel(now=True)

    # --- clients -----------------------------------------------------------------------------

    @property
    def connection(self) -> dict[str, Any]:
        """What its connection file holds."""
        return dict(self._manager.get_connection_info())

    def first_cell(self) -> None:
        """Execute a cell by the stock client that saw it start."""
        stock_execute(self._first_client)

    def lean_client(self) -> LeanClient:
        """Return a joined lean client; the first stock one leaves, lest its heartbeats disturb."""
        self._first_client.stop_channels()
        client = LeanClient(self.connection, self._manager.is_alive)
        self._at_stop.callback(client.close)
        client.join()
        return client

    @contextlib.contextmanager
    def stock_client(self) -> Iterator[BlockingKernelClient]:
        """Have a stock client that is ready; it leaves afterwards."""
        client = self._manager.client()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=ANSWER_TIME)
            yield client
        except RuntimeError as error:
            raise KernelLost(str(error)) from error
        finally:
            client.stop_channels()

    # --- what its process costs --------------------------------------------------------------

    def cpu_seconds(self) -> float:
        """Return the CPU time so far, user and system, of all threads."""
        return sum(_cpu_seconds(process) for process in self._processes())

    def resident(self) -> int:
        """Return the bytes of memory that it holds (RSS)."""
        return sum(process.memory_info().rss for process in self._processes())

    def peak_resident(self) -> int:
        """Return the most bytes of memory that its process ever held; on Linux only."""
        status = Path(f"/proc/{self._pid}/status").read_text(encoding="utf-8")
        kibibytes = next(line.split()[1] for line in status.splitlines() if "VmHWM" in line)
        return int(kibibytes) * 1024

    @property
    def _pid(self) -> int:
        provisioner: Any = self._manager.provisioner
        return int(provisioner.pid)

    def _processes(self) -> list[psutil.Process]:
        """Return its process and those below: what is started may be a mere launcher."""
        try:
            process = psutil.Process(self._pid)
            return [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            raise KernelLost("the kernel's process ended")


class JoinedKernel(Kernel):
    """A running kernel with its one client, a lean one."""

    def __init__(self, peer: Peer) -> None:
        super().__init__(peer)
        try:
            self.client = self.lean_client()
        except KernelLost:
            self.stop()
            raise


def stock_execute(client: BlockingKernelClient) -> None:
    """Execute a cell as `execute_interactive` does: request to reply and idle."""
    try:
        reply = client.execute_interactive(
            "1", allow_stdin=False, output_hook=_ignore, timeout=ANSWER_TIME
        )
    except TimeoutError:
        raise KernelLost(f"the stock client got no answer within {ANSWER_TIME:g} s")
    if reply["content"]["status"] != "ok":
        raise KernelLost(f"the kernel replied with an error: {reply['content']}")


def _ignore(message: dict[str, Any]) -> None:
    """Output is received, and not looked at."""


def _cpu_seconds(process: psutil.Process) -> float:
    if sys.platform == "linux":
        # psutil counts in ticks of 10 ms there. This is how Linux composes the id of another
        # process's CPU clock, in nanoseconds: CPUCLOCK_SCHED of a pid (clock_getcpuclockid(3)).
        return time.clock_gettime(~process.pid << 3 | 2)
    times = process.cpu_times()
    return float(times.user + times.system)
