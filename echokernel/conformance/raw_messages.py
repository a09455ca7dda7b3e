"""Jupyter messages as frames, written from the messaging documentation alone.

Nothing of echokernel is imported here: a mistake in its wire code must not be repeated by the code
that checks it. No sockets either, see ``raw_client`` and ``raw_launcher``.

https://jupyter-client.readthedocs.io/en/latest/messaging.html, "The Wire Protocol"
"""

from __future__ import annotations

import hashlib
import hmac
import json
import uuid
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import Any, TypedDict

DELIMITER = b"<IDS|MSG>"
"""The frame between routing identities (or the topic) and the signed part of a message."""

CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
PROTOCOL_VERSION = "5.6"

JsonObject = dict[str, Any]

Published = tuple[str, JsonObject]
"""Type and content of a message on IOPub."""

BUSY: Published = ("status", {"execution_state": "busy"})
IDLE: Published = ("status", {"execution_state": "idle"})
STARTING: Published = ("status", {"execution_state": "starting"})

MAX_SHOWN = 500
"""Characters of the received value that an error shows."""


class PeerError(AssertionError):
    """A peer has not sent the message that the documentation, or the caller, requires.

    Attributes:
        expected: the requirement, as a phrase.
        received: the value that arrived instead; None if nothing arrived.
    """

    def __init__(self, expected: str, received: object = None) -> None:
        self.expected = expected
        self.received = received
        shown = repr(received)
        if len(shown) > MAX_SHOWN:
            shown = f"{shown[:MAX_SHOWN]}... ({len(shown)} characters)"
        super().__init__(f"expected {expected}; received {shown}")


class PeerTimeout(PeerError):
    """Nothing arrived within ``timeout`` seconds."""

    def __init__(self, expected: str, timeout: float) -> None:
        self.timeout = timeout
        super().__init__(f"{expected} within {timeout} s")


class Message(TypedDict):
    """A received message.

    The four JSON frames are as they were sent: JSON ``null`` is None.
    """

    topics: list[bytes]
    """The frames in front of the delimiter: the topic on IOPub, identities elsewhere."""
    header: JsonObject
    msg_type: str
    parent_header: Any
    metadata: Any
    content: Any
    buffers: list[bytes]


def sign(key: str, *frames: bytes) -> bytes:
    """Return the lower-case hex HMAC-SHA256 of ``frames``; empty for an empty key."""
    if not key:
        return b""
    return hmac.new(key.encode(), b"".join(frames), hashlib.sha256).hexdigest().encode()


def sign_frames(key: str, *frames: bytes) -> list[bytes]:
    """Return delimiter, signature and ``frames``.

    Four frames are a Jupyter message. One frame is a registration or a receipt in the signed-frame
    form of the handshake.
    """
    return [DELIMITER, sign(key, *frames), *frames]


def build_message(
    msg_type: str,
    content: object,
    *,
    key: str,
    session: str = "raw-client",
    parent: Mapping[str, Any] | None = None,
    header: Mapping[str, Any] | None = None,
) -> tuple[str, list[bytes]]:
    """Return (msg_id, frames) of a signed message without identities and buffers.

    Args:
        msg_type: for example ``execute_request``.
        content: a value that JSON can express.
        key: the connection's key; empty for unsigned messages.
        session: session id of the sender.
        parent: header of the request that the message belongs to; None for ``{}``.
        header: keys of the header that are added or replaced.
    """
    msg_id = uuid.uuid4().hex
    head = {
        "msg_id": msg_id,
        "msg_type": msg_type,
        "session": session,
        "username": "raw-client",
        "date": datetime.now(timezone.utc).isoformat(),
        "version": PROTOCOL_VERSION,
        **(header or {}),
    }
    parts = [json.dumps(part).encode() for part in (head, parent or {}, {}, content)]
    return msg_id, sign_frames(key, *parts)


def parse_message(frames: Sequence[bytes], key: str) -> Message:
    """Return a received message.

    Raises PeerError for a missing delimiter or frame, a wrong signature, a frame that is not JSON,
    and a header without ``msg_type``.
    """
    if DELIMITER not in frames:
        raise PeerError("a message with a delimiter", list(frames))
    start = list(frames).index(DELIMITER)
    if len(frames) < start + 6:
        raise PeerError("signature, header, parent header, metadata and content", list(frames))
    signature, *parts = frames[start + 1 : start + 6]
    if not hmac.compare_digest(signature, sign(key, *parts)):
        raise PeerError("a message that is signed with the connection's key", list(frames))
    header, parent_header, metadata, content = map(parse_json, parts)
    if not isinstance(header, dict) or not isinstance(header.get("msg_type"), str):
        raise PeerError("a header with a msg_type", header)
    return {
        "topics": list(frames[:start]),
        "header": header,
        "msg_type": header["msg_type"],
        "parent_header": parent_header,
        "metadata": metadata,
        "content": content,
        "buffers": list(frames[start + 6 :]),
    }


def parse_json(frame: bytes) -> Any:
    """Return the value of a JSON frame; PeerError if the frame is not UTF-8 JSON."""
    try:
        return json.loads(frame.decode())  # json.loads alone also accepts UTF-16
    except ValueError:  # including UnicodeDecodeError
        raise PeerError("UTF-8 JSON", frame) from None


def parent_id_of(message: Message) -> str | None:
    """Return the id of the request that a message belongs to; None without a request."""
    parent = message["parent_header"]
    return parent.get("msg_id") if isinstance(parent, dict) else None


def endpoint(connection: Mapping[str, Any], channel: str) -> str:
    """Return the ZeroMQ address of a channel.

    Args:
        connection: content of a connection file.
        channel: one of CHANNELS.
    """
    separator = ":" if connection["transport"] == "tcp" else "-"
    ip, port = connection["ip"], connection[f"{channel}_port"]
    return f"{connection['transport']}://{ip}{separator}{port}"
