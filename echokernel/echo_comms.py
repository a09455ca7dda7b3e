"""Comms to try out and to test with, on the echo kernel's targets ``echo`` and ``echo.persistent``.

A message that is not JSON-RPC is echoed; the methods are those of `EchoComm`. An example of what
`echokernel.Comm` can do, for the file you change.
"""

from __future__ import annotations

from typing import Any

from echokernel import Comm, CommDisconnected, CommManager, CommRequestError

TARGETS = {"echo": False, "echo.persistent": True}
"""Name -> whether it is persistent."""

INVALID_PARAMS = -32602  # https://www.jsonrpc.org/specification#error_object


class EchoComm:
    """The conversation on one comm."""

    def __init__(self, comm: Comm, message: dict[str, Any]) -> None:
        self.comm = comm
        self.failed: list[dict[str, str]] = []
        comm.on_msg(self.echo_message)
        for method in (self.echo, self.ask, self.status):
            comm.on_request(method.__name__, method)

    def echo_message(self, message: dict[str, Any]) -> None:
        """Send back a message that is not JSON-RPC."""
        self.comm.send(message["content"].get("data"), buffers=message["buffers"])

    def echo(self, params: Any) -> Any:
        """Return the params."""
        return params

    async def ask(self, params: Any) -> Any:
        """Send the frontend a request ``answer`` with these params; return its result."""
        try:
            return await self.comm.request("answer", params)
        except CommDisconnected as error:
            self.failed.append({"method": "answer", "reason": error.reason})
            raise

    def status(self, params: Any) -> dict[str, Any]:
        """Return the number of pending requests to the frontend, and those that failed."""
        if params:
            raise CommRequestError(INVALID_PARAMS, "status takes no params")
        return {"pending": self.comm.pending, "failed": self.failed}


def register_targets(comms: CommManager) -> None:
    """Register the targets."""
    for target, persistent in TARGETS.items():
        comms.register_target(target, EchoComm, persistent=persistent)
