"""The worker processes of ``echokernel stress``: they launch kernels or take ports.

A worker is ``python -m echokernel.tools.stress.workers ROLE JSON``. It prints ``ready``, and its
results as lines of JSON. A launcher begins when it has read a line from stdin. Every worker ends
when its stdin is closed, which also happens when the command dies.
"""

from __future__ import annotations

import contextlib
import json
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from ...connection_files import runtime_dir
from ...launcher.cleanup import kill_process_group
from ...protocol.startup import CHANNELS
from ...protocol.wire import JsonObject

BINDS_PER_SECOND = 1500
MAX_HELD_SOCKETS = 3000
"""Sockets that a load holds at the same time; enough to make classic launches fail."""

BURST_INTERVAL = 0.01
"""Seconds between two bursts of binds."""

SCAN_INTERVAL = 0.0005
"""Seconds between two scans for connection files; a kernel takes about 0.1 s until it binds."""

KILL_INTERVAL = 0.02
"""Seconds between two attempts to kill the current kernel while a launcher stops."""

CLOCK_TOLERANCE = 0.1
"""Seconds by which a timeout can end too early."""

SPARE_DESCRIPTORS = 100
"""File descriptors that are left for other purposes than held sockets."""

OK, FAILED, HUNG = "ok", "failed", "hung"


# --- launching ----------------------------------------------------------------------------------


class Launcher:
    """Launches kernels one after the other through stock jupyter_client.

    Args:
        kernels: mode -> name of the kernelspec with this mode; each round launches all of them.
        rounds: number of rounds.
        timeout: seconds for a launch, up to the reply to an execute request.
    """

    def __init__(self, kernels: dict[str, str], rounds: int, timeout: float) -> None:
        self._kernels = kernels
        self._rounds = rounds
        self._timeout = timeout
        self._manager: Any = None
        self._stopping = threading.Event()
        self._done = threading.Event()

    def run(self) -> Iterator[JsonObject]:
        """Yield a record of each launch."""
        try:
            for _ in range(self._rounds):
                for mode, kernel in self._kernels.items():
                    record = self._launch(mode, kernel)
                    if self._stopping.is_set():
                        return
                    yield record
        finally:
            self._done.set()

    def stop(self) -> None:
        """End `run` and kill the current kernel; call this from another thread."""
        self._stopping.set()
        # A kernel may be starting at this moment, so repeat until `run` has ended.
        while not self._done.wait(KILL_INTERVAL):
            process = getattr(getattr(self._manager, "provisioner", None), "process", None)
            if process is not None and process.poll() is None:
                kill_process_group(process)

    def _launch(self, mode: str, kernel: str) -> JsonObject:
        from jupyter_client.manager import KernelManager

        # The path that servers use. The manager's default is the folder for temporary files.
        file = runtime_dir() / f"kernel-{uuid.uuid4()}.json"
        self._manager = manager = KernelManager(kernel_name=kernel, connection_file=str(file))
        client = None
        record: JsonObject = {"mode": mode, "outcome": OK}
        started = time.monotonic()

        def remaining() -> float:
            return max(CLOCK_TOLERANCE, started + self._timeout - time.monotonic())

        with tempfile.TemporaryFile() as stderr:
            try:
                manager.start_kernel(stdout=subprocess.DEVNULL, stderr=stderr)
                client = manager.client()
                client.start_channels()
                client.wait_for_ready(timeout=remaining())
                record["seconds"] = time.monotonic() - started
                # Any reply is a success, even an error: the kernel can be of any language.
                client.execute_interactive(
                    "1", store_history=False, allow_stdin=False, timeout=remaining(),
                    output_hook=lambda _: None,
                )  # fmt: skip
            except Exception as error:  # Every failure of a launch is a result.
                hung = time.monotonic() - started > self._timeout - CLOCK_TOLERANCE
                record["outcome"] = HUNG if hung else FAILED
                record["cause"] = failure_cause(error, "" if hung else _content(stderr))
            finally:
                if client is not None:
                    client.stop_channels()
                manager.shutdown_kernel(now=record["outcome"] != OK)
                manager.context.destroy(linger=0)
        return record


def failure_cause(error: Exception, stderr: str) -> str:
    """Return one line that is the same for all failures with the same cause.

    Args:
        error: the exception of the launch.
        stderr: the text that the kernel's process wrote to stderr.
    """
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    line = lines[-1] if lines else (str(error).splitlines() or [type(error).__name__])[0]
    # Ports, pids and times differ between failures.
    return re.sub(r"\d{4,}|(?<=after )[\d.]+", "#", line)[:200]


def _content(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")


# --- loads --------------------------------------------------------------------------------------


class PortThief:
    """Takes the ports in each connection file that appears in a folder.

    This happens between the launcher's choice of the ports and the kernel's bind, so that a classic
    launch loses the port race for certain.

    Args:
        folder: the runtime directory of the run.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: set[tuple[str, int]] = set()
        self._held: deque[socket.socket] = deque(maxlen=MAX_HELD_SOCKETS)
        self.ports_taken = 0

    def step(self) -> None:
        """Scan the folder once."""
        for file in sorted(self._folder.glob("kernel-*.json")):
            # A file that is gone or incomplete is scanned again next time.
            with contextlib.suppress(OSError, ValueError):
                version = (file.name, file.stat().st_mtime_ns)
                if version not in self._seen:
                    self._take_ports(json.loads(file.read_text(encoding="utf-8")))
                    self._seen.add(version)
        time.sleep(SCAN_INTERVAL)

    def _take_ports(self, connection: JsonObject) -> None:
        for channel in CHANNELS:
            sock = socket.socket()
            try:
                sock.bind((connection["ip"], connection[f"{channel}_port"]))
                sock.listen()
            except OSError:  # The kernel holds it.
                sock.close()
                continue
            self.ports_taken += 1
            self._held.append(sock)


class PortBinder:
    """Binds ports as fast as the programs of a busy machine, and holds many of them."""

    def __init__(self) -> None:
        self._held: deque[socket.socket] = deque()
        self._max_held = _raise_descriptor_limit(MAX_HELD_SOCKETS)
        self.ports_taken = 0

    def step(self) -> None:
        """Bind one burst of ports."""
        for _ in range(int(BINDS_PER_SECOND * BURST_INTERVAL)):
            sock = socket.socket()
            try:
                sock.bind(("127.0.0.1", 0))
            except OSError:  # No port is free.
                sock.close()
                break
            self.ports_taken += 1
            self._held.append(sock)
            if len(self._held) > self._max_held:
                self._held.popleft().close()
        time.sleep(BURST_INTERVAL)


def _raise_descriptor_limit(wanted: int) -> int:
    """Raise the limit of open files; return the number of sockets that it allows."""
    try:
        import resource
    except ImportError:  # Windows has no such limit.
        return wanted
    _, hard_limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard_limit != resource.RLIM_INFINITY:
        wanted = min(wanted, hard_limit - SPARE_DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted + SPARE_DESCRIPTORS, hard_limit))
    return wanted


# --- a process ----------------------------------------------------------------------------------


def main(argv: Sequence[str]) -> None:
    """Run the worker that ``argv`` describes: the role and the job as JSON."""
    role, job = argv[0], json.loads(argv[1])
    if role == "launcher":
        from jupyter_client.manager import KernelManager  # noqa: F401 (before the first launch)

        launcher = Launcher(**job)
        _print_line("ready")
        if sys.stdin.readline():
            _call_at_end_of_stdin(launcher.stop)
            for record in launcher.run():
                _print_line(json.dumps(record))
        return
    load = PortThief(Path(job["folder"])) if role == "thief" else PortBinder()
    ended = threading.Event()
    _print_line("ready")
    _call_at_end_of_stdin(ended.set)
    while not ended.is_set():
        load.step()
    _print_line(json.dumps({"ports_taken": load.ports_taken}))


def _call_at_end_of_stdin(callback: Callable[[], object]) -> None:
    def wait() -> None:
        sys.stdin.read()
        callback()

    threading.Thread(target=wait, daemon=True).start()


def _print_line(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):  # The command has ended.
        print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
