"""The running kernel: its loop, its threads and its streams, from the first request to the last.

Imports ipykernel, which takes its time: the app imports this when the sockets answer already.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Any

from traitlets.config.loader import ConfigError, KVArgParseConfigLoader

from ..protocol.errors import EchoKernelError
from .comms.lifecycle import CommEndings
from .comms.manager import manager
from .interrupts import Interrupts
from .iopub.dead_peers import VanishedHosts
from .iopub.publisher import IOPub
from .ipykernel_compat import IOPubThread, offer_comms, show_values
from .kernelbase import Kernel, serving_class
from .output.fd_capture import capture
from .output.streams import OutStream
from .session import Session
from .shell import ChannelLoop, ControlThread
from .sockets import Channels

STREAMS = ("stdout", "stderr")

STOP_TIME = 1.0
"""Seconds that a cell may go on after the shutdown, if it does not mind being cancelled."""


def serve(
    kernel_class: type[Any],
    facts: dict[str, Any],
    session: Session,
    bound: Channels,
    iopub: IOPub,
    ending_signals: Sequence[int] = (),
    capture_output: bool = True,
) -> None:
    """Make a kernel and answer its requests until it is told to shut down.

    Args:
        kernel_class: any ipykernel kernel class.
        facts: further arguments for it.
        session: packs and signs.
        bound: the channels; their sockets are in use until this returns.
        iopub: publishes; started.
        ending_signals: signals whose handlers end the process.
        capture_output: whether what is written to the process's stdout and stderr is published.
    """
    with ExitStack() as at_exit:
        loop = asyncio.SelectorEventLoop()  # not Windows' other one: zmq needs add_reader
        at_exit.callback(loop.close)
        asyncio.set_event_loop(loop)
        captured = {name: capture(name) if capture_output else None for name in STREAMS}
        for each in filter(None, captured.values()):
            at_exit.callback(each.close)
        control_thread = ControlThread()
        at_exit.callback(control_thread.stop)
        for name in STREAMS:
            stream = OutStream(session, iopub, name, control_thread.loop, captured[name])
            at_exit.callback(stream.close)
            at_exit.enter_context(_replaced(name, stream))
        interrupts = at_exit.enter_context(contextlib.closing(Interrupts(ending_signals)))

        offer_comms(at_exit)

        async def run() -> None:
            kernel = serving_class(kernel_class).instance(
                session=session,
                iopub_socket=iopub,
                iopub_thread=IOPubThread(iopub, control_thread.loop),
                stdin_socket=bound.stdin,
                control_thread=control_thread,
                **facts,
            )
            show_values(kernel, at_exit)
            kernel.record_ports(bound.ports.to_keys())
            # IPython's kernel warns at every start that it has no debugger; kernel_info says so.
            kernel.log.addFilter(lambda record: "debugpy_stream undefined" not in str(record.msg))
            kernel.start()
            await _answer(kernel, bound, iopub, control_thread, interrupts)

        _run_until_stopped(loop, loop.create_task(run()))


async def _answer(
    kernel: Kernel,
    bound: Channels,
    iopub: IOPub,
    control_thread: ControlThread,
    interrupts: Interrupts,
) -> None:
    """Serve control on its thread and shell on this one."""
    shell = ChannelLoop(kernel, "shell", bound.shell, interrupts)
    kernel.abort_waiting = shell.abort_waiting
    _end_comms(kernel, iopub, shell, interrupts)
    interrupts.install(control_thread.loop)
    control_thread.start()
    control_thread.serve(ChannelLoop(kernel, "control", bound.control))
    if bound.keepalive is not None:
        VanishedHosts(iopub.listeners, bound.keepalive, control_thread.loop, kernel.log).start()
    await shell.serve()


def _end_comms(kernel: Kernel, iopub: IOPub, shell: ChannelLoop, interrupts: Interrupts) -> None:
    """Let comms end when nobody listens to them, and their requests with the kernel."""
    comms = manager()
    comms.adopt(kernel)
    comms.endings = endings = CommEndings(
        comms,
        iopub,
        kernel.comm_grace_period,
        shell,
        interrupts,
        kernel.log,
        is_on=kernel.comm_lifecycle,
    )
    kernel.on_shutdown = endings.shut_down


def _run_until_stopped(loop: asyncio.AbstractEventLoop, running: asyncio.Task[None]) -> None:
    """Run until a shutdown_request stops the loop, or ``running`` ends (with what it raised)."""

    def stop(_: object) -> None:
        loop.stop()

    running.add_done_callback(stop)
    loop.run_forever()
    running.remove_done_callback(stop)
    running.cancel()
    # A cell may refuse to be cancelled; that does not keep the kernel alive.
    loop.run_until_complete(asyncio.wait([running], timeout=STOP_TIME))
    if running.done() and not running.cancelled():
        running.result()


def kernel_config(words: list[str]) -> Any:
    """Return the settings ``--Class.name=value`` as traitlets takes them.

    Raises:
        EchoKernelError: they cannot be read.
    """
    try:
        return KVArgParseConfigLoader(argv=words).load_config()
    except ConfigError as error:
        raise EchoKernelError(f"settings {' '.join(words)}: {error}") from None


@contextlib.contextmanager
def _replaced(name: str, stream: OutStream) -> Iterator[None]:
    """Let ``sys.stdout`` or ``sys.stderr`` be ``stream``."""
    before = getattr(sys, name)
    setattr(sys, name, stream)
    try:
        yield
    finally:
        setattr(sys, name, before)
