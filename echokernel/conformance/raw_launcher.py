"""A launcher that exchanges frames with a kernel, in either form of the handshake.

It accepts one registration and checks it exactly. No other part of echokernel is used, see
``raw_messages``.

https://jupyter-client.readthedocs.io/en/latest/messaging.html
"""

from __future__ import annotations

import json
from collections.abc import Container
from pathlib import Path
from typing import Any

import zmq

from .raw_client import DEADLINE, Socket, receive_frames
from .raw_messages import (
    CHANNELS,
    DELIMITER,
    JsonObject,
    PeerError,
    build_message,
    parse_json,
    parse_message,
    sign,
    sign_frames,
)

SIGNED_FRAME = "signed-frame"
HANDSHAKE_REQUEST = "handshake-request"
FORMS = (SIGNED_FRAME, HANDSHAKE_REQUEST)

KERNEL_ID = "kernel-one"
PORT_NAMES = frozenset(f"{channel}_port" for channel in CHANNELS)


class RawLauncher:
    """A registration socket and the registration file that names it.

    The socket has the type that launchers use in the field: ROUTER for the signed frame, REP for
    the handshake request.

    Args:
        context: creates the socket; its owner closes it.
        folder: where ``registration.json`` is written.
        form: one of FORMS.
        key: signs both directions; empty for unsigned messages.
    """

    def __init__(self, context: zmq.Context[Socket], folder: Path, form: str, *, key: str) -> None:
        self.form = form
        self.key = key
        self.folder = folder
        self.socket = context.socket(zmq.ROUTER if form == SIGNED_FRAME else zmq.REP)
        self.socket.linger = 0
        self.port = self.socket.bind_to_random_port("tcp://127.0.0.1")
        self._route: list[bytes] = []

    def build_file(self) -> JsonObject:
        """Return the content of a registration file as the launchers of this form write it."""
        common = {
            "transport": "tcp",
            "ip": "127.0.0.1",
            "signature_scheme": "hmac-sha256",
            "key": self.key,
        }
        if self.form == SIGNED_FRAME:
            return {
                **common,
                "kernel_id": KERNEL_ID,
                "registration_ip": "127.0.0.1",
                "registration_port": str(self.port),
            }
        return {**common, "registration_port": self.port}

    def write_file(self, drop: Container[str] = (), **changes: object) -> Path:
        """Write the registration file, readable by its owner only; return its path.

        Args:
            drop: keys that are left out.
            changes: keys that are added or replaced.
        """
        path = self.folder / "registration.json"
        content = {**self.build_file(), **changes}
        path.write_text(json.dumps({k: v for k, v in content.items() if k not in drop}))
        path.chmod(0o600)
        return path

    def receive_registration(self, timeout: float = DEADLINE) -> JsonObject:
        """Return the connection that the kernel registers, with ports as integers.

        Raises PeerError if no registration arrives within ``timeout`` seconds, or if it is not
        exactly of this form.
        """
        frames = receive_frames(self.socket, timeout)
        if DELIMITER not in frames:
            raise PeerError("a registration with a delimiter", frames)
        start = frames.index(DELIMITER)
        self._route = frames[:start]
        if self.form == SIGNED_FRAME:
            content = self._parse_signed_frame(frames[start + 1 :])
        else:
            content = self._parse_handshake_request(frames[start:])
        if not isinstance(content, dict) or set(content) != PORT_NAMES:
            raise PeerError("the five ports", content)
        port_type = str if self.form == SIGNED_FRAME else int
        if any(type(port) is not port_type for port in content.values()):
            raise PeerError(f"each port as {port_type.__name__}", content)
        ports = {name: int(port) for name, port in content.items()}
        if len(set(ports.values())) != len(PORT_NAMES):
            raise PeerError("five different ports", content)
        return {"transport": "tcp", "ip": "127.0.0.1", "key": self.key, **ports}

    def _parse_signed_frame(self, frames: list[bytes]) -> Any:
        if len(self._route) != 1 or len(frames) != 2:
            raise PeerError("an identity, a signature and one frame", [*self._route, *frames])
        signature, body = frames
        if signature != sign(self.key, body):
            raise PeerError("a registration that is signed with the file's key", frames)
        content = parse_json(body)
        if not isinstance(content, dict) or content.pop("kernel_id", None) != KERNEL_ID:
            raise PeerError("a registration with the file's kernel_id", content)
        return content

    def _parse_handshake_request(self, frames: list[bytes]) -> Any:
        if self._route:  # the REP socket has removed the empty frame
            raise PeerError("no frame in front of the delimiter", self._route)
        message = parse_message(frames, self.key)
        if message["msg_type"] != "handshake_request":
            raise PeerError("a handshake_request", message)
        return message["content"]

    def build_receipt(
        self, key: str | None = None, status: str = "ok", **content: object
    ) -> list[bytes]:
        """Return the frames of a receipt without its route to the kernel.

        Args:
            key: another key than the file's.
            status: ``ok`` or ``error``.
            content: further keys of the receipt's content.
        """
        key = self.key if key is None else key
        content = {"status": status, **content}
        if self.form == SIGNED_FRAME:
            body = b"ACK" if status == "ok" else json.dumps(content).encode()  # as xeus-zmq
            return sign_frames(key, body)
        return build_message("handshake_reply", content, key=key)[1]

    def send(self, frames: list[bytes]) -> None:
        """Send frames to the kernel that has registered last."""
        self.socket.send_multipart([*self._route, *frames])

    def send_receipt(self) -> None:
        """Send a valid receipt."""
        self.send(self.build_receipt())
