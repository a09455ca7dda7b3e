"""The whole kernel: the core, with output, comms and flow control attached to it.

Imports stand inside functions: the sockets answer before anything heavy is loaded.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from . import app
from .attachments import Attachments, Core
from .iopub.publisher import IOPub, Outlet
from .message_queue import Matches

if TYPE_CHECKING:
    from .kernelbase import Kernel
    from .shell import ShellLoop

DEFAULT_KERNEL = "echokernel.kernel:EchoKernel"

STREAMS = ("stdout", "stderr")


def run_kernel(
    kernel_class: str | type = DEFAULT_KERNEL, argv: Sequence[str] | None = None
) -> NoReturn:
    """Run a kernel until it is shut down, then end the process with the exit status.

    Args:
        kernel_class: an ``ipykernel.kernelbase.Kernel``, or its name ``"package.module:Name"``
            (better: it is imported after the sockets answer).
        argv: command line without the program's name; None: this process's.

    Raises:
        SystemExit: always; 0 after a shutdown, 2 for an unusable startup file, 1 for any other
            failure.
    """
    sys.exit(app.run_app(kernel_class, argv, WholeKernel()))


class WholeKernel(Attachments):
    """Attaches everything that the core does without."""

    def outlet(self, iopub: IOPub) -> Outlet:
        from .iopub.flow_control.slow_readers import SlowReaders

        return SlowReaders(
            iopub.socket, iopub.messages.notice, iopub.serve_subscriptions, iopub.limits
        )

    def before_kernel(self, core: Core) -> dict[str, Any]:
        from .comms.hooks import install_comm_hooks
        from .output.streams import PublishedOutput

        _replace_streams(core)
        install_comm_hooks(core.at_exit)
        return {"output": PublishedOutput()}

    def priority(self) -> Matches:
        from .comms.priority import is_comm_message

        return is_comm_message

    def before_shell(self, core: Core, kernel: Kernel, shell: ShellLoop) -> None:
        from .comms.lifecycle import attach_reaper
        from .comms.manager import get_manager
        from .output.displayhook import install_displayhook

        install_displayhook(kernel, core.at_exit)
        attach_reaper(get_manager(), kernel, core.iopub, shell, core.interrupts)


def _replace_streams(core: Core) -> None:
    """Publish what is written to ``sys.stdout`` and ``sys.stderr``, and to their descriptors."""
    from .output.fd_capture import capture
    from .output.streams import OutStream

    is_captured = core.options.capture_fd_output
    captures = {name: capture(name) if is_captured else None for name in STREAMS}
    for captured in filter(None, captures.values()):
        core.after_threads.callback(captured.close)
    for name in STREAMS:
        stream = OutStream(core.session, core.iopub, name, core.control_thread.loop, captures[name])
        core.at_exit.callback(stream.close)
        core.at_exit.enter_context(_replaced(name, stream))


@contextlib.contextmanager
def _replaced(name: str, stream: Any) -> Iterator[None]:
    """Let ``sys.stdout`` or ``sys.stderr`` be ``stream``."""
    before = getattr(sys, name)
    setattr(sys, name, stream)
    try:
        yield
    finally:
        setattr(sys, name, before)
