"""Comms as kernels of any author have them: the ``comm`` package's, with requests (SPEC C5, C6).

`Comm` is what ``comm.create_comm`` makes and what a target is given; `CommManager` is
``comm.get_comm_manager()``. What ends when a subscriber leaves is decided in `comm_endings`.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from comm.base_comm import BaseComm
from comm.base_comm import CommManager as BaseCommManager
from ipykernel.jsonutil import json_clean
from traitlets import Dict
from traitlets.config import LoggingConfigurable

from .priority import COMM_MESSAGES

if TYPE_CHECKING:
    from .requests import Endings

# A kernel starts faster without what only an open comm needs: those modules are imported below.

PERSISTENT = "jupyter.widget*"
"""C3: ipywidgets' targets. Their models are state that outlives the view."""

log = logging.getLogger("echokernel")

_clean: Any = json_clean  # untyped


class Comm(BaseComm):
    """The kernel's end of a comm.

    Args:
        persistent: C3: the comm stays when nobody listens any more. None: as its target says.

    For the others see ``comm.base_comm.BaseComm``.
    """

    def __init__(self, *args: Any, persistent: bool | None = None, **kwargs: Any) -> None:
        from .requests import Requests

        self.persistent = persistent
        self._requests = Requests(self)
        comm_id = kwargs.get("comm_id")
        if comm_id and not kwargs.get("topic"):
            kwargs["topic"] = f"comm-{comm_id}".encode()  # BaseComm knows ASCII alone
        super().__init__(*args, **kwargs)

    @property
    def session(self) -> str | None:
        """The id of the session that it belongs to (C4); None: nobody's."""
        return manager().session_of(self.comm_id)

    @property
    def endings(self) -> Endings | None:
        return manager().endings

    @property
    def is_closed(self) -> bool:
        return self._closed

    # --- requests -----------------------------------------------------------------------------

    async def request(self, method: str, params: Any = None, timeout: float | None = None) -> Any:
        """Ask the frontend; return the result that it answers with (C6).

        Comm messages are handled meanwhile, also while a cell awaits this.

        Args:
            method: name of the frontend's method.
            params: list or dict, JSON; None: none.
            timeout: seconds; None: until an answer comes, or nobody is left to give one.

        Raises:
            CommDisconnected: nobody is left who could answer, or the comm or the kernel ends.
            CommRequestError: the frontend answered with an error.
            CommTimeout: no answer within ``timeout``.
        """
        return await self._requests.ask(method, params, timeout)

    def request_blocking(
        self, method: str, params: Any = None, timeout: float | None = None
    ) -> Any:
        """Do the same for code that cannot await, such as a plain ``do_execute``.

        On the main thread comm messages are handled meanwhile; all other requests of frontends
        wait, and so do methods of yours that are coroutines. In another thread of yours the call
        just waits.
        """
        return self._requests.ask_blocking(method, params, timeout)

    def on_request(self, method: str, function: Callable[[Any], Any]) -> None:
        """Let ``function`` answer the frontend's requests of that name.

        It is given the params (list, dict or None), and returns the result, or a coroutine for it;
        what it raises is the error that the frontend gets: a `CommRequestError` as it is, anything
        else as an internal error. ``on_msg`` still gets every message that is no JSON-RPC, and
        without any method here also JSON-RPC that does not answer a request of ours.
        """
        self._requests.methods[method] = function

    @property
    def pending(self) -> int:
        """Number of requests to the frontend that have not ended."""
        return self._requests.pending

    def disconnect(self, reason: str) -> None:
        """End all requests to the frontend with `CommDisconnected`."""
        self._requests.fail(reason)

    # --- what BaseComm calls ------------------------------------------------------------------

    def publish_msg(
        self,
        msg_type: str,
        data: Any = None,
        metadata: dict[str, Any] | None = None,
        buffers: list[bytes] | None = None,
        **keys: Any,
    ) -> None:
        kernel = manager().kernel
        if kernel is None:
            return  # no kernel (yet): as with ipykernel
        content = _clean({"data": {} if data is None else data, "comm_id": self.comm_id, **keys})
        kernel.session.send(
            kernel.iopub_socket,
            msg_type,
            content,
            parent=kernel.get_parent(),
            ident=self.topic,
            buffers=buffers,
            metadata=_clean(metadata or {}),
        )

    def handle_msg(self, msg: dict[str, Any]) -> None:
        from ...protocol import json_rpc

        received = json_rpc.parse(msg["content"].get("data"))
        if received is not None and self._requests.take(received, others=bool(self._msg_callback)):
            return
        if "IPython.core.interactiveshell" in sys.modules:
            super().handle_msg(msg)  # tells IPython's shell; to ask for that loads all of it
        elif self._msg_callback is not None:
            self._msg_callback(msg)

    def handle_close(self, msg: dict[str, Any]) -> None:
        self.disconnect("the frontend has closed the comm")
        super().handle_close(msg)

    def close(self, *args: Any, **kwargs: Any) -> None:
        super().close(*args, **kwargs)
        self.disconnect("the kernel has closed the comm")


class CommManager(BaseCommManager, LoggingConfigurable):
    """The open comms, and the targets that frontends can open.

    Attributes: ``kernel`` (None before there is one), ``endings`` (None where comms do not end
    with their subscribers).
    """

    # Traits, as ipykernel's manager has them: its users observe and configure it.
    comms: Any = Dict()
    targets: Any = Dict()

    def __init__(self, **traits: Any) -> None:
        BaseCommManager.__init__(self)
        LoggingConfigurable.__init__(self, **traits)
        self.kernel: Any = None
        self.endings: Endings | None = None
        self._persistent = {PERSISTENT}
        self._sessions: dict[str, str | None] = {}

    def adopt(self, kernel: Any) -> None:
        """Serve a kernel: its comm messages, and a plain manager that it made for itself."""
        self.kernel = kernel
        theirs = kernel.comm_manager
        if theirs is not self and _is_plain(theirs):
            self.targets.update(theirs.targets)
            self.comms.update(theirs.comms)
            theirs.targets, theirs.comms = self.targets, self.comms
        for name in COMM_MESSAGES:
            handler = kernel.shell_handlers.get(name)
            if handler is None or _is_plain(getattr(handler, "__self__", None)):
                kernel.shell_handlers[name] = getattr(self, name)

    def register_target(self, target_name: str, f: Any, persistent: bool = False) -> None:
        """Let frontends open comms on a target: ``f(comm, comm_open message)`` is called.

        Args:
            persistent: C3: its comms, and those that the kernel opens on it, stay when nobody
                listens any more.
        """
        super().register_target(target_name, f)
        (self._persistent.add if persistent else self._persistent.discard)(target_name)

    def is_persistent(self, comm: BaseComm) -> bool:
        """Tell whether ``comm`` stays when nobody listens (C3)."""
        own: bool | None = getattr(comm, "persistent", None)
        if own is not None:
            return own
        return any(fnmatchcase(comm.target_name, pattern) for pattern in self._persistent)

    def session_of(self, comm_id: str) -> str | None:
        """Return the id of the session that a comm belongs to."""
        return self._sessions.get(comm_id)

    def register_comm(self, comm: BaseComm) -> str:
        before = self.comms.get(comm.comm_id)
        if isinstance(before, Comm) and before is not comm:
            before.disconnect("another comm was opened under its id")
        # C4: whose comm_open this is, or in whose request the kernel opens it.
        parent = self.kernel.get_parent() if self.kernel is not None else {}
        session = parent.get("header", {}).get("session") if parent else None
        self._sessions[comm.comm_id] = session if isinstance(session, str) else None
        if self.endings is not None:
            self.endings.opened(comm)
        return super().register_comm(comm)

    def unregister_comm(self, comm: BaseComm) -> None:
        super().unregister_comm(comm)
        self._forget(comm.comm_id)

    def _forget(self, comm_id: str) -> None:
        self._sessions.pop(comm_id, None)
        if self.endings is not None:
            self.endings.closed(comm_id)

    # --- messages -----------------------------------------------------------------------------

    def comm_open(self, stream: Any, ident: Any, msg: dict[str, Any]) -> None:
        content = msg["content"]
        if not isinstance(content["comm_id"], str) or not isinstance(content["target_name"], str):
            raise TypeError("comm_open: comm_id or target_name is not a string")
        # C5: for an unknown target it opens the comm and closes it again.
        super().comm_open(stream, ident, msg)

    def comm_msg(self, stream: Any, ident: Any, msg: dict[str, Any]) -> None:
        comm_id = msg["content"]["comm_id"]
        if comm_id in self.comms:
            super().comm_msg(stream, ident, msg)
            return
        # C5: whoever sends it does not know that the comm is closed.
        log.warning("comm_msg to %r, which is no open comm, is answered by comm_close", comm_id)
        if self.kernel is not None and isinstance(comm_id, str):
            topic = f"comm-{comm_id}".encode()
            content = {"comm_id": comm_id, "data": {}}
            self.kernel.session.send(
                self.kernel.iopub_socket, "comm_close", content, parent=msg, ident=topic
            )

    def comm_close(self, stream: Any, ident: Any, msg: dict[str, Any]) -> None:
        comm_id = msg["content"]["comm_id"]
        if comm_id in self.comms:  # else it is closed already: both ends did it at once
            super().comm_close(stream, ident, msg)
            self._forget(comm_id)


def _is_plain(manager: object) -> bool:
    """Tell whether it is a manager as the packages have it; an author's subclass stays alone."""
    kind = type(manager)
    return (
        isinstance(manager, BaseCommManager)
        and not isinstance(manager, CommManager)
        and kind.__module__ in ("comm.base_comm", "ipykernel.comm.manager")
    )


_manager: CommManager | None = None


def manager() -> CommManager:
    """Return the process's manager."""
    global _manager
    if _manager is None:
        _manager = CommManager()
    return _manager


def create_comm(*arguments: Any, **options: Any) -> Comm:
    """Make a `Comm`; without ``primary=False`` it is opened at once."""
    return Comm(*arguments, **options)
