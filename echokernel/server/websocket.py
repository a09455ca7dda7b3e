"""jupyter_server's end of a kernel: websockets that are open when they hear (JEP 65).

By configuration of jupyter_server (2.x), JupyterLab or Notebook::

    ServerApp.kernel_websocket_connection_class = "echokernel.server.WelcomeWebsocketConnection"
    MappingKernelManager.kernel_manager_class = "echokernel.server.WelcomeServerKernelManager"

The server holds back what a frontend sends until its websocket is open. jupyter_server *nudges*
until then: it sends ``kernel_info_request`` until something comes on IOPub, throws that away, and
does not wait at all if the kernel is busy. Here a welcome is the proof, also of a busy kernel,
and after a restart; kernels that promise none are nudged as ever.

A page that comes back, as JupyterLab's do after each restart of their kernel, finds the sockets
that it had, and what they have received meanwhile.
"""

from __future__ import annotations

import asyncio
import json
import uuid
from typing import Any, ClassVar

from jupyter_client.ioloop.manager import as_zmqstream
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection
from jupyter_server.services.kernels.kernelmanager import ServerKernelManager
from traitlets import Float
from zmq.eventloop.zmqstream import ZMQStream

from ..client.clients import WelcomeManagerMixin
from ..protocol.readiness import promises_welcome
from ..protocol.subscriptions import WELCOME
from ..protocol.wire import DELIMITER

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

    return_time = Float(
        2.0,
        help="Seconds for which the sockets of a page that has left wait for it to come back.",
    ).tag(config=True)

    def connect(self) -> asyncio.Future[None] | None:  # type: ignore[override]
        """Let the frontend in; returns what is done when it hears."""
        connected: asyncio.Future[None] | None = super().connect()
        if connected is not None:
            # What the server kept of the last page may lack what a newer connection had taken.
            self.create_stream()
        return connected

    def create_stream(self) -> None:
        """Connect to the kernel's channels that it lacks; a page that comes back finds its own."""
        for channel in ("iopub", "shell", "control", "stdin"):
            if channel in self.channels:
                continue
            page = (self.session_key, channel)
            port = getattr(self.kernel_manager, f"{channel}_port")
            stream = _PageStream.find(page, port)
            if stream is None:
                connect = getattr(self.kernel_manager, f"connect_{channel}")
                # By the page's session id, as jupyter_server does: what is due to it finds it.
                stream = connect(identity=self.session.bsession)
                if channel != "iopub":
                    stream = _PageStream(stream, page, port, self.return_time)
            if isinstance(stream, _PageStream):
                stream.take(self.channels)
            stream.channel = channel
            self.channels[channel] = stream

    @classmethod
    async def close_all(cls) -> None:
        """The server ends."""
        await super().close_all()  # type: ignore[no-untyped-call]
        for stream in list(_PageStream.open.values()):
            if stream.has_left:
                stream.end()

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


class _PageStream(ZMQStream):
    """Shell, control or stdin of one page. Closed, it waits for the page to come back.

    Never is there a second socket of one identity beside it. Of two, a ROUTER hears the one that
    connected last, and the other never again: the page's cells would stay at [*] until it is
    loaded anew. While its kernel restarts, the old one may well be the last, also if it was
    closed before: libzmq closes in the background and goes on reconnecting meanwhile.

    Args:
        stream: what it takes the place of.
        page: session key and channel.
        port: to which it is connected.
        return_time: seconds.
    """

    open: ClassVar[dict[tuple[str, str], _PageStream]] = {}

    def __init__(
        self, stream: ZMQStream, page: tuple[str, str], port: int, return_time: float
    ) -> None:
        stream.io_loop.remove_handler(stream.socket)
        super().__init__(stream.socket, stream.io_loop)
        self._page = page
        self._port = port
        self._return_time = return_time
        self._channels: dict[str, Any] = {}
        self._ending: object | None = None
        self.channel = page[1]
        self.open[page] = self

    @classmethod
    def find(cls, page: tuple[str, str], port: int) -> _PageStream | None:
        """Return the page's stream if it leads to this port."""
        found = cls.open.get(page)
        if found is None or (found._port == port and not found.closed()):
            return found
        found.end()
        return None

    @property
    def has_left(self) -> bool:
        """Whether its page is gone, and may come back."""
        return self._ending is not None

    def take(self, channels: dict[str, Any]) -> None:
        """The page is here, or here again: the stream goes into its channels.

        Out of those of a connection that the server has not yet seen closed; it would close what
        it has.
        """
        self._channels.pop(self.channel, None)
        self._channels = channels
        self._stay()

    def _stay(self) -> None:
        if self._ending is not None:
            self.io_loop.remove_timeout(self._ending)
            self._ending = None

    def close(self, linger: int | None = None) -> None:
        """The page has left; what comes for it now stays in the socket."""
        if self.socket is None or self.socket.closed:  # by others, with its context
            self.end()
        elif self._ending is None:
            self.on_recv(None)
            self._ending = self.io_loop.call_later(self._return_time, self.end)

    def end(self) -> None:
        """Close the socket; what it could not deliver is dropped."""
        self._stay()
        if self.open.get(self._page) is self:
            del self.open[self._page]
        super().close(linger=0)


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
