"""``echokernel stress``: how many launches fail on this machine, classic and by a handshake.

Several processes launch the same kernel at once, each way in turn, through stock jupyter_client, in
a runtime directory of their own, while another process takes ports. At the end a table on stdout.
What the processes do is in ``roles``, what is told of it in ``report``.
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
from ..doctor import CLASSIC, DEFAULT_PROVISIONER, LOCAL, OURS, chosen_way
from ..install import KERNEL_NAME
from .report import HANDSHAKE, Progress, report, summary
from .workers import FAILED

INTERRUPTED = 130
MISTAKE = 2

Launching = tuple["subprocess.Popen[str]", "Counter[str]"]
"""A process that launches, and how many launches each way it still owes."""

STOP_TIME = 15.0
"""Seconds that a process may take to end its kernel and itself."""


def stress(argv: Sequence[str]) -> int:
    """Run the command; return its exit status."""
    options = _parse(argv)
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel

    try:
        kernel_spec = KernelSpecManager().get_kernel_spec(options.kernel)
        chosen = chosen_way(kernel_spec, own_config(kernel_spec))
        if options.json:
            options.json.open("a").close()
    except NoSuchKernel:
        return _mistaken(
            f"there is no kernelspec {options.kernel}; `jupyter kernelspec list` shows what there"
            " is, `echokernel doctor` also what is hidden and why"
        )
    except OSError as error:
        return _mistaken(f"{error.filename} cannot be used: {error.strerror}")
    except (TraitError, TypeError, ValueError) as error:
        problem = str(error).splitlines()[0]
        return _mistaken(f"the kernelspec {options.kernel} is not usable: {problem}; see"
                         f" `echokernel doctor {options.kernel}`")  # fmt: skip
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with Stage(options, kernel_spec) as stage:
            records = stage.run()
    except KeyboardInterrupt:
        print(
            "\nechokernel stress: interrupted; every process and kernel of it was stopped",
            file=sys.stderr,
        )
        return INTERRUPTED
    rows = summary(records, options.ways)
    title = (
        f"{options.kernel}, {options.launches} launches each way by {options.processes} processes,"
        f" load: {options.load}"
    )
    print(report(title, rows, records, chosen, stage.taken))
    if options.json:
        result = {
            "kernel": options.kernel,
            "load": options.load,
            "processes": options.processes,
            "taken": stage.taken,
            "ways": [asdict(row) for row in rows],
            "launches": records,
        }
        options.json.write_text(json.dumps(result, indent=1), encoding="utf-8")
    if stage.taken is None and options.load != "none":
        print("echokernel stress: the load ended early; this run shows nothing", file=sys.stderr)
        return 1
    return 0 if all(row.well for row in rows if row.way != CLASSIC) else 1


# --- the run --------------------------------------------------------------------------------------


def own_config(kernel_spec: Any) -> JsonObject:
    """Return what the kernelspec says to our provisioner, if it names that."""
    named = kernel_spec.metadata.get("kernel_provisioner", {})
    return dict(named.get("config", {})) if named.get("provisioner_name") == OURS else {}


def kernelspec(kernel_spec: Any, way: str, timeout: float) -> JsonObject:
    """Return the ``kernel.json`` that starts ``kernel_spec`` this ``way``."""
    spec: JsonObject = kernel_spec.to_dict()
    # Its copy lies elsewhere.
    folder = kernel_spec.resource_dir
    spec["argv"] = [word.replace("{resource_dir}", folder) for word in spec["argv"]]
    provisioner: JsonObject = {"provisioner_name": LOCAL}
    if way != CLASSIC:
        config = {**own_config(kernel_spec), "launch_timeout": timeout}
        if way != HANDSHAKE:
            config["handshake"] = way
        provisioner = {"provisioner_name": OURS, "config": config}
    return {**spec, "metadata": {**spec["metadata"], "kernel_provisioner": provisioner}}


class Stage:
    """Everything a run needs, in a folder of its own; gone at ``__exit__``.

    Attributes:
        taken: ports that the load took; None if it was not there to the end.
    """

    def __init__(self, options: argparse.Namespace, kernel_spec: Any) -> None:
        self._options = options
        self._kernel_spec = kernel_spec
        self._processes: list[subprocess.Popen[str]] = []
        self.taken: int | None = None
        self._said: queue.Queue[tuple[int, JsonObject | None]] = queue.Queue()

    def __enter__(self) -> Stage:
        self._folder = Path(tempfile.mkdtemp(prefix="echokernel-stress-"))
        self._log = (self._folder / "log").open("w+", errors="replace")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # A second Ctrl-C must not leave kernels behind.
        handler = signal.signal(signal.SIGINT, signal.SIG_IGN)
        for process in self._processes:
            _end_input(process)
        for process in self._processes:
            try:
                process.wait(STOP_TIME)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._log.close()
        shutil.rmtree(self._folder, ignore_errors=True)
        if self._folder.exists():
            print(f"echokernel stress: cannot remove {self._folder}", file=sys.stderr)
        signal.signal(signal.SIGINT, handler)

    def run(self) -> list[JsonObject]:
        """Launch everything; return a record of each launch."""
        options = self._options
        self._prepare()
        load = None
        if options.load != "none":
            load = self._start(options.load, {"folder": str(self._runtime)})
        launchers = {}
        for number in range(options.processes):
            rounds = len(range(number, options.launches, options.processes))
            kernels = {way: f"stress-{way}" for way in options.ways}
            job = {"kernels": kernels, "rounds": rounds, "timeout": options.timeout}
            launchers[number] = (
                self._start("launcher", job),
                Counter(dict.fromkeys(kernels, rounds)),
            )
        for number, (process, _) in launchers.items():
            threading.Thread(target=self._listen, args=(number, process), daemon=True).start()
        for process, _ in launchers.values():  # all at once
            _tell(process, "go\n")
        progress = Progress(options.launches * len(options.ways), options.ways, sys.stderr)
        records = []
        for record in self._records(launchers):
            records.append(record)
            progress.step(record)
        if load is not None:
            self.taken = _taken(load)
        return records

    def _records(self, launchers: dict[int, Launching]) -> Iterator[JsonObject]:
        """Yield what comes of each launch, until all of ``launchers`` have ended."""
        while launchers:
            # Each launch and each end of a kernel has a deadline; who misses both is stuck.
            try:
                number, record = self._said.get(timeout=2 * self._options.timeout + STOP_TIME)
            except queue.Empty:
                for process, _ in launchers.values():
                    process.kill()
                continue
            if record is not None:
                launchers[number][1][record["way"]] -= 1
                yield record
                continue
            process, left = launchers.pop(number)
            self._log.seek(0)
            last = (self._log.read().splitlines() or ["it said nothing"])[-1]
            why = f"the launching process ended with status {process.wait()}: {last}"
            for way in left.elements():
                yield {"way": way, "outcome": FAILED, "cause": why}

    def _prepare(self) -> None:
        """Make the kernelspecs, and the environment in which they are launched."""
        self._runtime = self._folder / "runtime"
        self._runtime.mkdir(mode=0o700)
        kernels = self._folder / "jupyter" / "kernels"
        for way in self._options.ways:
            made = kernels / f"stress-{way}"
            made.mkdir(parents=True)
            spec = kernelspec(self._kernel_spec, way, self._options.timeout)
            (made / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
        path = os.environ.get("JUPYTER_PATH")
        self._environment = {
            **os.environ,
            # The thief takes the ports of what is here: never the user's own kernels.
            "JUPYTER_RUNTIME_DIR": str(self._runtime),
            "JUPYTER_PATH": os.pathsep.join([str(kernels.parent), *([path] if path else [])]),
        }
        self._environment.pop(DEFAULT_PROVISIONER, None)

    def _start(self, role: str, job: JsonObject) -> subprocess.Popen[str]:
        """Start a process and wait until it is ready."""
        command = [sys.executable, "-m", "echokernel.tools.stress.workers", role, json.dumps(job)]
        process = subprocess.Popen(
            command,
            env=self._environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # jupyter_client logs every launch that fails; the records have that, too.
            stderr=self._log,
            text=True,
            # Ctrl-C is ours alone: they end when told, with their kernels.
            start_new_session=True,
        )
        self._processes.append(process)
        assert process.stdout is not None
        process.stdout.readline()
        return process

    def _listen(self, number: int, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            self._said.put((number, json.loads(line)))
        self._said.put((number, None))


def _tell(process: subprocess.Popen[str], line: str) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):  # it has ended: its stdout says so
        process.stdin.write(line)
        process.stdin.flush()


def _taken(load: subprocess.Popen[str]) -> int | None:
    """End the load; return how many ports it took, None if it had ended before."""
    _end_input(load)
    assert load.stdout is not None
    said = load.stdout.readline()
    return int(json.loads(said)["taken"]) if said else None


def _end_input(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()


def _mistaken(what: str) -> int:
    print(f"echokernel stress: {what}", file=sys.stderr)
    return MISTAKE


# --- the command line -----------------------------------------------------------------------------


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="echokernel stress",
        description="Launch a kernel many times from several processes while ports are taken, the"
        " classic way and by a handshake; print how many launches failed.",
        epilog="Exit status: 0 if only classic launches failed or hung, 1 if others did, too.",
    )
    parser.add_argument("--kernel", default=KERNEL_NAME, metavar="NAME",
                        help="any kernelspec (default: %(default)s)")  # fmt: skip
    parser.add_argument("--launches", type=_count, default=24, help="each way; default: 24")
    parser.add_argument("--processes", type=_count, default=4, help="default: 4")
    parser.add_argument("--load", choices=["none", "binds", "thief"], default="thief",
                        help="binds: 1,500 a second, 3,000 held; thief (default): reads the"
                        " connection files of this run and takes the ports in them")  # fmt: skip
    parser.add_argument("--timeout", type=_seconds, default=60.0, metavar="SECONDS",
                        help="until a launch counts as hung; default: 60")  # fmt: skip
    parser.add_argument("--ways", type=_ways, default=[CLASSIC, HANDSHAKE], metavar="WAY,...",
                        help="default: classic,handshake; handshake is what the kernelspec says,"
                        " others are values of its provisioner's setting `handshake`")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything to FILE")
    options = parser.parse_args(argv)
    # A process without a launch would say nothing.
    options.processes = min(options.processes, options.launches)
    return options


def _ways(text: str) -> list[str]:
    from ...launcher.provisioner import HandshakeProvisioner

    setting: Any = HandshakeProvisioner.class_traits()["handshake"]
    known = [CLASSIC, HANDSHAKE, *setting.values]
    ways = list(dict.fromkeys(text.split(",")))
    for way in ways:
        if way not in known:
            raise argparse.ArgumentTypeError(f"{way!r} is none of {', '.join(known)}")
    return ways


def _count(text: str) -> int:
    value = int(text)
    if not 0 < value <= 100_000:
        raise ValueError(text)
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise ValueError(text)
    return value
