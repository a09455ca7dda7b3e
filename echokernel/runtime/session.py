"""jupyter_client's Session at a fraction of its cost: the same interface, the same messages.

One execute request means one message read and five sent. Everything that is known before is made
once: the text of a header except its number and date, the state of the HMAC after the key, the JSON
encoder. A parent header is sent as the very bytes that were received. Unusual messages (another
packer, a message made elsewhere, buffers) are left to jupyter_client.
"""

from __future__ import annotations

import collections
import functools
import itertools
import json
import os
import time
from collections.abc import Sequence
from types import NoneType
from typing import Any

from jupyter_client.adapter import adapt
from jupyter_client.jsonutil import json_default
from jupyter_client.session import DONE, extract_header, json_packer
from jupyter_client.session import Session as ClientSession
from traitlets import observe

from ..protocol.errors import MalformedMessage
from ..protocol.wire import DELIMITER, PROTOCOL_VERSION, Signer, unpack_message

COPY_LIMIT = 64 * 1024
"""Bytes up to which it is cheaper to copy a frame than to share it with ZeroMQ's thread."""

_encode = json.JSONEncoder(
    default=json_default, ensure_ascii=False, allow_nan=False, separators=(",", ":")
).encode


def pack(value: Any) -> bytes:
    """Encode as compact JSON; values that JSON lacks are converted as in jupyter_client."""
    try:
        return _encode(value).encode("utf-8", "surrogateescape")
    except (TypeError, ValueError):
        packed: bytes = json_packer(value)
        return packed


class ReceivedHeader(dict[str, Any]):
    """The header of a received message, and its frame.

    Replies carry that frame as their parent header; a change of the dict does not change it.
    """

    __slots__ = ("frame",)

    def __init__(self, header: dict[str, Any], frame: bytes) -> None:
        super().__init__(header)
        self.frame = frame


class Session(ClientSession):
    """Packs, signs, reads and verifies; its headers name the protocol that this kernel speaks."""

    def __init__(self, **traits: Any) -> None:
        self._numbers = itertools.count()
        self._replays = _ReplayFilter()
        super().__init__(**traits)
        if self.pack is json_packer:
            self.pack = pack
        self._prepare()

    @observe("key", "signature_scheme", "session", "username", "pid", "check_pid", "metadata",
             "adapt_version", "debug", "digest_history_size")  # fmt: skip
    def _changed(self, change: Any) -> None:
        # The constructor sets these before everything exists; it prepares at its end.
        if hasattr(self, "_signer"):
            self._prepare()

    def _prepare(self) -> None:
        """Read the traits that every message needs; reading one costs as much as signing."""
        self._signer = Signer(self.key, self.signature_scheme)
        self._own_pid = self.pid if self.check_pid else None
        self._usual = not (self.metadata or self.adapt_version or self.debug)
        self._replays.limit = self.digest_history_size
        self._pack = self.pack
        self._header_ends: dict[str, str] = {}
        self._id_prefix = f"{self.session}_{self.pid}_"
        self._header_start = f'{{"msg_id":{json.dumps(self._id_prefix)[:-1]}'
        self._sender = {"username": self.username, "session": self.session}

    # --- reading --------------------------------------------------------------------------------

    def read(self, frames: Sequence[bytes]) -> tuple[list[bytes], dict[str, Any]]:
        """Return (identities, message) of a received message, verified (K4).

        Raises:
            WireError: ``frames`` is not a message, is not signed with the key, or is a replay.
        """
        message = unpack_message(frames, self._signer)
        at = len(message.identities) + 1
        if self._signer.keyed:
            self._replays.check(frames[at])
        header = ReceivedHeader(message.header, frames[at + 1])
        unpacked = {
            "header": header,
            "msg_id": header["msg_id"],
            "msg_type": header["msg_type"],
            "parent_header": message.parent_header,
            "metadata": message.metadata,
            "content": message.content,
            "buffers": [memoryview(buffer) for buffer in message.buffers],
        }
        version = header.get("version")
        if not (isinstance(version, str) and version.startswith("5.")):
            unpacked = _adapted(unpacked)
        return message.identities, unpacked

    # --- sending --------------------------------------------------------------------------------

    @property
    def msg_id(self) -> str:
        return f"{self._id_prefix}{next(self._numbers)}"

    def msg_header(self, msg_type: str) -> dict[str, Any]:
        return self._header(msg_type, next(self._numbers), _now())

    def _header(self, msg_type: str, number: int, date: str) -> dict[str, Any]:
        return {
            "msg_id": f"{self._id_prefix}{number}",
            "msg_type": msg_type,
            **self._sender,
            "version": PROTOCOL_VERSION,
            "date": date,
        }

    def _packed_header(self, msg_type: str, number: int, date: str) -> bytes:
        """Return `_header`, packed; only the number and the date differ each time."""
        end = self._header_ends.get(msg_type)
        if end is None:
            rest = {"msg_type": msg_type, **self._sender, "version": PROTOCOL_VERSION, "date": ""}
            # Without the brace of the start, and the quote and brace after the date.
            end = self._header_ends[msg_type] = f'",{_encode(rest)[1:-2]}'
        return f'{self._header_start}{number}{end}{date}"}}'.encode()

    def sign(self, msg_list: Sequence[bytes]) -> bytes:
        return self._signer.sign(msg_list)

    def send(
        self,
        stream: Any,
        msg_or_type: Any,
        content: dict[str, Any] | bytes | None = None,
        parent: dict[str, Any] | None = None,
        ident: bytes | list[bytes] | None = None,
        buffers: list[Any] | None = None,
        track: bool = False,
        header: dict[str, Any] | None = None,
        metadata: dict[str, Any] | None = None,
    ) -> dict[str, Any] | None:
        """Send as jupyter_client does; ``content`` of type bytes is packed already."""
        if (
            not self._usual
            or type(msg_or_type) is not str
            or type(content) not in (dict, bytes, NoneType)
            or buffers
            or track
            or header
            or self._own_pid not in (None, os.getpid())
        ):
            any_content: Any = content
            return super().send(
                stream, msg_or_type, any_content, parent, ident, buffers, track, header, metadata
            )
        parent_header = extract_header(parent) if parent else {}
        number, date = next(self._numbers), _now()
        parts = [
            self._packed_header(msg_or_type, number, date),
            parent_header.frame
            if type(parent_header) is ReceivedHeader
            else self._pack(parent_header),
            self._pack(metadata) if metadata else b"{}",
            content if type(content) is bytes else self._pack(content) if content else b"{}",
        ]
        identities = [] if ident is None else ident if type(ident) is list else [ident]
        if stream:
            stream.send_multipart(
                [*identities, DELIMITER, self._signer.sign(parts), *parts],
                copy=len(parts[3]) < COPY_LIMIT,
            )
        header = self._header(msg_or_type, number, date)
        return {
            "header": header,
            "msg_id": header["msg_id"],
            "msg_type": msg_or_type,
            "parent_header": parent_header,
            "content": content or {},
            "metadata": metadata or {},
            "tracker": DONE,
        }


class _ReplayFilter:
    """Remembers the signatures of received messages, up to ``limit``."""

    def __init__(self) -> None:
        self.limit = 0
        self._seen: set[bytes] = set()
        self._in_order: collections.deque[bytes] = collections.deque()

    def check(self, signature: bytes) -> None:
        """Remember a verified signature. Raises MalformedMessage if it was received before."""
        if signature in self._seen:
            raise MalformedMessage("a replay: its signature was received before")
        self._seen.add(signature)
        self._in_order.append(signature)
        if len(self._in_order) > self.limit:
            self._seen.discard(self._in_order.popleft())


def _adapted(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message of an older protocol in the current form."""
    try:
        adapted: dict[str, Any] = adapt(message)
    except Exception as error:  # any bytes of a peer, by rules of protocols before 5.0
        raise MalformedMessage(f"cannot be adapted from an older protocol: {error}") from error
    return adapted


def _now() -> str:
    """Return the time in ISO 8601, UTC, in microseconds; in a quarter of datetime's time."""
    seconds, microseconds = divmod(time.time_ns() // 1000, 1_000_000)
    return f"{_second(seconds)}.{microseconds:06}Z"


@functools.lru_cache(maxsize=2)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
