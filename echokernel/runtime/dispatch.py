"""One request, on either channel: verified, bracketed by busy and idle, answered (K4).

`shell.ShellLoop` and `control.ControlLoop` decide when a request is dispatched, and on which
thread.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import zmq

from . import zmq_multipart
from .interrupts import is_awaitable
from .kernelbase import Kernel, error_content

log = logging.getLogger("echokernel")


class ReplySocket:
    """The socket that a handler replies on; notes whether it did.

    Args:
        router: the channel's socket.
        before_send: called before each reply, so that no interrupt tears it apart; None: not.
    """

    def __init__(
        self, router: zmq.Socket[bytes], before_send: Callable[[], None] | None = None
    ) -> None:
        self._socket = router
        self._send = zmq_multipart.sender(router)
        self._before_send = before_send
        self.used = False

    def send_multipart(
        self, frames: Sequence[Any], flags: int = 0, copy: bool = True, track: bool = False
    ) -> Any:
        zmq_multipart.check(frames)
        # pyzmq lets Python's signal handlers run in every send: one that raises between two
        # frames leaves half a message, and the next reply is appended to it.
        if self._before_send is not None:
            self._before_send()
        self.used = True
        if track:
            return self._socket.send_multipart(frames, flags, copy, track)
        return self._send(frames, copy, flags)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)


class Dispatcher:
    """Answers the requests of one channel. A subclass is one channel.

    Args:
        kernel: its handlers answer.
        replies: the channel's socket.
    """

    channel: ClassVar[str]

    def __init__(self, kernel: Kernel, replies: ReplySocket) -> None:
        self._kernel = kernel
        self._replies = replies
        self._handlers: dict[str, Any] = getattr(kernel, f"{self.channel}_handlers")
        self._pid = os.getpid()

    def _set_parent(self, identities: Any, message: dict[str, Any]) -> None:
        """Relate what the kernel publishes from now on to the request ``message``."""
        self._kernel.set_parent(identities, message, channel=self.channel)

    async def _run(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Await ``function(*arguments)``."""
        await function(*arguments)

    async def dispatch(self, frames: Sequence[bytes], aborting: bool = False) -> None:
        """Answer one request.

        Args:
            frames: as received.
            aborting: whether an execute request is refused, because an earlier one failed.
        """
        kernel = self._kernel
        try:
            identities, message = kernel.session.read(frames)
            self._set_parent(identities, message)
            # K4: every request, also an unknown one, is bracketed by busy and idle.
            kernel.publish_status("busy", self.channel, message)
        except Exception as error:
            # K4: a bad signature, a replay, or frames that are not a message (also one whose
            # header cannot be sent back as parent: NaN, a lone surrogate). Dropped and logged.
            log.warning("%s: dropped a message: %s", self.channel, error)
            return
        try:
            await self._handle(identities, message, aborting)
        finally:
            if os.getpid() != self._pid:
                _exit_forked_child()
            kernel.output.flush()
            kernel.publish_status("idle", self.channel, message)

    async def _handle(
        self, identities: list[bytes], message: dict[str, Any], aborting: bool
    ) -> None:
        kernel, msg_type = self._kernel, message["msg_type"]
        if aborting and msg_type == "execute_request":
            kernel.send_abort_reply(self._replies, message, identities)
            return
        handler = self._handlers.get(msg_type)
        if handler is None and msg_type not in kernel.shell_handlers:
            log.warning("%s: unknown message type %r", self.channel, msg_type)
            return
        self._replies.used = False
        try:
            await self._run(self._answer, handler, identities, message)
        except (Exception, KeyboardInterrupt) as error:
            log.error("%s: %s failed: %r", self.channel, msg_type, error)
            if not self._replies.used:
                self._reply_error(identities, message, error)

    async def _answer(self, handler: Any, identities: list[bytes], message: dict[str, Any]) -> None:
        if handler is None:
            raise ValueError(f"{message['msg_type']} is for the shell channel")
        wanted = self._kernel.should_handle(self._replies, message, identities)
        if await wanted if is_awaitable(wanted) else wanted:
            result = handler(self._replies, identities, message)
            if is_awaitable(result):
                await result

    def _reply_error(
        self, identities: list[bytes], message: dict[str, Any], error: BaseException
    ) -> None:
        """Answer a request whose handler failed: a client waits for a reply, not for a log."""
        request = message["msg_type"]
        if request.endswith("_request"):
            self._kernel.session.send(
                self._replies,
                request.removesuffix("_request") + "_reply",
                {"status": "error", **error_content(error)},
                parent=message,
                ident=identities,
            )


def _exit_forked_child() -> None:
    """End a child that user code forked and that returned from its cell.

    It would serve on its parent's sockets. It also shares the parent's epoll object: when the
    child's event loop is closed, the parent's no longer reports anything.
    """
    error = sys.exc_info()[1]
    code = error.code if isinstance(error, SystemExit) else error and 1
    os._exit(code if isinstance(code, int) else code is not None)
