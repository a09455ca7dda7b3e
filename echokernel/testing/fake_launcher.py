"""Fakes of launchers for kernel authors: the launcher's end of a handshake (JEP 66).

`FakeLauncher` supports both forms of the handshake. It is faultless or has one `Fault`. A test
starts a kernel on its registration file and checks the kernel's reaction. The kernel's end, for
launcher authors, is `fake_ark`.

Sources: https://jupyter-client.readthedocs.io/en/stable/messaging.html (protocol 5.6, handshake);
https://github.com/posit-dev/kallichore (November 2026) for the ``handshake_reply``.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from datetime import datetime, timezone
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any

import zmq

from ..protocol.wire import (
    PROTOCOL_VERSION,
    JsonObject,
    Message,
    Signer,
    pack_json,
    pack_message,
    pack_signed_frame,
    split,
    unpack_message,
    unpack_object,
    unpack_signed_frame,
)

CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
SIGNED_FRAME = "signed-frame"
HANDSHAKE_REQUEST = "handshake-request"
FORMS = (SIGNED_FRAME, HANDSHAKE_REQUEST)

SECOND_MS = 1000
"""Milliseconds per second, for ZeroMQ's timeouts."""


class Fault(Enum):
    """How a `FakeLauncher` answers a registration, and how its kernel must react (H4)."""

    NONE = "none"  # A valid receipt: the kernel runs.
    SILENT = "silent"  # No answer: the kernel exits at its deadline with a status other than 0.
    WRONG_SIGNATURE = "wrong-signature"  # The kernel ignores the receipt and exits at its deadline.
    MALFORMED = "malformed"  # The kernel ignores the receipt and exits at its deadline.
    REFUSAL = "refusal"  # The kernel exits immediately and prints the reason.
    LATE = "late"  # A valid receipt after the deadline: the kernel has exited already.


class FakeLauncher:
    """A launcher's registration socket for one kernel: one registration, one answer.

    ::

        with FakeLauncher("signed-frame") as launcher:
            launcher.write_file("registration.json")
            kernel = subprocess.Popen([..., "-f", "registration.json"])
            ports = launcher.receive_registration()
            launcher.answer(Fault.SILENT)
            assert kernel.wait(10) != 0

    Args:
        form: ``"signed-frame"`` (a ROUTER socket, as in xeus) or ``"handshake-request"`` (a REP
            socket, as in Kallichore).
        key: the signing key; if it is empty, nothing is signed.
        late: seconds until the receipt of `Fault.LATE`; xeus and ark wait 5 s.

    Attributes:
        port: the registration port.

    Raises:
        ValueError: ``form`` is neither of the two.
    """

    KERNEL_ID = "kernel-of-a-fake-launcher"
    REASON = "refused by a fake launcher"

    def __init__(self, form: str, *, key: str = "key of a fake launcher", late: float = 6) -> None:
        if form not in FORMS:
            raise ValueError(f"form is {form!r}; it must be one of {', '.join(FORMS)}")
        self.form = form
        self.key = key
        self.late = late
        self._signer = Signer(key.encode())
        self._route: list[bytes] = []  # The frames before the delimiter: the kernel's identity.
        self._parent: JsonObject = {}
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER if form == SIGNED_FRAME else zmq.REP)
        self._socket.linger = 0
        self.port = self._socket.bind_to_random_port("tcp://127.0.0.1")

    def __enter__(self) -> FakeLauncher:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the registration socket."""
        self._socket.close()
        self._context.term()

    def file(self) -> JsonObject:
        """Return the content of the registration file, as launchers of this form write it."""
        common = {
            "transport": "tcp",
            "ip": "127.0.0.1",
            "signature_scheme": "hmac-sha256",
            "key": self.key,
        }
        if self.form == HANDSHAKE_REQUEST:
            return {**common, "registration_port": self.port}
        return {
            **common,
            "kernel_id": self.KERNEL_ID,
            "registration_ip": "127.0.0.1",
            "registration_port": str(self.port),  # xeus 6.0.5 reads only a string.
        }

    def write_file(self, path: str | os.PathLike[str], **changes: Any) -> Path:
        """Write the registration file with mode 0600; return its path.

        Args:
            path: a file that does not exist yet.
            changes: keys that replace those of `file`.

        Raises:
            FileExistsError: the file exists.
        """
        target = Path(path)
        target.touch(mode=0o600, exist_ok=False)
        target.write_text(json.dumps({**self.file(), **changes}), encoding="utf-8")
        return target

    def receive_registration(self, timeout: float = 20) -> dict[str, int]:
        """Wait for the registration; return its ports, ``{"shell_port": 1, ...}``.

        Args:
            timeout: seconds.

        Raises:
            TimeoutError: no registration arrived within ``timeout``.
            WireError: the message is not a registration of this form.
            AssertionError: the content violates the form; the message names the violation.
        """
        if not self._socket.poll(int(timeout * SECOND_MS)):
            raise TimeoutError(f"no registration arrived within {timeout:g} s")
        frames = self._socket.recv_multipart()
        self._route, _ = split(frames)
        if self.form == SIGNED_FRAME:
            port_type: type = str
            content = unpack_object(unpack_signed_frame(frames, self._signer), "the registration")
            _expect(
                content.pop("kernel_id", None) == self.KERNEL_ID,
                "kernel_id is that of the registration file",
            )
        else:
            port_type = int
            message = unpack_message(frames, self._signer)
            _expect(message.msg_type == "handshake_request", "msg_type is handshake_request")
            self._parent, content = message.header, message.content
        for channel in CHANNELS:
            port = content.get(f"{channel}_port")
            _expect(type(port) is port_type, f"{channel}_port is of type {port_type.__name__}")
        return {f"{channel}_port": int(content[f"{channel}_port"]) for channel in CHANNELS}

    def answer(self, fault: Fault = Fault.NONE) -> None:
        """Answer the received registration; with `Fault.LATE`, sleep before that."""
        if fault is Fault.SILENT:
            return
        if fault is Fault.LATE:
            time.sleep(self.late)
        self._socket.send_multipart([*self._route, *self._answer(fault)])

    def _answer(self, fault: Fault) -> list[bytes]:
        signer = Signer(b"not the file's key") if fault is Fault.WRONG_SIGNATURE else self._signer
        refused = {"status": "error", "error": self.REASON}
        content = refused if fault is Fault.REFUSAL else {"status": "ok"}
        if self.form == SIGNED_FRAME:
            # The content of a receipt is free; xeus sends ACK. An object as a refusal is ours.
            body = pack_json(content) if fault is Fault.REFUSAL else b"ACK"
            frames = pack_signed_frame(body, signer)
        else:
            reply = Message(
                new_header("handshake_reply", "fake launcher"), self._parent, {}, content
            )
            frames = pack_message(reply, signer)
        return frames[:-1] if fault is Fault.MALFORMED else frames


def _expect(condition: bool, requirement: str) -> None:
    if not condition:
        raise AssertionError(f"the registration does not meet a requirement: {requirement}")


def new_header(msg_type: str, session: str) -> JsonObject:
    """Return a new message header with the current time.

    Args:
        msg_type: the type of the message.
        session: the session id of the sender.
    """
    date = datetime.now(timezone.utc).isoformat()
    return {
        "msg_id": uuid.uuid4().hex,
        "msg_type": msg_type,
        "session": session,
        "username": "fake",
        "date": date,
        "version": PROTOCOL_VERSION,
    }
