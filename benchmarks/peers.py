"""The measured kernels: how each is installed, started, watched and stopped.

Every peer is a kernelspec, and `jupyter_client` starts it. `isolated` creates a temporary Jupyter:
the benchmark's kernelspecs, the connection files, IPython's history and the kernels' output go
there, and the user's settings have no effect.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
from jupyter_client.manager import start_new_kernel
from lean_client import ANSWER_TIME, KernelLost, LeanClient

if TYPE_CHECKING:
    from typing_extensions import Self

HERE = Path(__file__).resolve().parent

INSTALL_TIME = 30.0
"""Seconds for a command that installs a kernelspec."""

START_TIME = 30.0
"""Seconds until a kernel must be ready."""


class StartFailed(Exception):
    """A kernel did not start; the message has the cause and the last lines of its output."""


@dataclass(frozen=True)
class Peer:
    """One measured kernel.

    A kernelspec comes from the peer's wheel, from the peer's own ``installer``, or from ``argv``.
    """

    name: str
    """Of the kernelspec."""
    label: str
    short: str
    """The label where there is little room."""
    package: str
    """The distribution to install."""
    installer: tuple[str, ...] = ()
    """Words after ``python -m``; ``--prefix`` is appended."""
    argv: tuple[str, ...] = ()
    """``-f`` and the connection file are appended."""
    spec: Mapping[str, Any] = field(default_factory=dict)
    """More keys of the kernelspec."""


@dataclass(frozen=True)
class Family:
    """Peers that do the same work."""

    peers: tuple[Peer, ...]
    subject: str
    """The peer under test: its goals are checked."""
    references: tuple[str, ...]
    """The peers with which every peer is compared."""


WORKLOAD = ("-m", "echokernel", "--kernel-class", "workload:Workload")

ECHO = Family(
    (
        Peer("python3", "ipykernel (python3)", "ipykernel", "ipykernel"),
        Peer("echo", "echo_kernel (on ipykernel)", "echo_kernel", "echo_kernel",
             installer=("echo_kernel.install",)),
        Peer("async", "async-kernel (python)", "async-kernel", "async-kernel"),
        Peer("xpython-raw", "xeus-python raw (C++)", "xeus-python", "xeus-python"),
        Peer("kernmini", "kernmini echo (Rust)", "kernmini", "kernmini",
             argv=("python", str(HERE / "kernmini_echo.py"))),
        Peer("echo-handshake", "echokernel, handshake", "echokernel", "echokernel"),
        # After the start, this peer behaves like the previous one.
        Peer("echo-classic", "echokernel, classic start", "classic start", "echokernel",
             installer=("echokernel", "install", "--no-provisioner", "--name", "echo-classic")),
        Peer("floor", "floor (bare pyzmq)", "floor", "pyzmq",
             argv=("python", str(HERE / "floor.py"))),
    ),
    subject="echo-handshake",
    references=("echo", "xpython-raw", "kernmini", "floor"),
)  # fmt: skip
"""Kernels that execute ``1`` and publish it, as an echo or as a result."""

WORKLOADS = Family(
    (
        Peer("workload-ipykernel", "Workload on ipykernel", "ipykernel", "ipykernel",
             argv=("python", str(HERE / "workload.py"))),
        Peer("workload-echokernel", "Workload on echokernel", "echokernel", "echokernel",
             argv=("python", *WORKLOAD)),
    ),
    subject="workload-echokernel",
    references=("workload-ipykernel",),
)  # fmt: skip
"""Kernels that run the class `workload.Workload`, which publishes on demand."""

FAMILIES = {"echo": ECHO, "workload": WORKLOADS}


def two_versions(old: str) -> dict[str, Family]:
    """Return the families that compare this environment's echokernel with another environment's.

    Args:
        old: the Python interpreter of the other environment.
    """
    handshake = {
        "kernel_protocol_version": "5.6",
        "metadata": {"kernel_provisioner": {"provisioner_name": "handshake-provisioner"}},
    }
    return {
        kind: Family(
            tuple(
                Peer(f"{kind}-{version}", f"{version} echokernel, {kind}", version, "echokernel",
                     argv=(python, *words), spec=handshake)
                for version, python in (("old", old), ("new", sys.executable))
            ),
            subject=f"{kind}-new",
            references=(f"{kind}-old",),
        )
        for kind, words in (("echo", ("-m", "echokernel")), ("workload", WORKLOAD))
    }  # fmt: skip


@contextlib.contextmanager
def isolated(families: Mapping[str, Family]) -> Iterator[None]:
    """Run in a temporary Jupyter with the kernelspecs of ``families``.

    At the end no process and no file of the benchmark remains.
    """
    with tempfile.TemporaryDirectory(
        prefix="echokernel-bench-", ignore_cleanup_errors=True
    ) as name:
        folder = Path(name)
        os.environ["JUPYTER_PATH"] = str(folder / "share" / "jupyter")
        for variable in ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR",
                         "IPYTHONDIR", "TMPDIR"):  # fmt: skip
            subfolder = folder / variable.lower()
            subfolder.mkdir(mode=0o700)
            os.environ[variable] = str(subfolder)
        # jupyter_client's own provisioner writes connection files there.
        tempfile.tempdir = os.environ["TMPDIR"]
        try:
            for family in families.values():
                for peer in family.peers:
                    _install(peer, folder)
            yield
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not stop this
            _kill_children()


def is_missing(peer: Peer) -> bool:
    """Return True if ``peer`` is not installed in this environment."""
    try:
        metadata.version(peer.package)  # the kernelspec alone can be another environment's
        KernelSpecManager().get_kernel_spec(peer.name)
    except (metadata.PackageNotFoundError, NoSuchKernel):
        return True
    return False


def _install(peer: Peer, folder: Path) -> None:
    """Write the kernelspec of ``peer``, unless the peer's wheel brings it."""
    if peer.installer:
        # A package that is not installed fails here; `is_missing` then finds no kernelspec.
        command = [sys.executable, "-m", *peer.installer, "--prefix", str(folder)]
        subprocess.run(command, cwd=folder, capture_output=True, timeout=INSTALL_TIME)
    elif peer.argv:
        path = folder / "share" / "jupyter" / "kernels" / peer.name / "kernel.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        spec = {
            "argv": [*peer.argv, "-f", "{connection_file}"],
            "env": {"PYTHONPATH": str(HERE)},  # for `--kernel-class`
            "display_name": peer.label,
            "language": "echo",
            **peer.spec,
        }
        path.write_text(json.dumps(spec), encoding="utf-8")


def _kill_children() -> None:
    """Kill the child processes that still run.

    A start that Ctrl-C interrupts returns no kernel that could be stopped, and the terminal's
    signal does not reach kernels: each runs in its own session.
    """
    children = psutil.Process().children(recursive=True)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(children, timeout=5)


class Kernel:
    """A running kernel of a peer; call `stop`, or use it as a context manager.

    Raises:
        StartFailed: the kernel did not become ready.
    """

    def __init__(self, peer: Peer) -> None:
        folder = Path(os.environ["JUPYTER_DATA_DIR"])
        log = folder / f"{peer.name}.log"
        with log.open("wb") as output:
            try:
                # The folder is not a checkout: `python -m` would import echokernel from there.
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
        """Kill the kernel: its shutdown is not measured."""
        self._at_stop.close()
        self._first_client.stop_channels()
        self._manager.shutdown_kernel(now=True)

    @property
    def connection(self) -> dict[str, Any]:
        """The content of the connection file."""
        return dict(self._manager.get_connection_info())

    def execute_first_cell(self) -> None:
        """Execute a cell through the client that waited for the start."""
        execute(self._first_client)

    def lean_client(self, topic: bytes = b"") -> LeanClient:
        """Return a lean client that has joined; the first client disconnects."""
        self._first_client.stop_channels()  # its heartbeats would disturb
        client = LeanClient(self.connection, self._manager.is_alive, topic)
        self._at_stop.callback(client.close)
        client.join()
        return client

    @contextlib.contextmanager
    def stock_client(self) -> Iterator[BlockingKernelClient]:
        """Provide jupyter_client's own client, ready."""
        client = self._manager.client()
        client.start_channels()
        try:
            client.wait_for_ready(timeout=ANSWER_TIME)
            yield client
        except RuntimeError as error:
            raise KernelLost(str(error)) from error
        finally:
            client.stop_channels()

    def cpu_seconds(self) -> float:
        """Return the CPU time of all threads, user and system."""
        return sum(_cpu_seconds(process) for process in self._processes())

    def resident(self) -> int:
        """Return the resident memory (RSS), in bytes."""
        return sum(process.memory_info().rss for process in self._processes())

    def peak_resident(self) -> int:
        """Return the highest resident memory so far, in bytes (Linux only)."""
        status = Path(f"/proc/{self._pid}/status").read_text(encoding="utf-8")
        kibibytes = next(line.split()[1] for line in status.splitlines() if "VmHWM" in line)
        return int(kibibytes) * 1024

    @property
    def _pid(self) -> int:
        provisioner: Any = self._manager.provisioner
        return int(provisioner.pid)

    def _processes(self) -> list[psutil.Process]:
        """Return the started process and its descendants: it can be a mere launcher."""
        try:
            process = psutil.Process(self._pid)
            return [process, *process.children(recursive=True)]
        except psutil.NoSuchProcess:
            raise KernelLost("the kernel's process exited")


class JoinedKernel(Kernel):
    """A running kernel with one lean client."""

    def __init__(self, peer: Peer) -> None:
        super().__init__(peer)
        try:
            self.client = self.lean_client()
        except KernelLost:
            self.stop()
            raise


def execute(client: BlockingKernelClient) -> None:
    """Execute a cell with `execute_interactive`: from the request to the reply and idle."""
    try:
        reply = client.execute_interactive(
            "1", allow_stdin=False, output_hook=lambda message: None, timeout=ANSWER_TIME
        )
    except TimeoutError:
        raise KernelLost(f"jupyter_client's client got no answer within {ANSWER_TIME:g} s")
    if reply["content"]["status"] != "ok":
        raise KernelLost(f"the kernel replied with an error: {reply['content']}")


def _cpu_seconds(process: psutil.Process) -> float:
    if sys.platform == "linux":
        # psutil counts in ticks of 10 ms. This is the id of another process's CPU clock, which
        # counts in nanoseconds: clock_getcpuclockid(3).
        return time.clock_gettime(~process.pid << 3 | 2)
    times = process.cpu_times()
    return float(times.user + times.system)
