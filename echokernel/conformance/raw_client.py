"""A client that exchanges frames with a kernel, and fails when the kernel's answer is not exact.

Each wait has a deadline, in seconds. No other part of echokernel is used, see ``raw_messages``.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from typing import Any

import zmq

from .raw_messages import (
    BUSY,
    IDLE,
    STARTING,
    JsonObject,
    Message,
    PeerError,
    PeerTimeout,
    Published,
    build_message,
    endpoint,
    parent_id_of,
    parse_message,
)

DEADLINE = 20.0
"""Seconds; generous, since only a failure lasts this long."""

SECOND = 1000
"""Milliseconds, the unit of ZeroMQ's timeouts."""

Socket = zmq.Socket[bytes]


def receive_frames(sock: Socket, timeout: float = DEADLINE) -> list[bytes]:
    """Return the frames of the next message; PeerTimeout after ``timeout`` seconds."""
    if not sock.poll(int(timeout * SECOND)):
        raise PeerTimeout("a message", timeout)
    return sock.recv_multipart()


class RawClient:
    """A client of one kernel: shell, control, stdin and IOPub.

    Each method that receives takes the next message of its channel. A message that the caller did
    not expect there is a failure, never skipped.

    Args:
        context: creates the sockets; its owner closes it.
        connection: content of the kernel's connection file.
        topics: the IOPub subscriptions. The client waits for the welcome to each of them (W2).

    Raises PeerError if a welcome is missing or wrong.

    https://jupyter.org/enhancement-proposals/65-jupyter-xpub/jupyter-xpub.html
    """

    def __init__(
        self,
        context: zmq.Context[Socket],
        connection: Mapping[str, Any],
        topics: Iterable[bytes] = (b"",),
    ) -> None:
        self.key: str = connection["key"]
        self.session = uuid.uuid4().hex
        self.context = context
        self.connection = connection
        self.received_starting = False
        topics = tuple(topics)
        self.shell = self.connect("shell", zmq.DEALER)
        self.control = self.connect("control", zmq.DEALER)
        self.stdin = self.connect("stdin", zmq.DEALER)
        self.iopub = self.connect("iopub", zmq.SUB, topics)
        for topic in topics:
            self.expect_welcome(topic)

    def connect(self, channel: str, kind: int, topics: Iterable[bytes] = ()) -> Socket:
        """Return a socket that is connected to a channel.

        Args:
            channel: one of CHANNELS.
            kind: ``zmq.DEALER``, ``zmq.SUB`` or ``zmq.REQ``.
            topics: subscriptions. They precede the connection: the kernel welcomes each once (S1).
        """
        sock = self.context.socket(kind)
        sock.linger = 0
        if kind == zmq.DEALER:
            sock.identity = self.session.encode()
        for topic in topics:
            sock.subscribe(topic)
        sock.connect(endpoint(self.connection, channel))
        return sock

    def close(self) -> None:
        """Close the four sockets."""
        for sock in (self.shell, self.control, self.stdin, self.iopub):
            sock.close()

    # --- requests -------------------------------------------------------------------------------

    def send(self, msg_type: str, content: object, channel: str = "shell") -> str:
        """Send a message on shell, control or stdin; return its id."""
        msg_id, frames = build_message(msg_type, content, key=self.key, session=self.session)
        self._socket_of(channel).send_multipart(frames)
        return msg_id

    def execute(self, code: str, **content: object) -> str:
        """Send an ``execute_request``; return its id."""
        return self.send("execute_request", {"code": code, "silent": False, **content})

    def request(self, msg_type: str, content: object, channel: str = "shell") -> JsonObject:
        """Send a request that publishes busy and idle only (K4); return its reply's content."""
        msg_id = self.send(msg_type, content, channel)
        reply = self.receive_reply(msg_id, channel)
        reply_type = msg_type.replace("_request", "_reply")
        if reply["msg_type"] != reply_type:
            raise PeerError(f"a {reply_type}", reply)
        published = self.receive_until_idle(msg_id)
        if published != [BUSY, IDLE]:
            raise PeerError(f"busy and idle for a {msg_type}", published)
        reply_content: JsonObject = reply["content"]
        return reply_content

    def shut_down(self) -> None:
        """Send a ``shutdown_request`` and check its answers; PeerError if one is wrong."""
        answer = {"status": "ok", "restart": False}
        msg_id = self.send("shutdown_request", {"restart": False}, "control")
        reply = self.receive_reply(msg_id, "control")
        if reply["content"] != answer:
            raise PeerError(f"a reply with {answer}", reply)
        published = self.receive_until_idle(msg_id)
        if ("shutdown_reply", answer) not in published:
            raise PeerError("a shutdown_reply on IOPub", published)

    # --- answers --------------------------------------------------------------------------------

    def receive_on(self, channel: str, timeout: float = DEADLINE) -> Message:
        """Return the next message of a channel; PeerError if it is missing or malformed."""
        return parse_message(receive_frames(self._socket_of(channel), timeout), self.key)

    def receive_reply(
        self, msg_id: str, channel: str = "shell", timeout: float = DEADLINE
    ) -> Message:
        """Return the reply to a request; PeerError if the next message is another one."""
        reply = self.receive_on(channel, timeout)
        if parent_id_of(reply) != msg_id:
            raise PeerError(f"the reply to {msg_id}", reply)
        return reply

    def receive_publication(self, timeout: float = DEADLINE) -> Message:
        """Return the next message on IOPub.

        ``status: starting`` is skipped. Raises PeerError if it arrives twice, or belongs to a
        request (W5).
        """
        message = self.receive_on("iopub", timeout)
        if (message["msg_type"], message["content"]) != STARTING:
            return message
        if self.received_starting or message["parent_header"] != {}:
            raise PeerError("one status `starting`, with an empty parent header", message)
        self.received_starting = True
        return self.receive_publication(timeout)

    def receive_until_idle(self, msg_id: str, timeout: float = DEADLINE) -> list[Published]:
        """Return the messages that are published for a request, up to its idle status.

        Raises PeerError for a message that does not belong to this request. ``timeout`` is the
        longest wait for one message, in seconds.
        """
        published: list[Published] = []
        while not published or published[-1] != IDLE:
            message = self.receive_publication(timeout)
            if parent_id_of(message) != msg_id:
                raise PeerError(f"a message for {msg_id}", message)
            published.append((message["msg_type"], message["content"]))
        return published

    def expect_welcome(self, topic: bytes, timeout: float = DEADLINE) -> Message:
        """Return the welcome to a topic (W2).

        A subscriber of every topic receives the welcomes of other clients, too: these are skipped.
        Raises PeerError for any other message, and for a wrong topic frame or parent header.
        """
        content = {"subscription": topic.decode()}
        while True:
            message = self.receive_publication(timeout)
            if message["msg_type"] != "iopub_welcome":
                raise PeerError(f"the welcome to {topic!r}", message)
            if message["content"] == content:
                break
        if message["topics"] != ([topic] if topic else []) or message["parent_header"] != {}:
            raise PeerError(f"a welcome on the topic {topic!r}, without a parent", message)
        return message

    def expect_nothing_unread(self) -> None:
        """Raise PeerError if a message is unread.

        A round trip on shell and control delivers the messages that are on their way.
        """
        self.request("kernel_info_request", {})
        self.request("kernel_info_request", {}, "control")
        if self.stdin.poll(0):
            raise PeerError("no message on stdin", self.stdin.recv_multipart())

    def _socket_of(self, channel: str) -> Socket:
        sockets = {
            "shell": self.shell,
            "control": self.control,
            "stdin": self.stdin,
            "iopub": self.iopub,
        }
        return sockets[channel]
