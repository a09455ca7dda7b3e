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

import psutil
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

HERE = Path(__file__).resolve().parent

INSTALL_TIME = 30.0
"""Seconds for a command that installs a kernelspec."""


@dataclass(frozen=True)
class Peer:
    """One kernel to measure, by its kernelspec's name."""

    name: str
    label: str
    short: str
    """What it is called where there is little room."""
    package: str
    """What to install to have it."""
    installer: tuple[str, ...] = ()
    """``python -m`` what writes its kernelspec, if no wheel brings it; ``--prefix`` is added."""
    argv: tuple[str, ...] = ()
    """``python`` what starts it, if nobody brings a kernelspec; ``-f`` is added."""


@dataclass(frozen=True)
class Family:
    """Peers that do the same work, so that they can be compared."""

    peers: tuple[Peer, ...]
    ours: str
    """The one whose goals are checked."""
    references: tuple[str, ...]
    """Those that everybody is compared with."""


ECHOES = Family(
    (
        Peer("python3", "ipykernel (python3)", "ipykernel", "ipykernel"),
        Peer("echo", "echo_kernel (on ipykernel)", "echo_kernel", "echo_kernel",
             installer=("echo_kernel.install",)),
        Peer("async", "async-kernel (python)", "async-kernel", "async-kernel"),
        Peer("xpython-raw", "xeus-python raw (C++)", "xeus-python", "xeus-python"),
        Peer("echo-handshake", "echokernel, handshake", "echokernel", "echokernel"),
        # The same as the one before: once it has started, the two differ by noise alone.
        Peer("echo-classic", "echokernel, classic start", "classic start", "echokernel",
             installer=("echokernel", "install", "--no-provisioner", "--name", "echo-classic")),
        Peer("floor", "floor (bare pyzmq)", "floor", "pyzmq", argv=(str(HERE / "floor.py"),)),
    ),
    ours="echo-handshake",
    references=("echo", "xpython-raw", "floor"),
)  # fmt: skip
"""They execute ``1`` and say it back; some of them as a language does."""

WORKLOADS = Family(
    (
        Peer("workload-ipykernel", "Workload on ipykernel", "ipykernel", "ipykernel",
             argv=(str(HERE / "workload.py"),)),
        Peer("workload-ours", "Workload on echokernel", "echokernel", "echokernel",
             argv=("-m", "echokernel", "--kernel-class", "workload:Workload")),
    ),
    ours="workload-ours",
    references=("workload-ipykernel",),
)  # fmt: skip
"""They run the same class, which publishes on demand."""

PEERS = ECHOES.peers + WORKLOADS.peers


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
        elif peer.argv:
            spec = folder / "share" / "jupyter" / "kernels" / peer.name / "kernel.json"
            spec.parent.mkdir(parents=True, exist_ok=True)
            content = {
                "argv": [sys.executable, *peer.argv, "-f", "{connection_file}"],
                "env": {"PYTHONPATH": str(HERE)},  # `--kernel-class` imports from there
                "display_name": peer.label,
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
