"""How a kernel starts: from the command line to the running loop, top to bottom.

`KernelApp.run` shows the order of the steps. The sockets are bound before the kernel class is
imported: importing ipykernel takes four times as long as binding (ipykernel 7.4), and the launcher
gets the ports meanwhile. As a consequence, an import error is reported after the registration.

The app owns the process's signals until the kernel runs, and the files to remove at exit. Messages
are handled elsewhere.
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


def run_app(
    kernel_class: str | type,
    argv: Sequence[str] | None = None,
    attachments: Attachments | None = None,
    **command_line: Any,
) -> int:
    """Run a kernel until it is shut down; return the exit status.

    Args:
        kernel_class: an ``ipykernel.kernelbase.Kernel``, or its name ``"package.module:Name"``. A
            name is imported after the sockets answer, so the kernel starts sooner.
        argv: command line without the program's name; None: this process's.
        attachments: extend the core; None: the core alone.
        command_line: further arguments of `options.parse_command_line`.

    Raises:
        SystemExit: the command line is wrong.
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
            EchoKernelError: the kernel cannot start; its files are removed.
        """
        with ExitStack() as at_exit:
            at_exit.callback(self.files.remove)
            self._handle_signals()
            file = self._read_startup_file()
            # The watch begins before the wait for the receipt (H7).
            watch_parent(parent_pid(os.environ, log), self.files.remove)
            target = self._prepare_connection_file(file)

            # Sockets are bound, and heartbeat and IOPub answer, before the registration (H1).
            bound = sockets.bind(file, self._socket_settings())
            at_exit.callback(bound.close)
            for path in bound.ipc_paths():
                self.files.add(path)
            _start_heartbeat(bound.heartbeat)
            messages = PublisherMessages(
                Signer(file.key, file.signature_scheme), self.session_id, f"kernel.{self.ident}"
            )
            iopub = IOPub(bound.iopub, messages, self.attachments.outlet, self.options.flow_limits)
            iopub.start()
            at_exit.callback(iopub.stop)

            kernel_class = self._register_and_import(file, bound)
            if target is not None:
                # Other clients can attach only after the receipt (H6).
                _write_connection_file(target, self._bound_connection(file, bound))
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

    def _handle_signals(self) -> None:
        if threading.current_thread() is not threading.main_thread():
            return  # embedded: the signals belong to the host program
        # A launcher can send SIGINT before user code runs; there is nothing to interrupt yet.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, self._end_by_signal)
                self.ending_signals.append(number)

    def _end_by_signal(self, number: int, frame: object) -> None:
        """Remove the files, then let the signal end the process; user code cannot prevent it."""
        self.files.remove()
        signal.signal(number, signal.SIG_DFL)
        signal.raise_signal(number)

    def _read_startup_file(self) -> StartupFile:
        if not self.options.startup_file:
            return self._default_connection()
        file = connection_files.read_startup_file(self.options.startup_file)
        if isinstance(file, RegistrationFile):
            # After a failed handshake the key is useless (H4). After the receipt, the launcher
            # removes the file (L5).
            self.files.add(file.path)
        if not file.key:  # the protocol allows it (F4)
            log.warning("the key is empty: any peer that can connect to a port can run code")
        return file

    def _default_connection(self) -> ConnectionFile:
        """Return the connection file of a kernel that was started without one."""
        path = runtime_dir() / f"kernel-{os.getpid()}.json"
        ip = self.options.ip or startup.LOOPBACK
        return ConnectionFile(key=uuid.uuid4().hex.encode(), ip=ip, path=str(path))

    def _prepare_connection_file(self, file: StartupFile) -> Path | None:
        """Return the path of the connection file to write; None if the startup file is complete.

        Raises:
            ConnectionFileError: the file could not be written. This is checked before the
                registration, because the launcher considers a registered kernel running.
        """
        if isinstance(file, RegistrationFile):
            own_path = runtime_dir() / f"kernel-{os.getpid()}.json"
            path = Path(file.connection_file) if file.connection_file else own_path
        elif all(file.ports.values()):
            return None
        else:
            path = Path(file.path)  # a file with ports 0 is rewritten with the real ports (F5)
        try:
            connection_files.prepare_folder(path)
        except OSError as error:
            raise ConnectionFileError(str(path), error.strerror or str(error)) from None
        if isinstance(file, RegistrationFile) or not self.options.startup_file:
            self.files.add(path)  # but the launcher removes a connection file that it wrote (H6)
        return path

    def _register_and_import(self, file: StartupFile, bound: Channels) -> type[Any]:
        """Register the ports, if the startup file requires it; return the imported kernel class."""
        if not isinstance(file, RegistrationFile):
            return import_kernel_class(self.options.kernel_class)
        timeout = self.options.handshake_timeout
        with KernelRegistration(file, bound.ports, timeout) as registration:
            # The launcher answers while the language loads.
            kernel_class = import_kernel_class(self.options.kernel_class)
            registration.await_receipt()
        self.files.discard(file.path)
        return kernel_class

    def _bound_connection(self, file: StartupFile, bound: Channels) -> ConnectionFile:
        """Return the connection file with the bound ports."""
        if isinstance(file, ConnectionFile):
            return replace(file, ports=bound.ports)
        extra = {"kernel_name": file.kernel_name} if file.kernel_name else {}
        session_name = os.environ.get("JPY_SESSION_NAME")
        if session_name is not None:  # the notebook's path; jupyter_client writes the same key
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
        """Create the kernel and answer requests until it is shut down."""
        from . import main_loop  # both modules import ipykernel
        from .session import Session

        options = self.options
        if options.switch_interval is not None:
            sys.setswitchinterval(options.switch_interval)
        config = main_loop.kernel_config(options.config)
        # Kernel authors read the path from this setting.
        config.IPKernelApp.connection_file = str(connection_file)
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
                kernel_traits[name] = value  # otherwise settings decide, or the trait's default
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
    """Return the class with the name ``"package.module:Name"`` or ``"package.module.Name"``.

    Raises:
        EchoKernelError: there is no such class, or its module cannot be imported.
    """
    if not isinstance(kernel_class, str):
        return kernel_class
    install_lazy_packages()
    module, _, name = kernel_class.replace(":", ".").rpartition(".")
    try:
        imported = getattr(importlib.import_module(module), name)
    except Exception as error:  # a kernel author's module can raise anything
        log.debug("the kernel class cannot be loaded", exc_info=True)
        problem = f"{type(error).__name__}: {error}"
        raise EchoKernelError(f"cannot load the kernel class {kernel_class}: {problem}") from error
    if not isinstance(imported, type):
        raise EchoKernelError(f"cannot load the kernel class {kernel_class}: not a class")
    return imported


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


def _start_heartbeat(heartbeat: zmq.Socket[bytes]) -> None:
    """Echo heartbeats in C, in a thread that does not need the GIL, until the context ends."""

    def echo() -> None:
        while True:
            try:
                zmq.proxy(heartbeat, heartbeat)
            except zmq.ContextTerminated:
                heartbeat.close()
                return
            except zmq.ZMQError as error:
                log.warning("heartbeat: %s", error)

    threading.Thread(target=echo, name="Heartbeat", daemon=True).start()


def _log_to_stderr(level: str) -> None:
    """Log to the process's stderr, which the launcher reads, and never to the frontend."""
    stderr: Any = sys.__stderr__
    if stderr is not None:
        # A copy: what is written to the descriptor itself will be published.
        copy = os.dup(stderr.fileno())
        stderr = open(copy, "w", buffering=1, errors="backslashreplace")  # noqa: SIM115 (stays)
        faulthandler.enable(stderr)  # writes the stack there if the process crashes
    handler = logging.StreamHandler(stderr)
    handler.setFormatter(logging.Formatter(f"[{program_name()}] %(levelname)s %(message)s"))
    log.handlers[:] = [handler]
    log.setLevel(level)
    log.propagate = False
