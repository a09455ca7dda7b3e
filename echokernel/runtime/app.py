"""How a kernel starts: from the command line to the running loop, top to bottom.

`KernelApp.run` is the order of things. It binds before it imports: ipykernel takes four times as
long to load as the sockets take to answer, so the launcher has the ports while the language
loads. The price: a kernel class that cannot be imported is found out only after the launcher has
been told. The app owns the event loop, the process's signals and what must be cleaned up.
"""

from __future__ import annotations

import faulthandler
import importlib
import logging
import os
import signal
import sys
import threading
import uuid
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import zmq

from .. import connection_files
from ..connection_files import Leftovers, runtime_dir
from ..protocol import startup
from ..protocol.errors import ConnectionFileError, EchoKernelError, StartupFileError
from ..protocol.startup import ConnectionFile, RegistrationFile, StartupFile
from ..protocol.wire import Signer
from . import registration, sockets
from .iopub.publisher import IOPub
from .lazy_imports import postpone
from .options import Options, parse_command_line
from .parent_watch import parent_pid, watch_parent
from .sockets import Channels

DEFAULT_KERNEL = "echokernel.kernel:EchoKernel"

EXIT_BAD_FILE = 2
EXIT_FAILED = 1

log = logging.getLogger("echokernel")


def launch(kernel_class: str | type = DEFAULT_KERNEL, argv: Sequence[str] | None = None) -> int:
    """Run a kernel until it is shut down; return the exit status.

    Args:
        kernel_class: an ``ipykernel.kernelbase.Kernel``, or where it is: ``"package.module:Name"``
            (better: it is imported after the sockets answer).
        argv: command line without the program's name; None: this process's.
    """
    options = parse_command_line(argv, kernel_class)
    _log_to_stderr(options.log_level)
    try:
        KernelApp(options).run()
    except EchoKernelError as error:
        print(f"echokernel: {error}", file=sys.__stderr__)
        return EXIT_BAD_FILE if isinstance(error, StartupFileError) else EXIT_FAILED
    return 0


class KernelApp:
    """One kernel's process."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.leftovers = Leftovers()
        self.session_id = uuid.uuid4().hex
        self.ident = str(uuid.uuid4())
        self.topic = f"kernel.{self.ident}"
        self.ending_signals: list[int] = []

    def run(self) -> None:
        """Start, serve until shut down, clean up.

        Raises:
            EchoKernelError: the kernel cannot start; nothing is left behind.
        """
        with ExitStack() as at_exit:
            at_exit.callback(self.leftovers.remove)
            self._take_signals()
            file = self._read_startup_file()
            # H7: also while we wait for the receipt.
            watch_parent(parent_pid(os.environ, log), self.leftovers.remove)
            target = self._connection_file_to_write(file)

            # H1: all five sockets are bound, heartbeat and IOPub answer, before anybody hears.
            bound = sockets.bind(
                file,
                port_range=self.options.port_range,
                bind_ip=self.options.ip,
                keepalive=self.options.iopub_keepalive,
            )
            at_exit.callback(bound.close)
            for path in bound.ipc_paths():
                self.leftovers.add(path)
            _beat(bound.heartbeat)
            signer = Signer(file.key, file.signature_scheme)
            iopub = IOPub(bound.iopub, signer, self.session_id, self.topic, log)
            iopub.start()
            at_exit.callback(iopub.stop)

            kernel_class = self._register(file, bound)
            if target is not None:
                # H6: only now, when the launcher has agreed, can others attach.
                _write_connection_file(target, self._connection(file, bound))
            if not self.options.startup_file:
                _tell_how_to_attach(Path(file.path))
            self._serve(kernel_class, file, target or Path(file.path), bound, iopub)

    # --- the steps, in order ------------------------------------------------------------------

    def _take_signals(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # embedded: signals are our host's
        # Until user code runs, SIGINT has nothing to interrupt; a launcher may send it early.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, self._end_by_signal)
                self.ending_signals.append(number)

    def _end_by_signal(self, number: int, frame: object) -> None:
        """Remove the files, then die as the signal wants: user code cannot swallow that."""
        self.leftovers.remove()
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    def _read_startup_file(self) -> StartupFile:
        if not self.options.startup_file:
            return self._by_hand()
        file = connection_files.read_startup_file(self.options.startup_file)
        if isinstance(file, RegistrationFile):
            # H4: no use without the receipt; with it, the file is the launcher's to remove.
            self.leftovers.add(file.path)
        if not file.key:
            log.warning("the key is empty: anybody who reaches a port can run code")  # F4
        return file

    def _by_hand(self) -> ConnectionFile:
        """Return what a launcher would have written, for a kernel that has none."""
        path = runtime_dir() / f"kernel-{os.getpid()}.json"
        ip = self.options.ip or startup.LOOPBACK
        return ConnectionFile(key=uuid.uuid4().hex.encode(), ip=ip, path=str(path))

    def _connection_file_to_write(self, file: StartupFile) -> Path | None:
        """Return where this kernel will write its connection file; None if there is no need.

        Raises:
            ConnectionFileError: it could not be written there. Now, not after the receipt: a
                launcher that has been told the ports believes that the kernel runs.
        """
        if isinstance(file, RegistrationFile):
            named = file.connection_file
            path = Path(named) if named else runtime_dir() / f"kernel-{os.getpid()}.json"
        elif all(port for _, port in file.ports):
            return None
        else:
            path = Path(file.path)  # F5: a file with ports 0 is rewritten with the real ones
        try:
            connection_files.prepare_folder(path)
        except OSError as error:
            raise ConnectionFileError(str(path), error.strerror or str(error)) from None
        if isinstance(file, RegistrationFile) or not self.options.startup_file:
            self.leftovers.add(path)  # our own; a file that -f named is the launcher's
        return path

    def _register(self, file: StartupFile, bound: Channels) -> type[Any]:
        """Register where the file says so; load the language meanwhile, and return it."""
        if not isinstance(file, RegistrationFile):
            return load(self.options.kernel_class)
        timeout = self.options.handshake_timeout
        with registration.Registering(file, bound.ports, timeout) as registering:
            kernel_class = load(self.options.kernel_class)  # while the launcher answers
            registering.await_receipt()
        self.leftovers.keep(file.path)
        return kernel_class

    def _connection(self, file: StartupFile, bound: Channels) -> ConnectionFile:
        """Return how to connect to this kernel."""
        if isinstance(file, ConnectionFile):
            return replace(file, ports=bound.ports)
        extra = {"kernel_name": file.kernel_name} if file.kernel_name else {}
        session_name = os.environ.get("JPY_SESSION_NAME")
        if session_name is not None:  # as jupyter_client writes it: which notebook this is
            extra["jupyter_session"] = session_name
        return ConnectionFile(
            key=file.key,
            transport=file.transport,
            signature_scheme=file.signature_scheme,
            curve=file.curve,
            ip=file.advertised_ip or bound.ip,
            ports=bound.ports,
            extra=extra,
        )

    def _serve(
        self,
        kernel_class: type[Any],
        file: StartupFile,
        connection_file: Path,
        bound: Channels,
        iopub: IOPub,
    ) -> None:
        """Make the kernel and answer until it is told to shut down."""
        from . import serving  # imports ipykernel, as does this:
        from .session import Session

        if self.options.switch_interval is not None:
            sys.setswitchinterval(self.options.switch_interval)
        config = serving.kernel_config(self.options.config)
        config.IPKernelApp.connection_file = str(connection_file)  # where authors look for it
        session = Session(
            session=self.session_id,
            key=file.key,
            signature_scheme=file.signature_scheme,
            username="kernel",
            config=config,
        )
        facts = {"config": config, "log": log, "ident": self.ident}
        for name in ("comm_grace_period", "comm_lifecycle"):
            if (said := getattr(self.options, name)) is not None:
                facts[name] = said  # else the trait's, which settings can change
        serving.serve(
            kernel_class,
            facts,
            session,
            bound,
            iopub,
            self.ending_signals,
            capture_output=self.options.capture_fd_output,
        )


def load(kernel_class: str | type) -> type[Any]:
    """Return the class that ``"package.module:Name"`` (or ``package.module.Name``) names.

    Raises:
        EchoKernelError: there is no such class, or its module cannot be imported.
    """
    if not isinstance(kernel_class, str):
        return kernel_class
    postpone()
    module, _, name = kernel_class.replace(":", ".").rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # an author's module can raise what it likes
        log.debug("the kernel class cannot be loaded", exc_info=True)
        problem = f"{type(error).__name__}: {error}"
        raise EchoKernelError(f"cannot load the kernel class {kernel_class}: {problem}") from error
    if not isinstance(found, type):
        raise EchoKernelError(f"cannot load the kernel class {kernel_class}: not a class")
    return found


def _write_connection_file(path: Path, connection: ConnectionFile) -> None:
    try:
        connection_files.write_private(path, connection.to_json())
    except OSError as error:
        raise ConnectionFileError(str(path), error.strerror or str(error)) from None


def _tell_how_to_attach(path: Path) -> None:
    print(
        f"Connection file: {path}\n"
        f"To attach: jupyter console --existing {path.name}\n"
        f"To stop: quit from a client, or kill {os.getpid()}",
        flush=True,
    )


def _beat(heartbeat: zmq.Socket[bytes]) -> None:
    """Echo heartbeats in C, in a thread that never needs the GIL, until its context ends."""

    def beat() -> None:
        while True:
            try:
                zmq.proxy(heartbeat, heartbeat)
            except zmq.ContextTerminated:
                heartbeat.close()
                return
            except zmq.ZMQError as error:
                log.warning("heartbeat: %s", error)

    threading.Thread(target=beat, name="Heartbeat", daemon=True).start()


def _log_to_stderr(level: str) -> None:
    """Log to the process's stderr, where the launcher reads it; not to the frontend."""
    stderr: Any = sys.__stderr__
    if stderr is not None:
        # The descriptor itself will be captured for the frontend.
        copy = os.dup(stderr.fileno())
        stderr = open(copy, "w", buffering=1, errors="backslashreplace")  # noqa: SIM115 (stays)
        faulthandler.enable(stderr)  # a crash says there where it happened
    handler = logging.StreamHandler(stderr)
    handler.setFormatter(logging.Formatter("[echokernel] %(levelname)s %(message)s"))
    log.handlers[:] = [handler]
    log.setLevel(level)
    log.propagate = False
