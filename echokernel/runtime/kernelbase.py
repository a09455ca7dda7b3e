"""The base of every kernel here: ipykernel's base class, and what JEP 65 and 66 change in it.

A kernel's author subclasses `Kernel` and knows the rest from ipykernel. Kernel classes of other
authors are served too: `serving_class` mixes `Kernel` into them.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import sys
import threading
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import zmq
from ipykernel.jsonutil import json_clean
from ipykernel.kernelbase import Kernel as IPykernelKernel
from tornado.ioloop import IOLoop
from traitlets import Any as TraitAny
from traitlets import Bool, Float, default

from ..protocol.errors import WireError
from ..protocol.wire import PROTOCOL_VERSION, pack_json
from .interrupts import is_awaitable
from .output.streams import OutStream

STDIN_CONNECT_TIME = 0.25
"""Seconds that a client's stdin channel may lag behind its shell channel."""

NOT_ON_CONTROL = (
    "execute_request",  # user code runs on the main thread only: it is for shell
    "create_subshell_request",  # K2: no subshells
    "delete_subshell_request",
    "list_subshell_request",
)

STATUS = {state: pack_json({"execution_state": state}) for state in ("busy", "idle")}

NO_FRONTEND = (
    "no input is possible: the frontend that sent this cell has left, or never opened its stdin"
    " channel"
)


class Kernel(IPykernelKernel):
    """ipykernel's base kernel with JEP 65's features said, and a reply to every request."""

    comm_manager = TraitAny(help="what the comm package's get_comm_manager() returns here")
    comm_grace_period = Float(1.0, min=0, config=True, help=(
        "Seconds after which comms that nobody listens to any more are closed."
    ))  # fmt: skip
    comm_lifecycle = Bool(True, config=True, help=(
        "Whether requests fail and comms are closed when their subscribers leave."
    ))  # fmt: skip

    abort_waiting: Callable[[], None] | None = None
    on_shutdown: Callable[[], None] | None = None
    _topics: dict[str, bytes]
    session: Any  # never None here

    @property
    def kernel_info(self) -> dict[str, Any]:
        # K2. Built here: ipykernel's own imports its debugger to tell whether there is one.
        return {
            "protocol_version": PROTOCOL_VERSION,
            "implementation": self.implementation,
            "implementation_version": self.implementation_version,
            "language_info": self.language_info,
            "banner": self.banner,
            "help_links": self.help_links,
            "supported_features": ["iopub_welcome"],
        }

    @default("shell_channel_thread")
    def _no_shell_channel_thread(self) -> Any:
        # IPython's kernel asks it which thread runs user code.
        return SimpleNamespace(parent_thread=threading.main_thread())

    @default("comm_manager")
    def _the_comm_manager(self) -> Any:
        from .comms.manager import manager

        return manager()

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

    def send_response(self, stream: Any, *arguments: Any, **options: Any) -> Any:
        if stream is self.iopub_socket:
            for printed in (sys.stdout, sys.stderr):
                if isinstance(printed, OutStream):
                    printed.send_gathered()  # what was printed before is shown before
        return super().send_response(stream, *arguments, **options)

    def start(self) -> None:
        """Get ready to be called by the channel loops (which replace ipykernel's streams).

        Nothing is published: W5, ``starting`` comes after the first welcome.
        """
        self.io_loop = IOLoop.current()

    async def shutdown_request(self, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        """Answer, then end; a request that does not say ``restart`` means no restart."""
        parent["content"].setdefault("restart", False)
        if self.on_shutdown is not None:
            self.on_shutdown()
        await super().shutdown_request(stream, ident, parent)

    async def comm_info_request(self, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        """Tell which comms are open; on control, while the main thread opens and closes them."""
        target = parent["content"].get("target_name")
        comms = {
            comm_id: {"target_name": each.target_name}
            # A copy in one step: list(items()) can be interrupted by the garbage collector.
            for comm_id, each in self.comm_manager.comms.copy().items()
            if target in (None, each.target_name)
        }
        content = {"comms": comms, "status": "ok"}
        self.session.send(stream, "comm_info_reply", content, parent, ident)

    async def execute_request(self, stream: Any, ident: Any, parent: dict[str, Any]) -> None:
        """Run a cell; whatever becomes of it, the request is answered."""
        content = parent["content"]
        code = content["code"]
        if not isinstance(code, str):
            raise TypeError("execute_request: code is not a string")
        silent = bool(content.get("silent", False))
        # The protocol counts the requests that store history; a silent one never does.
        store_history = bool(content.get("store_history", True)) and not silent
        metadata = self.init_metadata(parent)
        if store_history:
            self.execution_count += 1
        if not silent:
            self._publish_execute_input(code, parent, self.execution_count)
        arguments = {
            "code": code,
            "silent": silent,
            "store_history": store_history,
            "user_expressions": content.get("user_expressions") or {},
            "allow_stdin": bool(content.get("allow_stdin", False)),
        }
        given = {"cell_meta": parent["metadata"], "cell_id": parent["metadata"].get("cellId")}
        accepted = self._do_exec_accepted_params
        arguments |= {name: value for name, value in given.items() if accepted[name]}
        reply = json_clean(await self._run_cell(arguments))
        metadata = self.finish_metadata(parent, metadata, reply)
        if reply["status"] == "error" and not silent and content.get("stop_on_error", True):
            # Before the reply: a client that has it may send a cell that must run.
            self._abort_queues()
        self.session.send(stream, "execute_reply", reply, parent, metadata=metadata, ident=ident)

    async def _run_cell(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the content of the reply: ``do_execute``'s, or what it raised."""
        if self._allow_stdin != arguments["allow_stdin"]:  # setting a trait costs, if only to False
            self._allow_stdin = arguments["allow_stdin"]
        try:
            reply = self.do_execute(**arguments)
            if is_awaitable(reply):
                reply = await reply
            if not isinstance(reply, dict) or "status" not in reply:
                raise TypeError(f"do_execute returned {reply!r}, not a dict with a 'status'")
            return reply
        # ipykernel's base class sends no reply to an interrupted cell: its frontend waits for
        # ever. A cell that stops the process (SystemExit) is no answer and passes.
        except (Exception, KeyboardInterrupt, asyncio.CancelledError) as error:
            if isinstance(error, Exception):
                self.log.exception("do_execute raised")
            failure = error_content(error)
            if not arguments["silent"]:
                flush_streams(self.log)
                self.send_response(self.iopub_socket, "error", failure)
            return {"status": "error", "execution_count": self.execution_count, **failure}
        finally:
            if self._allow_stdin:
                self._allow_stdin = False

    def _abort_queues(self, subshell_id: str | None = None) -> None:
        """Abort the executes that have arrived, or arrive within ``stop_on_error_timeout``."""
        if self.abort_waiting is not None:
            self.abort_waiting()

    def _input_request(
        self, prompt: str, ident: Any, parent: dict[str, Any], password: bool = False
    ) -> str:
        """Ask the frontend for a line.

        Raises:
            ConnectionError: K5, nobody is there to answer.
            EOFError: the frontend closed its input.
        """
        flush_streams(self.log)
        while self.stdin_socket.poll(0):  # answers to questions that were given up
            self.stdin_socket.recv_multipart()
        content = {"prompt": prompt, "password": password}
        self._send_to_frontend("input_request", content, parent, ident)
        while True:
            # Not for ever: on Windows a wait cannot be interrupted.
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
                # K5: ROUTER_MANDATORY reports a peer that is not there.
                if error.errno != errno.EHOSTUNREACH:
                    raise
            # A client connects its channels one after the other, and may send a cell first.
            if time.monotonic() > deadline:
                raise ConnectionError(NO_FRONTEND)
            time.sleep(0.01)


class _Facts:
    """What no kernel class can say otherwise here (K2), whatever it is on ipykernel's app.

    Nothing may depend on `Kernel`\\ 's constructor: authors call ipykernel's by name.
    """

    control_handlers: dict[str, Any]

    def __init__(self, **traits: Any) -> None:
        self._topics: dict[str, bytes] = {}
        super().__init__(**traits)
        for name in NOT_ON_CONTROL:
            self.control_handlers.pop(name, None)

    @property
    def kernel_info(self) -> dict[str, Any]:
        said: dict[str, Any] = super().kernel_info  # type: ignore[misc]
        return {
            **said,
            "protocol_version": PROTOCOL_VERSION,
            "supported_features": ["iopub_welcome"],
        }

    @property
    def _supports_kernel_subshells(self) -> bool:
        return False


def serving_class(kernel_class: type[IPykernelKernel]) -> type[Kernel]:
    """Return the class to serve ``kernel_class`` by: a `Kernel`, with what holds for all of them.

    A class of another author stays in front of ours: what it overrides stays overridden, and its
    ``super()`` finds ours before ipykernel's.
    """
    bases = (kernel_class,) if issubclass(kernel_class, Kernel) else (kernel_class, Kernel)
    return type(kernel_class.__name__, (_Facts, *bases), {"__doc__": kernel_class.__doc__})


def error_content(error: BaseException) -> dict[str, Any]:
    """Return ``error`` as the content of an ``error`` message."""
    name, text = type(error).__name__, str(error)
    return {"ename": name, "evalue": text, "traceback": [f"{name}: {text}" if text else name]}


def flush_streams(log: logging.Logger) -> None:
    """Publish what has been printed; user code may have put anything in the streams' place."""
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except Exception as error:
            log.warning("cannot flush %r: %s", stream, error)
