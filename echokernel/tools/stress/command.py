"""``echokernel stress``: count the launches that fail on this machine, classic and by a handshake.

Several processes launch the same kernel at the same time, in each mode in turn, through stock
jupyter_client and in a separate runtime directory, while another process takes ports. A table on
stdout shows the result. The processes are in `workers`, the texts in `report`.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from traitlets import TraitError

from ...protocol.wire import JsonObject
from .. import arguments
from ..doctor import (
    CLASSIC,
    DEFAULT_PROVISIONER,
    HANDSHAKE_PROVISIONER,
    LOCAL_PROVISIONER,
    choose_start_mode,
)
from ..install import KERNEL_NAME
from .report import HANDSHAKE, Progress, Row, report, summarize
from .workers import FAILED

INTERRUPTED = 130
"""Exit status after Ctrl-C, as shells report it."""

USAGE_ERROR = 2
"""Exit status, the same as argparse's."""

WORKER_STOP_TIMEOUT = 15.0
"""Seconds that a worker can take to end its kernel and itself."""

RunningLauncher = tuple["subprocess.Popen[str]", "Counter[str]"]
"""A launcher process, and the number of launches in each mode that it has not reported yet."""


def stress(argv: Sequence[str]) -> int:
    """Run the command with these arguments; return its exit status."""
    options = _parse(argv)
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        kernel_spec = KernelSpecManager().get_kernel_spec(options.kernel)
        chosen = choose_start_mode(kernel_spec, provisioner_config(kernel_spec))
        if options.json:
            options.json.open("a").close()
    except NoSuchKernel:
        return _fail(
            f"there is no kernelspec {options.kernel}; `jupyter kernelspec list` shows the"
            " kernelspecs, `echokernel doctor` also the hidden ones"
        )
    except OSError as error:
        return _fail(f"{error.filename} cannot be used: {error.strerror}")
    except (TraitError, TypeError, ValueError) as error:
        problem = str(error).splitlines()[0]
        return _fail(f"the kernelspec {options.kernel} is not usable: {problem}; see"
                     f" `echokernel doctor {options.kernel}`")  # fmt: skip
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with StressRun(options, kernel_spec) as run:
            records = run.run()
    except KeyboardInterrupt:
        message = "interrupted; all its processes and kernels were stopped"
        print(f"\nechokernel stress: {message}", file=sys.stderr)
        return INTERRUPTED
    rows = summarize(records, options.modes)
    title = (
        f"{options.kernel}, {options.launches} launches per mode from {options.processes}"
        f" processes, load: {options.load}"
    )
    print(report(title, rows, records, chosen, run.ports_taken))
    if options.json:
        _write_json(options, rows, records, run.ports_taken)
    if run.ports_taken is None and options.load != "none":
        print("echokernel stress: the load ended early; repeat the run", file=sys.stderr)
        return 1
    return 0 if all(row.ok for row in rows if row.mode != CLASSIC) else 1


def _write_json(
    options: argparse.Namespace,
    rows: Sequence[Row],
    records: Sequence[JsonObject],
    ports_taken: int | None,
) -> None:
    result = {
        "kernel": options.kernel,
        "load": options.load,
        "processes": options.processes,
        "ports_taken": ports_taken,
        "modes": [asdict(row) for row in rows],
        "launches": records,
    }
    options.json.write_text(json.dumps(result, indent=1), encoding="utf-8")


# --- the kernelspecs of a run ---------------------------------------------------------------------


def provisioner_config(kernel_spec: Any) -> JsonObject:
    """Return the kernelspec's config for HandshakeProvisioner; empty if it names another."""
    settings = kernel_spec.metadata.get("kernel_provisioner", {})
    is_ours = settings.get("provisioner_name") == HANDSHAKE_PROVISIONER
    return dict(settings.get("config", {})) if is_ours else {}


def kernelspec(kernel_spec: Any, mode: str, timeout: float) -> JsonObject:
    """Return the content of a ``kernel.json`` that starts the kernel in one mode.

    Args:
        kernel_spec: jupyter_client's ``KernelSpec`` of the kernel.
        mode: `CLASSIC`, `HANDSHAKE` or a value of the provisioner's setting ``handshake``.
        timeout: seconds for a launch.
    """
    spec: JsonObject = kernel_spec.to_dict()
    # The new kernel.json is in another folder.
    folder = kernel_spec.resource_dir
    spec["argv"] = [word.replace("{resource_dir}", folder) for word in spec["argv"]]
    provisioner: JsonObject = {"provisioner_name": LOCAL_PROVISIONER}
    if mode != CLASSIC:
        config = {**provisioner_config(kernel_spec), "launch_timeout": timeout}
        if mode != HANDSHAKE:
            config["handshake"] = mode
        provisioner = {"provisioner_name": HANDSHAKE_PROVISIONER, "config": config}
    return {**spec, "metadata": {**spec["metadata"], "kernel_provisioner": provisioner}}


# --- the run --------------------------------------------------------------------------------------


class StressRun:
    """One run, with its own folder and worker processes; `__exit__` removes all of them.

    Args:
        options: the command line.
        kernel_spec: jupyter_client's ``KernelSpec`` of the kernel.

    Attributes:
        ports_taken: number of ports that the load took; None if the load did not run to the end.
    """

    def __init__(self, options: argparse.Namespace, kernel_spec: Any) -> None:
        self._options = options
        self._kernel_spec = kernel_spec
        self._processes: list[subprocess.Popen[str]] = []
        self.ports_taken: int | None = None
        # (number of the launcher, its record; None when the launcher has ended)
        self._results: queue.Queue[tuple[int, JsonObject | None]] = queue.Queue()

    def __enter__(self) -> StressRun:
        self._folder = Path(tempfile.mkdtemp(prefix="echokernel-stress-"))
        self._log = (self._folder / "log").open("w+", errors="replace")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # A second Ctrl-C must not interrupt this and leave kernels behind.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        for process in self._processes:
            _close_stdin(process)
        for process in self._processes:
            try:
                process.wait(WORKER_STOP_TIMEOUT)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._log.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._folder.exists():
            print(f"echokernel stress: cannot remove {self._folder}", file=sys.stderr)
        signal.signal(signal.SIGINT, handler)

    def run(self) -> list[JsonObject]:
        """Carry out all launches; return one record for each."""
        options = self._options
        self._prepare()
        load = None
        if options.load != "none":
            load = self._start(options.load, {"folder": str(self._runtime)})
        launchers = self._start_launchers()
        progress = Progress(options.launches * len(options.modes), options.modes, sys.stderr)
        records = []
        for record in self._collect(launchers):
            records.append(record)
            progress.step(record)
        if load is not None:
            self.ports_taken = _stop_load(load)
        return records

    def _start_launchers(self) -> dict[int, RunningLauncher]:
        """Start the launcher processes and let all of them begin at the same time."""
        options = self._options
        launchers = {}
        kernels = {mode: f"stress-{mode}" for mode in options.modes}
        for number in range(options.processes):
            rounds = len(range(number, options.launches, options.processes))
            job = {"kernels": kernels, "rounds": rounds, "timeout": options.timeout}
            unreported = Counter(dict.fromkeys(kernels, rounds))
            launchers[number] = (self._start("launcher", job), unreported)
        for number, (process, _) in launchers.items():
            reader = threading.Thread(
                target=self._read_records, args=(number, process), daemon=True
            )
            reader.start()
        for process, _ in launchers.values():
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # Its reader notices that it has ended.
                process.stdin.write("go\n")
                process.stdin.flush()
        return launchers

    def _collect(self, launchers: dict[int, RunningLauncher]) -> Iterator[JsonObject]:
        """Yield the record of each launch until all launchers have ended."""
        while launchers:
            # Each launch and each shutdown has a timeout. A launcher that exceeds both is stuck.
            try:
                timeout = 2 * self._options.timeout + WORKER_STOP_TIMEOUT
                number, record = self._results.get(timeout=timeout)
            except queue.Empty:
                for process, _ in launchers.values():
                    process.kill()
                continue
            if record is not None:
                launchers[number][1][record["mode"]] -= 1
                yield record
                continue
            process, unreported = launchers.pop(number)
            self._log.seek(0)
            last_line = (self._log.read().splitlines() or ["its stderr is empty"])[-1]
            cause = f"the launcher process ended with status {process.wait()}: {last_line}"
            for mode in unreported.elements():
                yield {"mode": mode, "outcome": FAILED, "cause": cause}

    def _prepare(self) -> None:
        """Write the kernelspecs and choose the environment of the workers."""
        self._runtime = self._folder / "runtime"
        self._runtime.mkdir(mode=0o700)
        kernels = self._folder / "jupyter" / "kernels"
        for mode in self._options.modes:
            folder = kernels / f"stress-{mode}"
            folder.mkdir(parents=True)
            spec = kernelspec(self._kernel_spec, mode, self._options.timeout)
            (folder / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
        path = os.environ.get("JUPYTER_PATH")
        self._environment = {
            **os.environ,
            # The port thief must not see the connection files of the user's kernels.
            "JUPYTER_RUNTIME_DIR": str(self._runtime),
            "JUPYTER_PATH": os.pathsep.join([str(kernels.parent), *([path] if path else [])]),
        }
        self._environment.pop(DEFAULT_PROVISIONER, None)

    def _start(self, role: str, job: JsonObject) -> subprocess.Popen[str]:
        """Start a worker and wait until it is ready."""
        command = [sys.executable, "-m", "echokernel.tools.stress.workers", role, json.dumps(job)]
        process = subprocess.Popen(
            command,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # jupyter_client logs every failed launch. The records contain the same facts.
            stderr=self._log,
            text=True,
            # Ctrl-C must reach this process only, which then stops the workers in order.
            start_new_session=True,
        )
        self._processes.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    def _read_records(self, number: int, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._results.put((number, json.loads(line)))
        self._results.put((number, None))


def _stop_load(load: subprocess.Popen[str]) -> int | None:
    """End the load; return the number of ports it took, or None if it had ended before."""
    _close_stdin(load)
    assert load.stdout is not None
    line = load.stdout.readline()
    return int(json.loads(line)["ports_taken"]) if line else None


def _close_stdin(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()


def _fail(message: str) -> int:
    print(f"echokernel stress: {message}", file=sys.stderr)
    return USAGE_ERROR


# --- the command line -----------------------------------------------------------------------------


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="echokernel stress",
        description="Launch a kernel many times from several processes while ports are taken, with"
        " ports that the launcher chooses (classic) and by a handshake; print how many launches"
        " failed.",
        epilog="Exit status: 0 if only classic launches failed or hung, otherwise 1.",
    )
    parser.add_argument("--kernel", default=KERNEL_NAME, metavar="NAME",
                        help="any kernelspec (default: %(default)s)")  # fmt: skip
    parser.add_argument("--launches", type=arguments.count, default=24, metavar="N",
                        help="launches per mode (default: %(default)s)")  # fmt: skip
    parser.add_argument("--processes", type=arguments.count, default=4, metavar="N",
                        help="launching processes (default: %(default)s)")  # fmt: skip
    parser.add_argument("--load", choices=["none", "binds", "thief"], default="thief",
                        help="binds: 1,500 binds per second, 3,000 ports held; thief (default):"
                        " reads the connection files of this run and takes their"
                        " ports")  # fmt: skip
    parser.add_argument("--timeout", type=arguments.seconds, default=60.0, metavar="SECONDS",
                        help="a launch that takes longer counts as hung (default: 60)")  # fmt: skip
    parser.add_argument("--modes", type=_modes, default=[CLASSIC, HANDSHAKE], metavar="MODE,...",
                        help="classic, handshake (as the kernelspec says), or values of the"
                        " provisioner's setting `handshake` (default:"
                        " classic,handshake)")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all results to FILE")
    options = parser.parse_args(argv)
    # Each process has at least one launch.
    options.processes = min(options.processes, options.launches)
    return options


def _modes(text: str) -> list[str]:
    from ...launcher.provisioner import HandshakeProvisioner

    setting: Any = HandshakeProvisioner.class_traits()["handshake"]
    known = [CLASSIC, HANDSHAKE, *setting.values]
    modes = list(dict.fromkeys(text.split(",")))
    for mode in modes:
        if mode not in known:
            raise argparse.ArgumentTypeError(f"{mode!r} is not one of {', '.join(known)}")
    return modes
