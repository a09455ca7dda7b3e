"""jupyter_server's end of a kernel: websockets that are open when they hear (JEP 65).

By configuration of jupyter_server (2.x), JupyterLab or Notebook::

    ServerApp.kernel_websocket_connection_class = "echokernel.websocket.WelcomeWebsocketConnection"
    MappingKernelManager.kernel_manager_class = "echokernel.websocket.WelcomeServerKernelManager"

The server holds back what a frontend sends until its websocket is open. jupyter_server *nudges*
until then: it sends ``kernel_info_request`` until something comes on IOPub, throws that away, and
does not wait at all if the kernel is busy. Here a welcome is the proof, also of a busy kernel,
and after a restart; kernels that promise none are nudged as ever.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any

from jupyter_client.ioloop.manager import as_zmqstream
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from jupyter_server.services.kernels.kernelmanager import ServerKernelManager
from traitlets import Float

from .client import WelcomeManagerMixin
from .protocol.readiness import promises_welcome
from .protocol.subscriptions import WELCOME
from .protocol.wire import DELIMITER

Frames = list[bytes]


class WelcomeServerKernelManager(WelcomeManagerMixin, ServerKernelManager):
    """jupyter_server's kernel manager, whose IOPub sockets subscribe before they connect (S1)."""

    connect_iopub = as_zmqstream(WelcomeManagerMixin.connect_iopub)


class WelcomeWebsocketConnection(ZMQChannelsWebsocketConnection):
    """jupyter_server's websocket connection, open as soon as its subscription is welcomed."""

    welcome_timeout = Float(
        0.5,
        help="Seconds to wait for the welcome of a kernel that promises one, before it is nudged.",
    ).tag(config=True)

    def create_stream(self) -> None:
        """Connect to the kernel's channels."""
        super().create_stream()  # type: ignore[no-untyped-call]
        # jupyter_server connects by the page's session id, and a page that comes back has it again:
        # replies and prompts that are due find it. But its old socket, closed, would stay for its
        # linger (1 s) to deliver what it was given while the kernel restarted. Of two with one
        # identity a ROUTER hears the last that connected, and the other never again: cells stay at
        # [*] until the page is loaded anew.
        for channel in ("shell", "control", "stdin"):
            self.channels[channel].socket.linger = 0

    def nudge(self) -> asyncio.Future[None]:
        """Return what is done when the kernel's publications reach the frontend.

        Nothing that comes meanwhile is lost: the frontend gets it first.
        """
        if not self._welcome_is_promised():
            nudged: asyncio.Future[None] = super().nudge()
            return nudged
        held: list[Frames] = []
        iopub = self.channels["iopub"]
        connected = asyncio.ensure_future(self._hear_welcome(iopub, held))

        def hand_over() -> None:
            for frames in held:
                if not iopub.closed():
                    self.handle_outgoing_message(iopub, frames)

        # One step later: the server's own callbacks, which are yet to be added, replay what was
        # sent while the frontend was away, and then let new messages pass.
        connected.add_done_callback(lambda _: asyncio.get_running_loop().call_soon(hand_over))
        return connected

    def _welcome_is_promised(self) -> bool:
        manager = self.kernel_manager
        known = getattr(manager, "_kernel_info_future", None)  # asked when a frontend first came
        info = known.result() if known is not None and known.done() else {}
        # ipykernel 7.4 says 5.5 in its kernelspec and 5.3 in its reply; and it does welcome.
        said = getattr(manager.kernel_spec, "kernel_protocol_version", None)
        return promises_welcome(info) or promises_welcome({"protocol_version": said})

    async def _hear_welcome(self, iopub: Any, held: list[Frames]) -> None:
        """Wait for a welcome; put everything else that comes into ``held``."""
        # A topic of its own: many kernels welcome only the first subscriber of a topic. And the
        # socket may be an old one, of a page that is loaded anew, or of before a restart: its
        # subscriptions were welcomed long ago, or of a kernel that is no more.
        topic = f"websocket.{uuid.uuid4()}"
        welcomed = asyncio.get_running_loop().create_future()

        def on_recv(frames: Frames) -> None:
            if _subscription(frames) != topic:
                held.append(frames)
            elif not welcomed.done():
                welcomed.set_result(None)

        iopub.on_recv(on_recv)
        iopub.socket.subscribe(topic)
        try:
            await asyncio.wait_for(welcomed, self.welcome_timeout)
        except asyncio.TimeoutError:
            self.log.debug("no welcome from kernel %s", self.kernel_id)
            if not iopub.closed():
                await super().nudge()
        finally:
            if not iopub.closed():
                iopub.socket.unsubscribe(topic)


def _subscription(frames: Frames) -> str | None:
    """Return the topic that a message welcomes; None if it is no welcome."""
    try:
        _, _, header, _, _, content, *_ = frames[frames.index(DELIMITER) :]
        # The quick way first: this sees every message until the welcome.
        if WELCOME.encode() not in header:
            return None
        said = json.loads(content)
    except ValueError:
        return None  # for whoever receives it later to complain about
    return said.get("subscription") if isinstance(said, dict) else None
