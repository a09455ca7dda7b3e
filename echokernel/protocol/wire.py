"""Frames on the wire: split, sign, verify, pack, unpack. What a message means is decided elsewhere.

A Jupyter message is a list of frames::

    identities...  <IDS|MSG>  signature  header  parent_header  metadata  content  buffers...

A *signed frame* (registration and receipt since protocol 5.6) has one body instead of the four JSON
frames, and no buffers::

    identities...  <IDS|MSG>  signature  body

The signature is the lower-case hex HMAC of the frames that follow it, without the buffers. With an
empty key the signature is empty.

Source: "The Wire Protocol" and "Kernel startup handshake" in
https://jupyter-client.readthedocs.io/en/stable/messaging.html
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
"""The frame between the routing identities and the signed message."""

PROTOCOL_VERSION = "5.6"
"""The version of the messaging protocol that has the handshake.

Two numbers, because Kallichore 0.1.64 parses exactly two.
"""

DEFAULT_SIGNATURE_SCHEME = "hmac-sha256"

JsonObject = dict[str, Any]


def hash_name(signature_scheme: str) -> str:
    """Return the hash of an ``hmac-<hash>`` scheme: ``"hmac-sha256"`` -> ``"sha256"``.

    Raises:
        ValueError: the scheme is unknown, or an HMAC cannot use its hash.
    """
    prefix, _, name = signature_scheme.partition("-")
    if prefix != "hmac" or name not in hashlib.algorithms_available:
        problem = f"unknown signature scheme {signature_scheme!r}"
        raise ValueError(f"{problem}; use for example 'hmac-sha256'")
    try:
        hmac.new(b"", b"", name).hexdigest()
    except (TypeError, ValueError) as error:  # shake_128: its digest has no fixed length
        raise ValueError(f"{signature_scheme!r} has no digest that an HMAC can use") from error
    return name


class Signer:
    """Signs and verifies with one key. Neither ``repr`` nor an attribute shows the key (F4).

    Args:
        key: shared secret; empty: messages are not authenticated.
        signature_scheme: ``hmac-<hash>``.

    Raises:
        ValueError: ``signature_scheme`` is unknown.
    """

    def __init__(self, key: bytes, signature_scheme: str = DEFAULT_SIGNATURE_SCHEME) -> None:
        name = hash_name(signature_scheme)
        self._keyed = hmac.new(key, digestmod=name) if key else None

    def __repr__(self) -> str:
        return f"Signer({'keyed' if self.keyed else 'no key'})"

    @property
    def keyed(self) -> bool:
        """False if the key is empty; every message is valid then."""
        return self._keyed is not None

    def sign(self, frames: Sequence[bytes]) -> bytes:
        """Return the hex signature of ``frames``; ``b""`` if the key is empty."""
        if self._keyed is None:
            return b""
        mac = self._keyed.copy()
        mac.update(b"".join(frames))  # one call is cheaper than four
        return mac.hexdigest().encode("ascii")

    def verify(self, signature: bytes, frames: Sequence[bytes]) -> bool:
        """Return True if ``signature`` is the signature of ``frames``.

        The comparison takes constant time. An empty signature is valid only if the key is empty
        (H3, L3).
        """
        return self._keyed is None or hmac.compare_digest(self.sign(frames), signature)


def split(frames: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Split at the first delimiter; return (frames before it, frames after it).

    The frames before the delimiter are the routing envelope: a ROUTER's identities and a REQ's
    empty frame. A reply must start with exactly these frames.

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
"""Positions of a message's JSON frames, counted from the delimiter."""


def peek(frames: Sequence[Any], part: int) -> JsonObject:
    """Return one JSON object of an unverified message; ``{}`` if there is none.

    Args:
        frames: the whole message.
        part: `HEADER`, `PARENT_HEADER`, `METADATA` or `CONTENT`.
    """
    try:
        value = json.loads(bytes(frames[list(frames).index(DELIMITER) + part]))
    except (ValueError, LookupError, TypeError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


@dataclass
class Message:
    """One Jupyter message; ``buffers`` and ``identities`` are raw frames."""

    header: JsonObject
    parent_header: JsonObject = field(default_factory=dict)
    metadata: JsonObject = field(default_factory=dict)
    content: JsonObject = field(default_factory=dict)
    buffers: list[bytes] = field(default_factory=list)
    identities: list[bytes] = field(default_factory=list)

    @property
    def msg_type(self) -> str:
        return str(self.header["msg_type"])


def _refuse_constant(constant: str) -> None:
    raise ValueError(f"{constant} is not JSON")


# Created once: json.dumps() and json.loads() with options create them for each call.
_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_decode = json.JSONDecoder(parse_constant=_refuse_constant).decode


def pack_json(value: Any) -> bytes:
    """Encode as compact UTF-8 JSON.

    Raises:
        ValueError: JSON cannot represent ``value`` (NaN, infinities, lone surrogates).
    """
    return _encode(value).encode("utf-8")


def unpack_object(frame: bytes, name: str) -> JsonObject:
    """Decode a frame that must contain a JSON object; NaN and infinities are not JSON.

    Args:
        frame: the UTF-8 text.
        name: names the frame in the error.

    Raises:
        MalformedMessage: the frame contains anything else.
    """
    if frame == b"{}":  # the usual metadata
        return {}
    try:
        value = _decode(frame.decode("utf-8"))
    except (ValueError, RecursionError):
        raise MalformedMessage(f"{name} is not UTF-8 JSON") from None
    if not isinstance(value, dict):
        raise MalformedMessage(f"{name} is not a JSON object")
    return value


def pack_message(message: Message, signer: Signer) -> list[bytes]:
    """Return the frames of ``message``, starting with its identities."""
    parts = [
        pack_json(part)
        for part in (message.header, message.parent_header, message.metadata, message.content)
    ]
    return [*message.identities, DELIMITER, signer.sign(parts), *parts, *message.buffers]


def unpack_message(frames: Sequence[bytes], signer: Signer) -> Message:
    """Return the message in ``frames``. The signature is verified before any JSON is parsed.

    Raises:
        MalformedMessage: the frames are not a Jupyter message.
        BadSignature: the message is not signed with this signer's key.
    """
    identities, rest = split(frames)
    if len(rest) < 5:
        raise MalformedMessage(f"{len(rest)} frames after the delimiter; a message has 5 or more")
    signature, parts, buffers = rest[0], rest[1:5], rest[5:]
    if not signer.verify(signature, parts):
        raise BadSignature("the signature was not made with the expected key")
    names = ("header", "parent_header", "metadata", "content")
    header, parent, metadata, content = (
        unpack_object(part, name) for part, name in zip(parts, names, strict=True)
    )
    for name in ("msg_id", "msg_type"):
        if not isinstance(header.get(name), str):
            raise MalformedMessage(f"header.{name} is not a string")
    if b"\\u" in parts[0]:
        # Every reply carries this header as its parent, and strict clients cannot decode a lone
        # surrogate.
        try:
            pack_json(header)
        except UnicodeEncodeError:
            raise MalformedMessage("header contains a lone surrogate") from None
    return Message(header, parent, metadata, content, buffers, identities)


def pack_signed_frame(body: bytes, signer: Signer, identities: Sequence[bytes] = ()) -> list[bytes]:
    """Return the frames of a signed frame, starting with ``identities``."""
    return [*identities, DELIMITER, signer.sign([body]), body]


def unpack_signed_frame(frames: Sequence[bytes], signer: Signer) -> bytes:
    """Return the verified body of a signed frame.

    Raises:
        MalformedMessage: the delimiter is not followed by exactly two frames.
        BadSignature: the body is not signed with this signer's key.
    """
    _, rest = split(frames)
    if len(rest) != 2:
        raise MalformedMessage(f"{len(rest)} frames after the delimiter; a signed frame has 2")
    signature, body = rest
    if not signer.verify(signature, [body]):
        raise BadSignature("the signature was not made with the expected key")
    return body
