"""What can be attached to the core, and when. `serving` attaches the rest of the house.

The core (start, handshake, welcome, messages) runs with this class as it is. It publishes nothing
that user code prints, has no comms, and leaves slow subscribers to ZeroMQ.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from .iopub.publisher import DirectOutlet, IOPub, Outlet
from .message_queue import Matches

if TYPE_CHECKING:
    from .control import ControlThread
    from .interrupts import Interrupts
    from .kernelbase import Kernel
    from .options import Options
    from .session import Session
    from .shell import ShellLoop
    from .sockets import Channels


@dataclass(frozen=True)
class Core:
    """The parts of the core.

    Attributes: ``at_exit`` (undone when the kernel has ended, while the control thread still
    runs), ``after_threads`` (undone when that thread has ended, too).
    """

    options: Options
    session: Session
    channels: Channels
    iopub: IOPub
    control_thread: ControlThread
    interrupts: Interrupts
    at_exit: ExitStack
    after_threads: ExitStack


class Attachments:
    """Attaches nothing. Methods are called in the order in which they stand here."""

    def outlet(self, iopub: IOPub) -> Outlet:
        """Return the object that sends what is published; called before the language loads."""
        return DirectOutlet(iopub.socket)

    def before_kernel(self, core: Core) -> dict[str, Any]:
        """Prepare the process for the kernel's constructor; return further traits for it."""
        return {}

    def priority(self) -> Matches | None:
        """Return the test for shell messages that are handled while a cell waits; None: none."""
        return None

    def before_shell(self, core: Core, kernel: Kernel, shell: ShellLoop) -> None:
        """Connect to the kernel; called on its loop, before the first request."""
