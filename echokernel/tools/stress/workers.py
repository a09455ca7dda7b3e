"""What the processes of ``echokernel stress`` do: launch kernels, take ports.

Each is ``python -m echokernel.tools.stress.workers ROLE JSON``. It says ``ready`` on stdout; a
launcher begins at the first line on stdin. Both end when stdin ends, so also with the process that
started them; what they have to tell are lines of JSON on stdout.
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
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from ...connection_files import runtime_dir
from ...launcher.cleanup import kill_process_group
from ...protocol.wire import JsonObject

BINDS_PER_SECOND = 1500
HELD = 3000
"""Sockets that the loads hold at once; 11 to 18 of 60 classic launches failed beside that many."""

TICK = 0.01
"""Seconds between two bursts of binds."""

LOOK_INTERVAL = 0.0005
"""Seconds between two looks of the thief; a kernel needs 0.1 s until it binds."""

OK, FAILED, HUNG = "ok", "failed", "hung"


# --- launching ----------------------------------------------------------------------------------


class Launcher:
    """Launches kernels one after the other through stock jupyter_client.

    Args:
        kernels: way -> name of the kernelspec that goes this way; each is launched in turn.
        rounds: how often.
        timeout: seconds from the start until a cell was executed.
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
                for way, kernel in self._kernels.items():
                    record = self._launch(way, kernel)
                    if self._stopping.is_set():
                        return
                    yield record
        finally:
            self._done.set()

    def stop(self) -> None:
        """From another thread: let `run` end soon, and no kernel stay."""
        self._stopping.set()
        # A kernel may be started just now: look until `run` has ended.
        while not self._done.wait(0.02):
            process = getattr(getattr(self._manager, "provisioner", None), "process", None)
            if process is not None and process.poll() is None:
                kill_process_group(process)

    def _launch(self, way: str, kernel: str) -> JsonObject:
        from jupyter_client.manager import KernelManager

        # Where servers put it; by itself the manager would use the folder for temporary files.
        file = runtime_dir() / f"kernel-{uuid.uuid4()}.json"
        self._manager = manager = KernelManager(kernel_name=kernel, connection_file=str(file))
        client = None
        record: JsonObject = {"way": way, "outcome": OK}
        started = time.monotonic()

        def left() -> float:
            return max(0.1, started + self._timeout - time.monotonic())

        with tempfile.TemporaryFile() as stderr:
            try:
                manager.start_kernel(stdout=subprocess.DEVNULL, stderr=stderr)
                client = manager.client()
                client.start_channels()
                client.wait_for_ready(timeout=left())
                record["seconds"] = time.monotonic() - started
                # Any kernel replies, if only with an error.
                client.execute_interactive(
                    "1", store_history=False, allow_stdin=False, timeout=left(),
                    output_hook=lambda _: None,
                )  # fmt: skip
            except Exception as error:  # whatever a launch raises is what is counted here
                # 0.1: clocks and waits are a little apart.
                hung = time.monotonic() - started > self._timeout - 0.1
                record["outcome"] = HUNG if hung else FAILED
                record["cause"] = cause(error, "" if hung else _text_of(stderr))
            finally:
                if client is not None:
                    client.stop_channels()
                manager.shutdown_kernel(now=record["outcome"] != OK)
                manager.context.destroy(linger=0)
        return record


def cause(error: Exception, stderr: str) -> str:
    """Return one line that says why a launch failed, the same for the same cause."""
    said = [line.strip() for line in stderr.splitlines() if line.strip()]
    line = said[-1] if said else (str(error).splitlines() or [type(error).__name__])[0]
    # Ports, pids and times differ each time.
    return re.sub(r"\d{4,}|(?<=after )[\d.]+", "#", line)[:200]


def _text_of(stderr: IO[bytes]) -> str:
    stderr.seek(0)
    return stderr.read().decode("utf-8", "replace")


# --- loads --------------------------------------------------------------------------------------


class Thief:
    """Reads the connection files in ``folder`` as they appear and takes the ports in them.

    The race that every classic launch runs, lost for certain: between the launcher's choice of the
    ports and the kernel's bind.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: set[tuple[str, int]] = set()
        self._held: deque[socket.socket] = deque(maxlen=HELD)
        self.taken = 0

    def work(self) -> None:
        """Look once."""
        for file in sorted(self._folder.glob("kernel-*.json")):
            # A file that is gone, or half written: there is another look.
            with contextlib.suppress(OSError, ValueError):
                version = (file.name, file.stat().st_mtime_ns)
                if version not in self._seen:
                    self._take(json.loads(file.read_text(encoding="utf-8")))
                    self._seen.add(version)
        time.sleep(LOOK_INTERVAL)

    def _take(self, connection: JsonObject) -> None:
        for name in ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port"):
            taken = socket.socket()
            try:
                taken.bind((connection["ip"], connection[name]))
                taken.listen()
            except OSError:  # the kernel holds it
                taken.close()
                continue
            self.taken += 1
            self._held.append(taken)


class Binds:
    """Binds ports as fast as a busy machine may, and holds many."""

    def __init__(self) -> None:
        self._held: deque[socket.socket] = deque()
        self._most = _allowed_files(HELD)
        self.taken = 0

    def work(self) -> None:
        """Make one burst."""
        for _ in range(int(BINDS_PER_SECOND * TICK)):
            made = socket.socket()
            try:
                made.bind(("127.0.0.1", 0))
            except OSError:  # none is free
                made.close()
                break
            self.taken += 1
            self._held.append(made)
            if len(self._held) > self._most:
                self._held.popleft().close()
        time.sleep(TICK)


def _allowed_files(wanted: int) -> int:
    """Return how many sockets this process may hold, ``wanted`` at most."""
    try:
        import resource
    except ImportError:  # Windows: no such limit
        return wanted
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY:
        wanted = min(wanted, most - 100)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted + 100, most))
    return wanted


# --- a process ----------------------------------------------------------------------------------


def main(argv: Sequence[str]) -> None:
    role, job = argv[0], json.loads(argv[1])
    if role == "launcher":
        from jupyter_client.manager import KernelManager  # noqa: F401 (is not part of a launch)

        launcher = Launcher(**job)
        _say("ready")
        if sys.stdin.readline():
            _when_stdin_ends(launcher.stop)
            for record in launcher.run():
                _say(json.dumps(record))
        return
    load = Thief(Path(job["folder"])) if role == "thief" else Binds()
    ended = threading.Event()
    _say("ready")
    _when_stdin_ends(ended.set)
    while not ended.is_set():
        load.work()
    _say(json.dumps({"taken": load.taken}))


def _when_stdin_ends(act: Any) -> None:
    def wait() -> None:
        sys.stdin.read()
        act()

    threading.Thread(target=wait, daemon=True).start()


def _say(line: str) -> None:
    # Who was to hear it may be gone.
    with contextlib.suppress(BrokenPipeError):
        print(line, flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
