"""Comms to play and test with, on the echo kernel's targets ``echo`` and ``echo.persistent``.

What is no JSON-RPC comes back as it is; the methods are those below. An example of what
`comms.Comm` can do, for the file you change.
"""

from __future__ import annotations

from typing import Any

from .protocol.errors import CommDisconnected, CommRequestError
from .runtime.comms.manager import Comm, CommManager

TARGETS = {"echo": False, "echo.persistent": True}
"""Name -> whether it is persistent."""


class EchoComm:
    """One comm's conversation."""

    def __init__(self, comm: Comm, message: dict[str, Any]) -> None:
        self.comm = comm
        self.failed: list[dict[str, str]] = []
        comm.on_msg(self.say_back)
        for method in (self.echo, self.ask, self.status):
            comm.on_request(method.__name__, method)

    def say_back(self, message: dict[str, Any]) -> None:
        """Send back what is no JSON-RPC."""
        self.comm.send(message["content"].get("data"), buffers=message["buffers"])

    def echo(self, params: Any) -> Any:
        """Return the params."""
        return params

    async def ask(self, params: Any) -> Any:
        """Send the frontend a request ``answer`` with these params; return its answer."""
        try:
            return await self.comm.request("answer", params)
        except CommDisconnected as error:
            self.failed.append({"method": "answer", "reason": error.reason})
            raise

    def status(self, params: Any) -> dict[str, Any]:
        """Tell how many requests to the frontend are pending, and which have failed."""
        from .protocol.json_rpc import INVALID_PARAMS

        if params:
            raise CommRequestError(INVALID_PARAMS, "status takes no params")
        return {"pending": self.comm.pending, "failed": self.failed}


def offer(comms: CommManager) -> None:
    """Register the targets."""
    for target, persistent in TARGETS.items():
        comms.register_target(target, EchoComm, persistent=persistent)
