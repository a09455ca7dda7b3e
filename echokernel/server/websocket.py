"""jupyter_server's websocket and kernel manager, extended by the welcome (JEP 65).

Set by configuration of jupyter_server (2.x), JupyterLab or Notebook::

    ServerApp.kernel_websocket_connection_class = "echokernel.server.WelcomeWebsocketConnection"
    MappingKernelManager.kernel_manager_class = "echokernel.server.WelcomeServerKernelManager"

The server holds back messages of the frontend until `nudge` is done. jupyter_server's `nudge` sends
``kernel_info_request`` until an IOPub message arrives and discards that message. It does not wait
at all for a busy kernel. Here the welcome proves the subscription, also of a busy kernel and after
a restart. Kernels that promise no welcome are nudged as in jupyter_server.

A browser tab that reconnects, as JupyterLab's tabs do after each restart of their kernel, gets the
sockets that it had, with the messages that they have received in the meantime.

This module is the adapter for jupyter_server's private and undocumented names:
``_kernel_info_future``, ``create_stream``, ``channels``, ``session_key``, and the order of the
callbacks on the future that `nudge` returns.
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
    """jupyter_server's kernel manager; its IOPub sockets subscribe before they connect (S1)."""

    connect_iopub = as_zmqstream(WelcomeManagerMixin.connect_iopub)


class WelcomeWebsocketConnection(ZMQChannelsWebsocketConnection):
    """jupyter_server's websocket connection; it opens when its subscription is welcomed."""

    welcome_timeout = Float(
        0.5,
        help="Seconds to wait for the welcome of a kernel that promises one; after that the kernel"
        " is nudged as in jupyter_server.",
    ).tag(config=True)

    resume_timeout = Float(
        2.0,
        help="Seconds for which the sockets of a disconnected browser tab are kept for it.",
    ).tag(config=True)

    def connect(self) -> asyncio.Future[None] | None:  # type: ignore[override]
        """Connect the websocket to the kernel; the future is done when the frontend is let in."""
        connected: asyncio.Future[None] | None = super().connect()
        if connected is not None:
            # jupyter_server restores the channels of the tab's previous connection. A newer
            # connection of the same tab may have taken some of them.
            self.create_stream()
        return connected

    def create_stream(self) -> None:
        """Create the missing channels. A tab that reconnects gets its previous streams."""
        for channel in ("iopub", "shell", "control", "stdin"):
            if channel in self.channels:
                continue
            key = (self.session_key, channel)
            port = getattr(self.kernel_manager, f"{channel}_port")
            stream = ResumableStream.find(key, port)
            if stream is None:
                connect = getattr(self.kernel_manager, f"connect_{channel}")
                # The tab's session id as identity, as in jupyter_server: the kernel routes
                # replies by it.
                stream = connect(identity=self.session.bsession)
                if channel != "iopub":
                    stream = ResumableStream(stream, key, port, self.resume_timeout)
            if isinstance(stream, ResumableStream):
                stream.attach(self.channels)
            stream.channel = channel
            self.channels[channel] = stream

    @classmethod
    async def close_all(cls) -> None:
        """Close all connections and the streams that are kept; the server calls this at its end."""
        await super().close_all()  # type: ignore[no-untyped-call]
        for stream in list(ResumableStream.open_streams.values()):
            if stream.is_detached:
                stream.close_socket()

    def nudge(self) -> asyncio.Future[None]:
        """Return a future that is done when the kernel's IOPub messages reach the frontend.

        The frontend receives all messages that arrive until then, in order.
        """
        if not self._promises_welcome():
            nudged: asyncio.Future[None] = super().nudge()
            return nudged
        deferred: list[Frames] = []
        iopub = self.channels["iopub"]
        connected = asyncio.ensure_future(self._wait_for_welcome(iopub, deferred))

        def forward() -> None:
            for frames in deferred:
                if not iopub.closed():
                    self.handle_outgoing_message(iopub, frames)

        # One step later: jupyter_server adds its own callbacks to this future after `nudge` has
        # returned. They replay what was published while the frontend was disconnected, which must
        # come first.
        connected.add_done_callback(lambda _: asyncio.get_running_loop().call_soon(forward))
        return connected

    def _promises_welcome(self) -> bool:
        manager = self.kernel_manager
        # jupyter_server asks for it when the first frontend connects.
        info_future = getattr(manager, "_kernel_info_future", None)
        info = info_future.result() if info_future is not None and info_future.done() else {}
        # ipykernel 7.4 welcomes. It advertises 5.5 in its kernelspec, but 5.3 in its reply.
        version = manager.kernel_spec.kernel_protocol_version
        return promises_welcome(info) or promises_welcome({"protocol_version": version})

    async def _wait_for_welcome(self, iopub: Any, deferred: list[Frames]) -> None:
        """Wait for the welcome; append all other messages that arrive to ``deferred``."""
        # A new topic, for two reasons. Many kernels welcome only the first subscriber of a topic.
        # And the socket can be older than this connection (a reloaded tab, a restarted kernel), so
        # that its other subscriptions are welcomed already.
        topic = f"websocket.{uuid.uuid4()}"
        welcomed = asyncio.get_running_loop().create_future()

        def on_recv(frames: Frames) -> None:
            if _welcomed_topic(frames) != topic:
                deferred.append(frames)
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


class ResumableStream(ZMQStream):
    """The shell, control or stdin stream of one browser tab. `close` keeps it for a while.

    There is never a second socket with the same identity. A ROUTER sends to only one of two such
    peers, and the cells of the other tab would stay at [*] until it is reloaded. A closed socket
    can still be that peer while its kernel restarts: libzmq closes sockets in the background and
    keeps reconnecting until then.

    Args:
        stream: the stream that this one replaces; its socket is taken over.
        key: session key and channel.
        port: the port that the socket is connected to.
        resume_timeout: seconds to keep the socket after `close`.
    """

    open_streams: ClassVar[dict[tuple[str, str], ResumableStream]] = {}

    def __init__(
        self, stream: ZMQStream, key: tuple[str, str], port: int, resume_timeout: float
    ) -> None:
        stream.io_loop.remove_handler(stream.socket)
        super().__init__(stream.socket, stream.io_loop)
        self._key = key
        self._port = port
        self._resume_timeout = resume_timeout
        self._channels: dict[str, Any] = {}
        self._expiry: object | None = None
        self.channel = key[1]
        self.open_streams[key] = self

    @classmethod
    def find(cls, key: tuple[str, str], port: int) -> ResumableStream | None:
        """Return the tab's open stream, or None. A stream to another port is closed.

        Args:
            key: session key and channel.
            port: the current port of the channel.
        """
        stream = cls.open_streams.get(key)
        if stream is None or (stream._port == port and not stream.closed()):
            return stream
        stream.close_socket()
        return None

    @property
    def is_detached(self) -> bool:
        """True if the tab has disconnected and can still resume the stream."""
        return self._expiry is not None

    def attach(self, channels: dict[str, Any]) -> None:
        """Move the stream to the channels of the connection that uses it now.

        The previous connection may not have been closed yet. Its channels must not contain the
        stream, because the server closes all of them.
        """
        self._channels.pop(self.channel, None)
        self._channels = channels
        self._cancel_expiry()

    def _cancel_expiry(self) -> None:
        if self._expiry is not None:
            self.io_loop.remove_timeout(self._expiry)
            self._expiry = None

    def close(self, linger: int | None = None) -> None:
        """Detach the stream from its tab; messages for the tab stay in the socket."""
        if self.socket is None or self.socket.closed:  # The context has closed the socket.
            self.close_socket()
        elif self._expiry is None:
            self.on_recv(None)
            self._expiry = self.io_loop.call_later(self._resume_timeout, self.close_socket)

    def close_socket(self) -> None:
        """Close the socket and drop the messages that it holds."""
        self._cancel_expiry()
        if self.open_streams.get(self._key) is self:
            del self.open_streams[self._key]
        super().close(linger=0)


def _welcomed_topic(frames: Frames) -> str | None:
    """Return the topic of a welcome, or None if the message is not a welcome."""
    try:
        _, _, header, _, _, content, *_ = frames[frames.index(DELIMITER) :]
        # This runs for every message until the welcome, so JSON is parsed only if needed.
        if WELCOME.encode() not in header:
            return None
        parsed = json.loads(content)
    except ValueError:
        return None  # The reader of the message reports the fault.
    return parsed.get("subscription") if isinstance(parsed, dict) else None
