"""The running kernel: its loop and its threads, from the first request to the last.

This module imports ipykernel, which takes long: `app` imports it when the sockets answer already.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import ExitStack, closing
from typing import Any

from traitlets.config.loader import ConfigError, KVArgParseConfigLoader

from ..protocol.errors import EchoKernelError
from .attachments import Attachments, Core
from .control import ControlLoop, ControlThread
from .interrupts import Interrupts
from .iopub.dead_peers import DeadPeerMonitor
from .iopub.publisher import IOPub
from .ipykernel_compat import IOPubThread, silence_missing_debugger
from .kernelbase import Kernel, mix_in_kernel
from .message_queue import MessageQueue
from .options import Options
from .session import Session
from .shell import ShellLoop
from .sockets import Channels

CANCEL_TIME = 1.0
"""Seconds that a cancelled cell may continue after the shutdown."""


def serve(
    kernel_class: type[Any],
    kernel_traits: dict[str, Any],
    session: Session,
    channels: Channels,
    iopub: IOPub,
    options: Options,
    attachments: Attachments,
    ending_signals: Sequence[int] = (),
) -> None:
    """Make a kernel and answer its requests until it is shut down.

    Args:
        kernel_class: any ipykernel kernel class.
        kernel_traits: further arguments for it.
        session: packs and signs.
        channels: bound; their sockets are in use until this returns.
        iopub: publishes; started.
        options: of the command line.
        attachments: what is attached to the core.
        ending_signals: signals whose handlers end the process.
    """
    with ExitStack() as stack:
        loop = asyncio.SelectorEventLoop()  # zmq needs add_reader, which Windows' default lacks
        stack.callback(loop.close)
        asyncio.set_event_loop(loop)
        after_threads = stack.enter_context(ExitStack())
        control_thread = ControlThread()
        stack.callback(control_thread.stop)
        at_exit = stack.enter_context(ExitStack())
        interrupts = stack.enter_context(closing(Interrupts(ending_signals)))
        core = Core(
            options, session, channels, iopub, control_thread, interrupts, at_exit, after_threads
        )
        kernel_traits = {**kernel_traits, **attachments.before_kernel(core)}

        async def run() -> None:
            kernel = mix_in_kernel(kernel_class).instance(
                session=session,
                iopub_socket=iopub,
                iopub_thread=IOPubThread(iopub, control_thread.loop),
                stdin_socket=channels.stdin,
                control_thread=control_thread,
                message_queue=MessageQueue(channels.shell),
                **kernel_traits,
            )
            kernel.record_ports(channels.ports.to_keys())
            silence_missing_debugger(kernel)
            kernel.start()
            await _answer(kernel, core, attachments)

        _run_until_stopped(loop, loop.create_task(run()))


async def _answer(kernel: Kernel, core: Core, attachments: Attachments) -> None:
    """Serve control on its thread and shell on this one."""
    channels, thread = core.channels, core.control_thread
    shell = ShellLoop(kernel, channels.shell, core.interrupts, attachments.priority())
    attachments.before_shell(core, kernel, shell)
    core.interrupts.install(thread.loop)
    thread.start()
    thread.serve(ControlLoop(kernel, channels.control))
    if channels.keepalive is not None:
        DeadPeerMonitor(core.iopub.connections, channels.keepalive, thread.loop).start()
    await shell.serve()


def _run_until_stopped(loop: asyncio.AbstractEventLoop, running: asyncio.Task[None]) -> None:
    """Run until a shutdown_request stops the loop, or ``running`` ends (with its exception)."""

    def stop(_: object) -> None:
        loop.stop()

    running.add_done_callback(stop)
    loop.run_forever()
    running.remove_done_callback(stop)
    running.cancel()
    # A cell may refuse to be cancelled; that does not keep the kernel alive.
    loop.run_until_complete(asyncio.wait([running], timeout=CANCEL_TIME))
    if running.done() and not running.cancelled():
        running.result()


def kernel_config(words: list[str]) -> Any:
    """Return the settings ``--Class.name=value`` as a traitlets Config.

    Raises:
        EchoKernelError: they cannot be parsed.
    """
    try:
        return KVArgParseConfigLoader(argv=words).load_config()
    except ConfigError as error:
        raise EchoKernelError(f"settings {' '.join(words)}: {error}") from None
