"""The adapter for ipykernel: the only module of the kernel's process that uses its private names.

Two directions: `AdaptedKernel` gives ipykernel's private methods public names, and the functions
below reach into its modules. Each private name is listed in ``tests/test_upstream_names.py``, which
fails with that name when an ipykernel release drops it.
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from ipykernel.iostream import IOPubThread as IPykernelIOPubThread
from ipykernel.iostream import OutStream as IPykernelOutStream
from ipykernel.kernelbase import Kernel as IPykernelKernel
from tornado.ioloop import IOLoop

from ..protocol.wire import pack_json

if TYPE_CHECKING:
    from .iopub.publisher import IOPub

STATUS = {state: pack_json({"execution_state": state}) for state in ("busy", "idle")}


class AdaptedKernel(IPykernelKernel):
    """ipykernel's base kernel, with public names for its private ones."""

    session: Any  # never None here
    _topics: dict[str, bytes]  # the cache of `_topic`

    # --- called by echokernel -------------------------------------------------------------------

    def publish_status(
        self, status: str, channel: str, parent: dict[str, Any] | None = None
    ) -> None:
        """Publish an execution state that belongs to a request; by default the current one."""
        self._publish_status(status, channel, parent)

    def publish_execute_input(self, code: str, parent: dict[str, Any], count: int) -> None:
        """Publish the code of a cell that is executed now."""
        self._publish_execute_input(code, parent, count)

    def send_abort_reply(self, stream: Any, message: dict[str, Any], identities: Any) -> None:
        """Answer an execute request that is not run, because an earlier one failed."""
        self._send_abort_reply(stream, message, identities)

    def parent_identities(self, channel: str) -> Any:
        """Return the routing identities of the channel's current request."""
        return self._parent_ident[channel]

    def clear_parent(self, context: contextvars.Context) -> None:
        """Let what is published in ``context`` belong to no request."""
        context.run(self._shell_parent.set, {})

    def accepts_argument(self, name: str) -> bool:
        """Return True if ``do_execute`` takes the optional argument ``name``."""
        return bool(self._do_exec_accepted_params[name])

    @property
    def input_allowed(self) -> bool:
        """Whether the current cell may ask the frontend for input."""
        return bool(self._allow_stdin)

    @input_allowed.setter
    def input_allowed(self, allowed: bool) -> None:
        if self._allow_stdin != allowed:  # setting a trait costs, also to its own value
            self._allow_stdin = allowed

    # --- called by ipykernel: subclasses override the public names --------------------------------

    def abort_queued_requests(self) -> None:
        """Abort the execute requests that wait, because a cell failed."""

    def request_input(self, prompt: str, ident: Any, parent: Any, password: bool) -> str:
        """Ask the frontend for a line of input."""
        raise NotImplementedError

    def _abort_queues(self, subshell_id: str | None = None) -> None:
        self.abort_queued_requests()

    def _input_request(self, prompt: str, ident: Any, parent: Any, password: bool = False) -> str:
        return self.request_input(prompt, ident, parent, password)

    def _topic(self, topic: str) -> bytes:
        try:
            return self._topics[topic]
        except KeyError:
            return self._topics.setdefault(topic, super()._topic(topic))

    def _publish_status(
        self, status: str, channel: str, parent: dict[str, Any] | None = None
    ) -> None:
        parent = parent or self.get_parent(channel)
        content = STATUS.get(status) or {"execution_state": status}
        self.session.send(self.iopub_socket, "status", content, parent, self._topic("status"))


class WithoutSubshells:
    """Stands before a kernel class, so that it has no subshells whatever it inherits (K2)."""

    @property
    def _supports_kernel_subshells(self) -> bool:
        return False


class IOPubThread(IPykernelIOPubThread):
    """The object that authors pass to ipykernel's ``OutStream``: it publishes by `IOPub`.

    Args:
        iopub: publishes.
        timers: loop of a thread that user code never keeps busy.
    """

    def __init__(self, iopub: IOPub, timers: asyncio.AbstractEventLoop) -> None:
        # ipykernel's own __init__ makes a thread, a loop and sockets, which exist already.
        self.socket = iopub
        self.io_loop = IOLoop(asyncio_loop=timers, make_current=False)
        self.thread: Any = None  # no caller has to join it
        self._timers = timers

    def schedule(self, f: Callable[[], Any]) -> None:
        self._timers.call_soon_threadsafe(f)

    def send_multipart(self, frames: Sequence[Any], *arguments: Any, **options: Any) -> None:
        self.socket.send_multipart(frames, *arguments, **options)


class StreamBase(IPykernelOutStream):
    """ipykernel's ``OutStream`` as a base class without its own machinery.

    Code of kernel authors checks for this type. A subclass does not call its ``__init__``, which
    wants ipykernel's IOPub thread.
    """

    def __del__(self) -> None:
        """Release nothing: ipykernel's method would stop a pipe that does not exist here."""

    @property
    def is_forked_copy(self) -> bool:
        """Whether this is the stream of a forked child."""
        return False

    def _is_master_process(self) -> bool:
        return not self.is_forked_copy  # code of kernel authors calls this method


def silence_missing_debugger(kernel: IPykernelKernel) -> None:
    """Drop the warning that IPython's kernel logs at each start without a debugger.

    ``kernel_info_reply`` says already that there is none.
    """
    kernel.log.addFilter(lambda record: "debugpy_stream undefined" not in str(record.msg))


def replace_comm_manager(manager: Any, at_exit: ExitStack) -> None:
    """Replace the comm manager that ipykernel made when it was imported; undone by ``at_exit``."""
    ipkernel: Any = sys.modules.get("ipykernel.ipkernel")
    if ipkernel is not None:
        at_exit.callback(setattr, ipkernel, "_comm_manager", ipkernel._comm_manager)
        ipkernel._comm_manager = manager
