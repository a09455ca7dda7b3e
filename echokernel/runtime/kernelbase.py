"""The base class of every kernel here: ipykernel's, with the changes of JEP 65 and JEP 66.

A kernel author subclasses `Kernel` and knows the rest from ipykernel. Kernel classes that derive
from ipykernel's alone are served, too: `mix_in_kernel` adds `Kernel` to their bases.
"""

from __future__ import annotations

import asyncio
import errno
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import comm
import zmq
from ipykernel.jsonutil import json_clean
from ipykernel.kernelbase import Kernel as IPykernelKernel
from tornado.ioloop import IOLoop
from traitlets import Any as TraitAny
from traitlets import Bool, Float, default

from ..protocol.errors import WireError
from ..protocol.wire import PROTOCOL_VERSION
from .interrupts import is_awaitable
from .ipykernel_compat import AdaptedKernel, WithoutSubshells
from .plain_output import PlainOutput

STDIN_CONNECT_TIME = 0.25
"""Seconds by which a client's stdin channel may connect later than its shell channel."""

NOT_ON_CONTROL = (
    "execute_request",  # user code runs on the main thread only
    "create_subshell_request",  # K2: no subshells
    "delete_subshell_request",
    "list_subshell_request",
)

NO_FRONTEND = (
    "no input is possible: the frontend that sent this cell has disconnected, or never connected"
    " its stdin channel"
)


class Kernel(AdaptedKernel):
    """ipykernel's base kernel: it advertises JEP 65's welcome and answers every request."""

    comm_manager = TraitAny(help="what the comm package's get_comm_manager() returns here")
    comm_grace_period = Float(1.0, min=0, config=True, help=(
        "Seconds after which comms without a subscriber are closed."
    ))  # fmt: skip
    comm_lifecycle = Bool(True, config=True, help=(
        "Whether requests fail and comms are closed when their subscribers disconnect."
    ))  # fmt: skip

    message_queue: Any = TraitAny(help="messages of the shell channel that wait")
    output: Any = TraitAny(help="relates output to requests, and flushes it")
    at_shutdown: Any = TraitAny(help="called by each shutdown request")
    session: Any  # never None here

    @default("output")
    def _default_output(self) -> PlainOutput:
        return PlainOutput()

    @default("at_shutdown")
    def _default_at_shutdown(self) -> list[Callable[[], None]]:
        return []

    @default("shell_channel_thread")
    def _no_shell_channel_thread(self) -> Any:
        # IPython's kernel asks it which thread runs user code.
        return SimpleNamespace(parent_thread=threading.main_thread())

    @default("comm_manager")
    def _default_comm_manager(self) -> Any:
        return comm.get_comm_manager()

    @property
    def kernel_info(self) -> dict[str, Any]:
        # K2. ipykernel's own property imports its debugger to find out whether it has one.
        return {
            "protocol_version": PROTOCOL_VERSION,
            "implementation": self.implementation,
            "implementation_version": self.implementation_version,
            "language_info": self.language_info,
            "banner": self.banner,
            "help_links": self.help_links,
            "supported_features": ["iopub_welcome"],
        }

    def send_response(self, stream: Any, *arguments: Any, **options: Any) -> Any:
        if stream is self.iopub_socket:
            self.output.send_gathered()  # text that was printed before is published before
        return super().send_response(stream, *arguments, **options)

    def start(self) -> None:
        """Get ready for the channel loops, which replace ipykernel's streams.

        Nothing is published: ``starting`` follows the first welcome (W5).
        """
        self.io_loop = IOLoop.current()

    async def shutdown_request(self, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        """Answer, then end; a request without ``restart`` is not a restart."""
        parent["content"].setdefault("restart", False)
        for function in self.at_shutdown:
            function()
        await super().shutdown_request(stream, ident, parent)

    async def comm_info_request(self, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        """Answer with the open comms; on control, while the main thread opens and closes some."""
        target = parent["content"].get("target_name")
        comms = {
            comm_id: {"target_name": comm.target_name}
            # A copy in one step: the garbage collector can interrupt list(items()).
            for comm_id, comm in self.comm_manager.comms.copy().items()
            if target in (None, comm.target_name)
        }
        content = {"comms": comms, "status": "ok"}
        self.session.send(stream, "comm_info_reply", content, parent, ident)

    async def execute_request(self, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        """Run a cell; the request is answered whatever the cell does."""
        content = parent["content"]
        code = content["code"]
        if not isinstance(code, str):
            raise TypeError("execute_request: code is not a string")
        silent = bool(content.get("silent", False))
        # The protocol counts the requests that store history; a silent request never does.
        store_history = bool(content.get("store_history", True)) and not silent
        metadata = self.init_metadata(parent)
        if store_history:
            self.execution_count += 1
        if not silent:
            self.publish_execute_input(code, parent, self.execution_count)
        arguments = {
            "code": code,
            "silent": silent,
            "store_history": store_history,
            "user_expressions": content.get("user_expressions") or {},
            "allow_stdin": bool(content.get("allow_stdin", False)),
        }
        optional = {"cell_meta": parent["metadata"], "cell_id": parent["metadata"].get("cellId")}
        arguments |= {n: value for n, value in optional.items() if self.accepts_argument(n)}
        reply = json_clean(await self._run_cell(arguments))
        metadata = self.finish_metadata(parent, metadata, reply)
        if reply["status"] == "error" and not silent and content.get("stop_on_error", True):
            # Before the reply: a client that has it may send a cell that must run.
            self.abort_queued_requests()
        self.session.send(stream, "execute_reply", reply, parent, metadata=metadata, ident=ident)

    async def _run_cell(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the content of the reply: ``do_execute``'s, or the error that it raised."""
        self.input_allowed = arguments["allow_stdin"]
        try:
            reply = self.do_execute(**arguments)
            if is_awaitable(reply):
                reply = await reply
            if not isinstance(reply, dict) or "status" not in reply:
                raise TypeError(f"do_execute returned {reply!r}, not a dict with a 'status'")
            return reply
        # ipykernel's base class sends no reply to an interrupted cell, and its frontend waits
        # forever. SystemExit is not an answer: it ends the process.
        except (Exception, KeyboardInterrupt, asyncio.CancelledError) as error:
            if isinstance(error, Exception):
                self.log.exception("do_execute raised")
            failure = error_content(error)
            if not arguments["silent"]:
                self.output.flush()
                self.send_response(self.iopub_socket, "error", failure)
            return {"status": "error", "execution_count": self.execution_count, **failure}
        finally:
            self.input_allowed = False

    def abort_queued_requests(self) -> None:
        """Abort the executes that have arrived, or arrive within ``stop_on_error_timeout``."""
        self.message_queue.abort_waiting(self.stop_on_error_timeout)

    def request_input(self, prompt: str, ident: Any, parent: Any, password: bool) -> str:
        """Ask the frontend for a line.

        Raises:
            ConnectionError: the client that sent the cell is not connected (K5).
            EOFError: the frontend closed its input.
        """
        self.output.flush()
        while self.stdin_socket.poll(0):  # answers to earlier questions, which were given up
            self.stdin_socket.recv_multipart()
        content = {"prompt": prompt, "password": password}
        self._send_to_frontend("input_request", content, parent, ident)
        while True:
            # In short waits: on Windows a wait cannot be interrupted.
            if not self.stdin_socket.poll(100):
                continue
            try:
                sender, answer = self.session.read(self.stdin_socket.recv_multipart())
            except WireError as error:
                self.log.warning("stdin: dropped a message: %s", error)
                continue
            value = answer["content"].get("value")
            if sender != ident or answer["msg_type"] != "input_reply":
                self.log.warning("stdin: dropped a message that is not the answer")
            elif not isinstance(value, str):
                self.log.warning("stdin: dropped an input_reply without a text")
            elif value == "\x04":
                raise EOFError
            else:
                return value

    def _send_to_frontend(self, msg_type: str, content: Any, parent: Any, ident: Any) -> None:
        """Send on stdin to the client that sent the current request; fail if it is not there."""
        deadline = time.monotonic() + STDIN_CONNECT_TIME
        while True:
            try:
                self.session.send(self.stdin_socket, msg_type, content, parent, ident=ident)
                return
            except zmq.ZMQError as error:
                # K5: ROUTER_MANDATORY reports a peer that is not connected.
                if error.errno != errno.EHOSTUNREACH:
                    raise
            # A client connects its channels one after the other, and may send a cell first.
            if time.monotonic() > deadline:
                raise ConnectionError(NO_FRONTEND)
            time.sleep(0.01)


class _ProtocolOverrides(WithoutSubshells):
    """Facts about the protocol that no kernel class can override here (K2).

    Nothing may depend on the constructor of `Kernel`\\ : authors call ipykernel's by name.
    """

    control_handlers: dict[str, Any]

    def __init__(self, **traits: Any) -> None:
        self._topics: dict[str, bytes] = {}
        super().__init__(**traits)
        for name in NOT_ON_CONTROL:
            self.control_handlers.pop(name, None)

    @property
    def kernel_info(self) -> dict[str, Any]:
        info: dict[str, Any] = super().kernel_info  # type: ignore[misc]
        return {
            **info,
            "protocol_version": PROTOCOL_VERSION,
            "supported_features": ["iopub_welcome"],
        }


def mix_in_kernel(kernel_class: type[IPykernelKernel]) -> type[Kernel]:
    """Return the class that serves ``kernel_class``: a `Kernel` with the protocol's facts.

    A class of another author stays in front of `Kernel`: its own overrides stay, and its
    ``super()`` finds `Kernel` before ipykernel's class.
    """
    bases = (kernel_class,) if issubclass(kernel_class, Kernel) else (kernel_class, Kernel)
    return type(
        kernel_class.__name__, (_ProtocolOverrides, *bases), {"__doc__": kernel_class.__doc__}
    )


def error_content(error: BaseException) -> dict[str, Any]:
    """Return ``error`` as the content of an ``error`` message."""
    name, text = type(error).__name__, str(error)
    return {"ename": name, "evalue": text, "traceback": [f"{name}: {text}" if text else name]}
