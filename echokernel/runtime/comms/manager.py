"""Comms as the ``comm`` package defines them, with requests (C5, C6); the adapter for ``comm``.

`Comm` is what ``comm.create_comm`` makes and what a target's function gets; `CommManager` is what
``comm.get_comm_manager()`` returns. `lifecycle` decides what ends when a subscriber disconnects.
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
    from .requests import CommHost

# A kernel starts faster without the modules that only an open comm needs: see the imports below.

PERSISTENT_TARGETS = "jupyter.widget*"
"""Targets of ipywidgets. Their models are state that outlives the view (C3)."""

log = logging.getLogger("echokernel")

_clean: Any = json_clean  # untyped


class Comm(BaseComm):
    """The kernel's end of a comm.

    Args:
        persistent: whether the comm stays without a subscriber (C3). None: as its target says.

    For the other arguments see ``comm.base_comm.BaseComm``.
    """

    def __init__(self, *args: Any, persistent: bool | None = None, **kwargs: Any) -> None:
        from .requests import Requests

        self.persistent = persistent
        self._requests = Requests(self)
        comm_id = kwargs.get("comm_id")
        if comm_id and not kwargs.get("topic"):
            kwargs["topic"] = f"comm-{comm_id}".encode()  # BaseComm accepts ASCII only
        super().__init__(*args, **kwargs)

    @property
    def session(self) -> str | None:
        """The id of the session to which the comm belongs (C4); None: no session."""
        return get_manager().session_of(self.comm_id)

    @property
    def host(self) -> CommHost | None:
        """The running kernel; None before it runs."""
        return get_manager().host

    @property
    def is_closed(self) -> bool:
        return self._closed

    # --- requests -----------------------------------------------------------------------------

    async def request(self, method: str, params: Any = None, timeout: float | None = None) -> Any:
        """Send a request to the frontend; return its result (C6).

        Comm messages are handled meanwhile, also while a cell awaits this.

        Args:
            method: name of the frontend's method.
            params: list or dict, JSON; None: no parameters.
            timeout: seconds; None: until a response arrives, or no client can send one.

        Raises:
            CommDisconnected: no client is left that could respond, or the comm or the kernel ends.
            CommRequestError: the frontend responded with an error.
            CommTimeout: no response within ``timeout``.
        """
        return await self._requests.send(method, params, timeout)

    def request_blocking(
        self, method: str, params: Any = None, timeout: float | None = None
    ) -> Any:
        """Do the same for code that cannot await, such as a plain ``do_execute``.

        On the main thread comm messages are handled meanwhile. All other requests wait, and so do
        your methods that are coroutines. On another thread the call only waits.
        """
        return self._requests.send_blocking(method, params, timeout)

    def on_request(self, method: str, function: Callable[[Any], Any]) -> None:
        """Let ``function`` answer the frontend's requests of that name.

        Args:
            method: name that the frontend calls.
            function: gets the params (list, dict or None); returns the result, or a coroutine for
                it. A `CommRequestError` that it raises is sent as it is, any other exception as an
                internal error.

        ``on_msg`` still gets every message that is not JSON-RPC. Without any method it also gets
        JSON-RPC messages that do not respond to a request of the kernel.
        """
        self._requests.methods[method] = function

    @property
    def pending(self) -> int:
        """Number of requests to the frontend that have not ended."""
        return self._requests.pending

    def disconnect(self, reason: str) -> None:
        """End all requests to the frontend with `CommDisconnected`."""
        self._requests.fail(reason)

    # --- called by BaseComm ---------------------------------------------------------------------

    def publish_msg(
        self,
        msg_type: str,
        data: Any = None,
        metadata: dict[str, Any] | None = None,
        buffers: list[bytes] | None = None,
        **keys: Any,
    ) -> None:
        host = self.host
        if host is None:
            return  # no kernel (yet): the same as with ipykernel
        content = _clean({"data": {} if data is None else data, "comm_id": self.comm_id, **keys})
        host.publish(
            msg_type, content, self.topic, buffers=buffers, metadata=_clean(metadata or {})
        )

    def handle_msg(self, msg: dict[str, Any]) -> None:
        from ...protocol import json_rpc

        received = json_rpc.parse(msg["content"].get("data"))
        has_callback = bool(self._msg_callback)
        if received is not None and self._requests.handle(received, has_callback):
            return
        if "IPython.core.interactiveshell" in sys.modules:
            super().handle_msg(msg)  # informs IPython's shell; asking for it would load all of it
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

    Attributes: ``host`` (the running kernel; None before it runs).
    """

    # Traits, as in ipykernel's manager: its users observe and configure them.
    comms: Any = Dict()
    targets: Any = Dict()

    def __init__(self, **traits: Any) -> None:
        BaseCommManager.__init__(self)
        LoggingConfigurable.__init__(self, **traits)
        self.host: CommHost | None = None
        self._persistent = {PERSISTENT_TARGETS}
        self._sessions: dict[str, str | None] = {}

    def serve(self, kernel: Any, host: CommHost) -> None:
        """Handle a kernel's comm messages, also for a plain manager that it made for itself.

        Args:
            kernel: any ipykernel kernel.
            host: what comms need from it.
        """
        self.host = host
        other = kernel.comm_manager
        if other is not self and _is_plain(other):
            self.targets.update(other.targets)
            self.comms.update(other.comms)
            other.targets, other.comms = self.targets, self.comms
        for name in COMM_MESSAGES:
            handler = kernel.shell_handlers.get(name)
            if handler is None or _is_plain(getattr(handler, "__self__", None)):
                kernel.shell_handlers[name] = getattr(self, name)
        for comm in self.comms.values():
            host.opened(comm)

    def register_target(self, target_name: str, f: Any, persistent: bool = False) -> None:
        """Let frontends open comms on a target.

        Args:
            target_name: name of the target.
            f: called with the comm and the ``comm_open`` message.
            persistent: whether its comms, and those that the kernel opens on it, stay without a
                subscriber (C3).
        """
        super().register_target(target_name, f)
        (self._persistent.add if persistent else self._persistent.discard)(target_name)

    def is_persistent(self, comm: BaseComm) -> bool:
        """Return True if ``comm`` stays without a subscriber (C3)."""
        own: bool | None = getattr(comm, "persistent", None)
        if own is not None:
            return own
        return any(fnmatchcase(comm.target_name, pattern) for pattern in self._persistent)

    def session_of(self, comm_id: str) -> str | None:
        """Return the id of the session to which a comm belongs."""
        return self._sessions.get(comm_id)

    def register_comm(self, comm: BaseComm) -> str:
        before = self.comms.get(comm.comm_id)
        if isinstance(before, Comm) and before is not comm:
            before.disconnect("another comm was opened under its id")
        # C4: the session that sent the comm_open, or in whose request the kernel opens the comm.
        self._sessions[comm.comm_id] = self.host.requesting_session if self.host else None
        if self.host is not None:
            self.host.opened(comm)
        return super().register_comm(comm)

    def unregister_comm(self, comm: BaseComm) -> None:
        super().unregister_comm(comm)
        self._forget(comm.comm_id)

    def _forget(self, comm_id: str) -> None:
        self._sessions.pop(comm_id, None)
        if self.host is not None:
            self.host.closed(comm_id)

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
        # C5: the sender does not know yet that the comm is closed.
        log.warning("comm_msg to %r, which is not an open comm, is answered by comm_close", comm_id)
        if self.host is not None and isinstance(comm_id, str):
            content = {"comm_id": comm_id, "data": {}}
            self.host.publish("comm_close", content, f"comm-{comm_id}".encode(), parent=msg)

    def comm_close(self, stream: Any, ident: Any, msg: dict[str, Any]) -> None:
        comm_id = msg["content"]["comm_id"]
        if comm_id in self.comms:  # otherwise both ends have closed it at the same time
            super().comm_close(stream, ident, msg)
            self._forget(comm_id)


def _is_plain(manager: object) -> bool:
    """Return True for a manager of the upstream packages; an author's subclass is not plain."""
    kind = type(manager)
    return (
        isinstance(manager, BaseCommManager)
        and not isinstance(manager, CommManager)
        and kind.__module__ in ("comm.base_comm", "ipykernel.comm.manager")
    )


_manager: CommManager | None = None


def get_manager() -> CommManager:
    """Return the process's manager."""
    global _manager
    if _manager is None:
        _manager = CommManager()
    return _manager


def create_comm(*arguments: Any, **options: Any) -> Comm:
    """Make a `Comm`; without ``primary=False`` it is opened immediately."""
    return Comm(*arguments, **options)
