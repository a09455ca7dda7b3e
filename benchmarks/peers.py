"""Who is measured, and how each is started.

Every peer is a kernelspec, the floor too, and `jupyter_client` starts them all. `isolated` makes a
temporary Jupyter of our own: kernelspecs that the benchmark writes, connection files, IPython's
history and the kernels' output go there, and nothing of the user's settings has a say. It is
also what ends every kernel, whatever happens.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
from jupyter_client.manager import start_new_kernel
from lean_client import LeanClient

START_TIME = 30.0
"""Seconds until a kernel must be ready."""

INSTALL_TIME = 30.0
"""Seconds for a command that installs a kernelspec."""


@dataclass(frozen=True)
class Peer:
    """One kernel to measure, by its kernelspec's name."""

    name: str
    label: str
    package: str
    """What to install to have it."""
    installer: tuple[str, ...] = ()
    """``python -m`` what writes its kernelspec, if no wheel brings it; ``--prefix`` is added."""


PEERS = (
    Peer("python3", "ipykernel (python3)", "ipykernel"),
    Peer("echo", "echo_kernel (on ipykernel)", "echo_kernel", ("echo_kernel.install",)),
    Peer("xpython-raw", "xeus-python raw (C++)", "xeus-python"),
    Peer("echo-handshake", "echokernel, handshake", "echokernel"),
    # The same kernel as the one before: once it has started, the two differ by noise alone.
    Peer("echo-classic", "echokernel, classic start", "echokernel",
         ("echokernel", "install", "--no-provisioner", "--name", "echo-classic")),
    Peer("floor", "floor (bare pyzmq)", "pyzmq"),
)  # fmt: skip

REFERENCES = ("echo", "xpython-raw", "floor")
"""The peers that the others are compared with."""


class StartFailed(Exception):
    """A kernel did not start; says why, with the end of what it wrote."""


class Kernel:
    """A peer's running kernel.

    Raises:
        StartFailed: it did not become ready.
    """

    def __init__(self, peer: Peer) -> None:
        folder = Path(os.environ["JUPYTER_DATA_DIR"])
        log = folder / f"{peer.name}.log"
        with log.open("wb") as output:
            try:
                # In a folder of its own: `python -m` would import from a checkout we stand in.
                self._manager, self._client = start_new_kernel(
                    startup_timeout=START_TIME,
                    kernel_name=peer.name,
                    cwd=str(folder),
                    stdout=output,
                    stderr=output,
                )
            except Exception as error:
                end = log.read_text(encoding="utf-8", errors="replace")[-2000:].strip()
                raise StartFailed(f"{error}\n{end}".strip()) from error

    def lean_client(self) -> LeanClient:
        """Return a joined client; the stock one leaves, lest its heartbeats disturb."""
        self._client.stop_channels()
        client = LeanClient(self._manager.get_connection_info(), self._manager.is_alive)
        client.join()
        return client

    def stop(self) -> None:
        """Kill it: how it shuts down is not what we measure."""
        self._client.stop_channels()
        self._manager.shutdown_kernel(now=True)


@contextlib.contextmanager
def isolated() -> Iterator[None]:
    """Have a temporary Jupyter with all kernelspecs; at the end, no process and no file is left."""
    with tempfile.TemporaryDirectory(
        prefix="echokernel-bench-", ignore_cleanup_errors=True
    ) as name:
        folder = Path(name)
        os.environ["JUPYTER_PATH"] = str(folder / "share" / "jupyter")
        for variable in ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR",
                         "IPYTHONDIR", "TMPDIR"):  # fmt: skip
            own = folder / variable.lower()
            own.mkdir(mode=0o700)
            os.environ[variable] = str(own)
        # The classic launcher puts connection files there; a start cut short leaves them.
        tempfile.tempdir = os.environ["TMPDIR"]
        try:
            _write_kernelspecs(folder)
            yield
        finally:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second Ctrl-C must not cut this short
            _kill_children()


def missing(peer: Peer) -> bool:
    """Whether ``peer`` cannot be started here."""
    try:
        metadata.version(peer.package)  # a kernelspec alone may be another environment's
        KernelSpecManager().get_kernel_spec(peer.name)
    except (metadata.PackageNotFoundError, NoSuchKernel):
        return True
    return False


def _write_kernelspecs(folder: Path) -> None:
    """Write those that no wheel brings."""
    for peer in PEERS:
        if peer.installer:
            # What is not installed fails here, and then has no kernelspec: see `missing`.
            command = [sys.executable, "-m", *peer.installer, "--prefix", str(folder)]
            subprocess.run(command, cwd=folder, capture_output=True, timeout=INSTALL_TIME)
    spec = folder / "share" / "jupyter" / "kernels" / "floor" / "kernel.json"
    spec.parent.mkdir(parents=True, exist_ok=True)
    floor = Path(__file__).resolve().with_name("floor.py")
    content: dict[str, Any] = {
        "argv": [sys.executable, str(floor), "-f", "{connection_file}"],
        "display_name": "floor",
        "language": "echo",
    }
    spec.write_text(json.dumps(content), encoding="utf-8")


def _kill_children() -> None:
    """Kill what this process started and has not stopped.

    A start that Ctrl-C cuts short returns no kernel that could be stopped, and kernels are in
    sessions of their own: the terminal's signal does not reach them.
    """
    children = psutil.Process().children(recursive=True)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()
    psutil.wait_procs(children, timeout=5)
