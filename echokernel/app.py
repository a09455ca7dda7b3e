"""How a kernel starts: from the command line to the running loop, top to bottom.

`launch` is the order of things. It binds before it imports: ipykernel takes four times as long
to load as the sockets take to answer, so the launcher has the ports while the language loads.
Owns the event loop, the process's signals, and the files that the kernel leaves behind.
"""

from __future__ import annotations

import asyncio
import contextlib
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
from typing import TYPE_CHECKING, Any

import zmq

from . import channels, files, registration
from .command_line import Options, parse_command_line
from .files import Leftovers, runtime_dir
from .iopub import IOPub, new_session_id
from .parent import watch_parent
from .protocol import startup
from .protocol.errors import ConnectionFileError, EchoKernelError, StartupFileError
from .protocol.startup import ConnectionFile, RegistrationFile, StartupFile
from .protocol.wire import Signer

if TYPE_CHECKING:
    from .kernelbase import Kernel

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
    # Until user code runs, SIGINT has nothing to interrupt; a launcher may send it early.
    with contextlib.suppress(ValueError):  # not in the main thread: SIGINT is not ours then
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for name in ("SIGTERM", "SIGHUP"):
            number = getattr(signal, name, None)  # Windows has no SIGHUP
            if number is not None and signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, _exit_by_signal)
    try:
        with ExitStack() as at_exit:
            _run(options, at_exit)
    except StartupFileError as error:
        print(f"echokernel: {error}", file=sys.__stderr__)
        return EXIT_BAD_FILE
    except EchoKernelError as error:
        print(f"echokernel: {error}", file=sys.__stderr__)
        return EXIT_FAILED
    return 0


def _run(options: Options, at_exit: ExitStack) -> None:
    """The start-up order."""
    file = (
        files.read_startup_file(options.startup_file) if options.startup_file else by_hand(options)
    )
    leftovers = Leftovers()
    at_exit.callback(leftovers.remove)
    # H7: also while we wait for the receipt.
    watch_parent(int(os.environ.get("JPY_PARENT_PID") or 0), leftovers.remove)
    if isinstance(file, RegistrationFile):
        leftovers.at_failure(file.path)
    connection_file = _reserve_connection_file(file)
    if not file.key:
        log.warning("the key is empty: anybody who reaches a port can run code (F4)")

    # H1: all five sockets are bound, heartbeat and IOPub answer, before anybody hears of them.
    bound = channels.bind(file, port_range=options.port_range, bind_ip=options.ip)
    at_exit.callback(channels.remove_ipc_files, bound, bound.ports)
    at_exit.callback(bound.close)
    _beat(bound.heartbeat)
    session, ident = new_session_id(), str(uuid.uuid4())
    signer = Signer(file.key, file.signature_scheme)
    iopub = IOPub(bound.iopub, signer, session, f"kernel.{ident}", log)
    iopub.start()
    at_exit.callback(iopub.stop)

    own = _own_connection(file, bound, ident)
    if isinstance(file, RegistrationFile):
        with registration.Registering(file, bound.ports, options.handshake_timeout) as registering:
            kernel_class = load(options.kernel_class)  # while the launcher answers
            registering.await_receipt()
        leftovers.keep(file.path)
    else:
        kernel_class = load(options.kernel_class)
    if connection_file is not None:
        # H6: only now, when the launcher has agreed, can others attach.
        leftovers.at_exit(connection_file)
        _write_connection_file(connection_file, own)
    if not options.startup_file:
        _tell_how_to_attach(connection_file)

    _serve(kernel_class, file, bound, iopub, session, ident, options)


def load(kernel_class: str | type) -> type[Any]:
    """Return the class that ``"package.module:Name"`` (or ``package.module.Name``) names.

    Raises:
        EchoKernelError: there is no such class.
    """
    if not isinstance(kernel_class, str):
        return kernel_class
    module, _, name = kernel_class.replace(":", ".").rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise EchoKernelError(f"--kernel-class {kernel_class}: {error}") from error
    if not isinstance(found, type):
        raise EchoKernelError(f"--kernel-class {kernel_class}: not a class")
    return found


# --- where clients find the kernel ------------------------------------------------------


def by_hand(options: Options) -> ConnectionFile:
    """Return what a launcher would have written, for a kernel that has none."""
    path = runtime_dir() / f"kernel-{os.getpid()}.json"
    return ConnectionFile(
        key=uuid.uuid4().hex.encode(), ip=options.ip or startup.LOOPBACK, path=str(path)
    )


def _reserve_connection_file(file: StartupFile) -> Path | None:
    """Return where this kernel will write its connection file; None if it has one.

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
        files.prepare_folder(path)
    except OSError as error:
        raise ConnectionFileError(str(path), error.strerror or str(error)) from None
    return path


def _own_connection(file: StartupFile, bound: channels.Channels, ident: str) -> ConnectionFile:
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
        ip=bound.ip,
        ports=bound.ports,
        extra=extra,
    )


def _write_connection_file(path: Path, own: ConnectionFile) -> None:
    try:
        files.write_private(path, own.to_json())
    except OSError as error:
        raise ConnectionFileError(str(path), error.strerror or str(error)) from None


def _tell_how_to_attach(connection_file: Path | None) -> None:
    assert connection_file is not None  # a kernel without -f always writes one
    print(
        f"Connection file: {connection_file}\n"
        f"To attach: jupyter console --existing {connection_file.name}\n"
        f"To stop: quit from a client, or kill {os.getpid()}",
        flush=True,
    )


# --- the running kernel -----------------------------------------------------------------------


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


def _serve(
    kernel_class: type[Any],
    file: StartupFile,
    bound: channels.Channels,
    iopub: IOPub,
    session_id: str,
    ident: str,
    options: Options,
) -> None:
    """Make the kernel and answer until it is told to shut down."""
    from traitlets.config.loader import KeyValueConfigLoader

    from .interrupts import Interrupts
    from .kernelbase import Session, serving_class
    from .messaging import ChannelLoop, ControlThread
    from .streams import OutStream

    config = KeyValueConfigLoader().load_config(argv=options.config)
    session = Session(
        session=session_id,
        key=file.key,
        signature_scheme=file.signature_scheme,
        username="kernel",
        config=config,
    )
    control_thread = ControlThread()
    # asyncio.run() would take SIGINT; the kernel's handler has it.
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    output = {
        name: OutStream(session, iopub, name, control_thread.loop) for name in ("stdout", "stderr")
    }

    async def serve() -> None:
        kernel: Kernel = serving_class(kernel_class).instance(
            config=config,
            log=log,
            ident=ident,
            session=session,
            iopub_socket=iopub,
            stdin_socket=bound.stdin,
            control_thread=control_thread,
        )
        kernel.record_ports(bound.ports.to_keys())
        kernel.interrupts = Interrupts()
        kernel.interrupts.install(control_thread.loop)
        kernel.start()
        control_thread.start()
        control_thread.serve(ChannelLoop(kernel, "control", bound.control))
        shell = ChannelLoop(kernel, "shell", bound.shell)
        kernel.abort_waiting = shell.abort_waiting
        await shell.serve()

    with contextlib.redirect_stdout(output["stdout"]), contextlib.redirect_stderr(output["stderr"]):
        serving = loop.create_task(serve())
        serving.add_done_callback(lambda _: loop.stop())
        try:
            loop.run_forever()  # shutdown_request stops the loop
        finally:
            serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                loop.run_until_complete(serving)
            control_thread.stop()
            for stream in output.values():
                stream.close()
            loop.close()


def _exit_by_signal(number: int, frame: object) -> None:
    """Leave through every ``finally``: the default would leave files behind."""
    sys.exit(128 + number)


def _log_to_stderr(level: str) -> None:
    """Log to the process's stderr, where the launcher reads it; not to the frontend."""
    handler = logging.StreamHandler(sys.__stderr__)
    handler.setFormatter(logging.Formatter("[echokernel] %(levelname)s %(message)s"))
    log.handlers[:] = [handler]
    log.setLevel(level)
    log.propagate = False
