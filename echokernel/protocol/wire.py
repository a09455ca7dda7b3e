"""Frames on the wire: split, sign, verify, pack, unpack.

A Jupyter message is a list of frames (messaging docs, "The Wire Protocol")::

    identities...  <IDS|MSG>  signature  header  parent_header  metadata  content  buffers...

A *signed frame* (the registration and receipt of messaging docs 5.6) has one body instead of
the four JSON frames, and no buffers::

    identities...  <IDS|MSG>  signature  body

The signature is the lower-case hex HMAC of what follows it, buffers excepted; it is empty when
the key is empty.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from .errors import BadSignature, MalformedMessage

DELIMITER = b"<IDS|MSG>"
"""Parts the routing identities from the signed message."""

PROTOCOL_VERSION = "5.6"
"""The messaging protocol that brings the welcome and the handshake.

Two parts: Kallichore parses exactly two.
"""

DEFAULT_SIGNATURE_SCHEME = "hmac-sha256"

JsonObject = dict[str, Any]


def hash_name(signature_scheme: str) -> str:
    """Return the hash of a ``hmac-<hash>`` scheme: ``"hmac-sha256"`` -> ``"sha256"``.

    Raises:
        ValueError: no such scheme, or its hash cannot be used in an HMAC.
    """
    prefix, _, name = signature_scheme.partition("-")
    if prefix != "hmac" or name not in hashlib.algorithms_available:
        raise ValueError(f"unknown signature scheme {signature_scheme!r}, e.g. use 'hmac-sha256'")
    try:
        hmac.new(b"", b"", name).hexdigest()
    except (TypeError, ValueError) as error:  # shake_128: a digest without a fixed length
        raise ValueError(f"{signature_scheme!r} has no digest that an HMAC can use") from error
    return name


class Signer:
    """Signs and verifies with one key; neither ``repr`` nor an attribute's name shows the key.

    Args:
        key: shared secret; empty means that messages are not authenticated (F4).
        signature_scheme: ``hmac-<hash>``.

    Raises:
        ValueError: an unknown ``signature_scheme``.
    """

    def __init__(self, key: bytes, signature_scheme: str = DEFAULT_SIGNATURE_SCHEME) -> None:
        name = hash_name(signature_scheme)
        self._keyed = hmac.new(key, digestmod=name) if key else None

    def __repr__(self) -> str:
        return f"Signer({'keyed' if self.keyed else 'no key'})"

    @property
    def keyed(self) -> bool:
        """False with an empty key: then every message verifies."""
        return self._keyed is not None

    def sign(self, frames: Sequence[bytes]) -> bytes:
        """Return the hex signature of ``frames``; ``b""`` without a key."""
        if self._keyed is None:
            return b""
        mac = self._keyed.copy()
        mac.update(b"".join(frames))  # one call costs less than four
        return mac.hexdigest().encode("ascii")

    def verify(self, signature: bytes, frames: Sequence[bytes]) -> bool:
        """Tell whether ``signature`` is that of ``frames``.

        L3, H3: the comparison takes the same time wherever the first difference stands, and an
        empty signature passes only when the key is empty (then nothing can be checked at all).
        """
        return self._keyed is None or hmac.compare_digest(self.sign(frames), signature)


def split(frames: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Split at the first delimiter into (frames before it, frames behind it).

    What stands before it (a ROUTER's identities, a REQ's empty frame) is the way back to the
    sender: a reply must start with those very frames.

    Raises:
        MalformedMessage: there is no delimiter.
    """
    frames = list(frames)
    try:
        at = frames.index(DELIMITER)
    except ValueError:
        raise MalformedMessage("no <IDS|MSG> delimiter") from None
    return frames[:at], frames[at + 1 :]


HEADER, PARENT_HEADER, METADATA, CONTENT = 2, 3, 4, 5
"""Where the JSON parts of a message are, counted from the delimiter."""


def peek(frames: Sequence[Any], part: int) -> JsonObject:
    """Return one JSON part of a message that has not been verified; ``{}`` if it has none.

    Args:
        part: `HEADER`, `PARENT_HEADER`, `METADATA` or `CONTENT`.
    """
    try:
        value = json.loads(bytes(frames[list(frames).index(DELIMITER) + part]))
    except (ValueError, LookupError, TypeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


@dataclass
class Message:
    """One Jupyter message; the four dicts are JSON objects, ``buffers`` raw bytes."""

    header: JsonObject
    parent_header: JsonObject = field(default_factory=dict)
    metadata: JsonObject = field(default_factory=dict)
    content: JsonObject = field(default_factory=dict)
    buffers: list[bytes] = field(default_factory=list)
    identities: list[bytes] = field(default_factory=list)

    @property
    def msg_type(self) -> str:
        return str(self.header["msg_type"])


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


# Made once: json.dumps() and json.loads() make them anew for each call with options.
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_decode = json.JSONDecoder(parse_constant=_refuse).decode


def pack_json(value: Any) -> bytes:
    """Encode as compact UTF-8 JSON. NaN and infinities, which JSON lacks, are refused."""
    return _encode(value).encode("utf-8")


def unpack_object(frame: bytes, what: str) -> JsonObject:
    """Decode one frame that must hold a JSON object; NaN and infinities are no JSON.

    Raises:
        MalformedMessage: it holds something else; ``what`` names the frame in the message.
    """
    if frame == b"{}":  # most parents and metadata
        return {}
    try:
        value = _decode(frame.decode("utf-8"))
    except (ValueError, RecursionError):
        raise MalformedMessage(f"{what} is not UTF-8 JSON") from None
    if not isinstance(value, dict):
        raise MalformedMessage(f"{what} is not a JSON object")
    return value


def pack_message(message: Message, signer: Signer) -> list[bytes]:
    """Return the frames of ``message``, its identities first."""
    parts = [
        pack_json(part)
        for part in (message.header, message.parent_header, message.metadata, message.content)
    ]
    return [*message.identities, DELIMITER, signer.sign(parts), *parts, *message.buffers]


def unpack_message(frames: Sequence[bytes], signer: Signer) -> Message:
    """Return the message in ``frames``, verified before any of its JSON is read.

    Raises:
        MalformedMessage: not a Jupyter message.
        BadSignature: not signed with this signer's key.
    """
    identities, rest = split(frames)
    if len(rest) < 5:
        raise MalformedMessage(f"{len(rest)} frames behind the delimiter, a message has 5 or more")
    signature, parts, buffers = rest[0], rest[1:5], rest[5:]
    if not signer.verify(signature, parts):
        raise BadSignature("the signature is not that of the expected key")
    names = ("header", "parent_header", "metadata", "content")
    head, parent, metadata, content = (
        unpack_object(part, name) for part, name in zip(parts, names, strict=True)
    )
    for name in ("msg_id", "msg_type"):
        if not isinstance(head.get(name), str):
            raise MalformedMessage(f"header.{name} is not a string")
    if b"\\u" in parts[0]:
        # Everybody who is sent an answer has to read this header as its parent, strict readers
        # too: half a character (a lone surrogate) is nothing they could decode.
        try:
            pack_json(head)
        except UnicodeEncodeError:
            raise MalformedMessage("the header is not Unicode text") from None
    return Message(head, parent, metadata, content, buffers, identities)


def pack_signed_frame(body: bytes, signer: Signer, identities: Sequence[bytes] = ()) -> list[bytes]:
    """Return delimiter, signature and ``body``, behind ``identities``."""
    return [*identities, DELIMITER, signer.sign([body]), body]


def unpack_signed_frame(frames: Sequence[bytes], signer: Signer) -> bytes:
    """Return the verified body of a signed frame.

    Raises:
        MalformedMessage: not exactly two frames behind the delimiter.
        BadSignature: not signed with this signer's key.
    """
    _, rest = split(frames)
    if len(rest) != 2:
        raise MalformedMessage(f"{len(rest)} frames behind the delimiter, a signed frame has 2")
    signature, body = rest
    if not signer.verify(signature, [body]):
        raise BadSignature("the signature is not that of the expected key")
    return body
