"""How a kernel starts: from the command line to the running loop, top to bottom.

`KernelApp.run` is the order of things. It binds before it imports: ipykernel takes four times as
long to load as the sockets take to answer, so the launcher has the ports while the language
loads. The price: a kernel class that cannot be imported is noticed only after the registration.
The app owns the event loop, the process's signals and the files that must be cleaned up.
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
from ..connection_files import CleanupFiles, runtime_dir
from ..protocol import startup
from ..protocol.errors import ConnectionFileError, EchoKernelError, StartupFileError
from ..protocol.startup import ConnectionFile, RegistrationFile, StartupFile
from ..protocol.wire import Signer
from . import sockets
from .attachments import Attachments
from .iopub.messages import PublisherMessages
from .iopub.publisher import IOPub
from .lazy_imports import install_lazy_packages
from .options import Options, parse_command_line, program_name
from .parent_watch import parent_pid, watch_parent
from .registration import KernelRegistration
from .sockets import Channels, SocketSettings

EXIT_BAD_FILE = 2
EXIT_FAILED = 1

log = logging.getLogger("echokernel")


def run_kernel(
    kernel_class: str | type,
    argv: Sequence[str] | None = None,
    attachments: Attachments | None = None,
    **command_line: Any,
) -> int:
    """Run a kernel until it is shut down; return the exit status.

    Args:
        kernel_class: an ``ipykernel.kernelbase.Kernel``, or its name ``"package.module:Name"``
            (better: it is imported after the sockets answer).
        argv: command line without the program's name; None: this process's.
        attachments: what is attached to the core; None: nothing.
        command_line: see `options.parse_command_line`.
    """
    options = parse_command_line(argv, kernel_class, **command_line)
    _log_to_stderr(options.log_level)
    try:
        KernelApp(options, attachments or Attachments()).run()
    except EchoKernelError as error:
        print(f"{program_name()}: {error}", file=sys.__stderr__)
        return EXIT_BAD_FILE if isinstance(error, StartupFileError) else EXIT_FAILED
    return 0


class KernelApp:
    """One kernel's process."""

    def __init__(self, options: Options, attachments: Attachments) -> None:
        self.options = options
        self.attachments = attachments
        self.files = CleanupFiles()
        self.session_id = uuid.uuid4().hex
        self.ident = str(uuid.uuid4())
        self.ending_signals: list[int] = []

    def run(self) -> None:
        """Start, serve until shut down, clean up.

        Raises:
            EchoKernelError: the kernel cannot start; nothing is left behind.
        """
        with ExitStack() as at_exit:
            at_exit.callback(self.files.remove)
            self._take_signals()
            file = self._read_startup_file()
            # H7: also while we wait for the receipt.
            watch_parent(parent_pid(os.environ, log), self.files.remove)
            target = self._connection_file_to_write(file)

            # H1: all five sockets are bound, heartbeat and IOPub answer, before the registration.
            bound = sockets.bind(file, self._socket_settings())
            at_exit.callback(bound.close)
            for path in bound.ipc_paths():
                self.files.add(path)
            _beat(bound.heartbeat)
            messages = PublisherMessages(
                Signer(file.key, file.signature_scheme), self.session_id, f"kernel.{self.ident}"
            )
            iopub = IOPub(bound.iopub, messages, self.attachments.outlet, self.options.flow_limits)
            iopub.start()
            at_exit.callback(iopub.stop)

            kernel_class = self._register(file, bound)
            if target is not None:
                # H6: other clients can attach only now, after the receipt.
                _write_connection_file(target, self._connection(file, bound))
            if not self.options.startup_file:
                _print_how_to_attach(Path(file.path))
            self._serve(kernel_class, file, target or Path(file.path), bound, iopub)

    def _socket_settings(self) -> SocketSettings:
        options = self.options
        return SocketSettings(
            port_range=options.port_range,
            bind_ip=options.ip,
            keepalive=options.iopub_keepalive,
            limits=options.flow_limits,
        )

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
        self.files.remove()
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    def _read_startup_file(self) -> StartupFile:
        if not self.options.startup_file:
            return self._by_hand()
        file = connection_files.read_startup_file(self.options.startup_file)
        if isinstance(file, RegistrationFile):
            # H4: no use without the receipt; with it, the file is the launcher's to remove.
            self.files.add(file.path)
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
        elif all(file.ports.values()):
            return None
        else:
            path = Path(file.path)  # F5: a file with ports 0 is rewritten with the real ones
        try:
            connection_files.prepare_folder(path)
        except OSError as error:
            raise ConnectionFileError(str(path), error.strerror or str(error)) from None
        if isinstance(file, RegistrationFile) or not self.options.startup_file:
            self.files.add(path)  # our own; a file that -f named is the launcher's
        return path

    def _register(self, file: StartupFile, bound: Channels) -> type[Any]:
        """Register where the file says so; load the language meanwhile, and return it."""
        if not isinstance(file, RegistrationFile):
            return import_kernel_class(self.options.kernel_class)
        timeout = self.options.handshake_timeout
        with KernelRegistration(file, bound.ports, timeout) as registration:
            kernel_class = import_kernel_class(self.options.kernel_class)  # while it answers
            registration.await_receipt()
        self.files.discard(file.path)
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
        """Make the kernel and answer requests until it is shut down."""
        from . import main_loop  # imports ipykernel; so does the next line
        from .session import Session

        options = self.options
        if options.switch_interval is not None:
            sys.setswitchinterval(options.switch_interval)
        config = main_loop.kernel_config(options.config)
        config.IPKernelApp.connection_file = str(connection_file)  # authors read it there
        session = Session(
            session=self.session_id,
            key=file.key,
            signature_scheme=file.signature_scheme,
            username="kernel",
            config=config,
        )
        kernel_traits = {"config": config, "log": log, "ident": self.ident}
        for name in ("comm_grace_period", "comm_lifecycle"):
            if (value := getattr(options, name)) is not None:
                kernel_traits[name] = value  # otherwise the trait's, which settings can change
        main_loop.serve(
            kernel_class,
            kernel_traits,
            session,
            bound,
            iopub,
            options,
            self.attachments,
            self.ending_signals,
        )


def import_kernel_class(kernel_class: str | type) -> type[Any]:
    """Return the class that ``"package.module:Name"`` (or ``package.module.Name``) names.

    Raises:
        EchoKernelError: there is no such class, or its module cannot be imported.
    """
    if not isinstance(kernel_class, str):
        return kernel_class
    install_lazy_packages()
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


def _print_how_to_attach(path: Path) -> None:
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
    handler.setFormatter(logging.Formatter(f"[{program_name()}] %(levelname)s %(message)s"))
    log.handlers[:] = [handler]
    log.setLevel(level)
    log.propagate = False
