"""Public test fakes of launchers, for kernel authors: the launcher's end of a handshake (JEP 66).

`FakeLauncher` speaks both forms, and is good or has one `Fault`: start your kernel on its file
and see what becomes of it. The kernel's end, for launcher authors, is ``fake_ark``.

Facts: SPEC section 1; the messaging documentation 5.6, "Handshake"; posit-dev/kallichore
(the reply, read in November 2026).
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
SECOND = 1000  # milliseconds, as zmq counts


class Fault(Enum):
    """What a `FakeLauncher` does with a registration, and what its kernel has to do then (H4)."""

    NONE = "none"  # a valid receipt: the kernel runs
    SILENT = "silent"  # no answer: it ends, status not 0, at its deadline
    WRONG_SIGNATURE = "wrong-signature"  # ignored; it ends at its deadline
    MALFORMED = "malformed"  # ignored; it ends at its deadline
    REFUSAL = "refusal"  # it ends at once and tells the reason
    LATE = "late"  # a valid receipt behind its deadline: it has ended


class FakeLauncher:
    """A launcher's registration socket, for one kernel: one registration and one answer.

    ::

        with FakeLauncher("signed-frame") as launcher:
            launcher.write_file("registration.json")
            kernel = subprocess.Popen([..., "-f", "registration.json"])
            ports = launcher.receive_registration()
            launcher.answer(Fault.SILENT)
            assert kernel.wait(10) != 0

    Args:
        form: ``"signed-frame"`` (a ROUTER, as in xeus) or ``"handshake-request"`` (a REP, as in
            Kallichore).
        key: what signs; empty: nothing is signed.
        late: seconds until the receipt of `Fault.LATE`; kernels in the field wait 5 s.
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
        self._way_back: list[bytes] = []
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
        self._socket.close()
        self._context.term()

    def file(self) -> JsonObject:
        """Return the registration file, as this form's launchers write it."""
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
            "registration_port": str(self.port),  # xeus reads nothing but a string here
        }

    def write_file(self, path: str | os.PathLike[str], **changes: Any) -> Path:
        """Write `file` with ``changes`` to a new ``path``, 0600; return the path."""
        target = Path(path)
        target.touch(mode=0o600, exist_ok=False)
        target.write_text(json.dumps({**self.file(), **changes}), encoding="utf-8")
        return target

    def receive_registration(self, timeout: float = 20) -> dict[str, int]:
        """Return the ports that the kernel registers, ``{"shell_port": 1, ...}``.

        Raises:
            TimeoutError: none came within ``timeout`` seconds.
            WireError: what came is not this form's registration.
            AssertionError: its content is not what the form asks for; the message says what.
        """
        if not self._socket.poll(int(timeout * SECOND)):
            raise TimeoutError(f"no registration came within {timeout:g} s")
        frames = self._socket.recv_multipart()
        self._way_back, _ = split(frames)
        if self.form == SIGNED_FRAME:
            kind: type = str
            content = unpack_object(unpack_signed_frame(frames, self._signer), "the registration")
            _expect(content.pop("kernel_id", None) == self.KERNEL_ID, "kernel_id is the file's")
        else:
            kind = int
            message = unpack_message(frames, self._signer)
            _expect(message.msg_type == "handshake_request", "msg_type is handshake_request")
            self._parent, content = message.header, message.content
        for channel in CHANNELS:
            port = content.get(f"{channel}_port")
            _expect(type(port) is kind, f"{channel}_port is of type {kind.__name__}")
        return {f"{channel}_port": int(content[f"{channel}_port"]) for channel in CHANNELS}

    def answer(self, fault: Fault = Fault.NONE) -> None:
        """Answer the registration that was received; for `Fault.LATE`, wait before."""
        if fault is Fault.SILENT:
            return
        if fault is Fault.LATE:
            time.sleep(self.late)
        self._socket.send_multipart([*self._way_back, *self._answer(fault)])

    def _answer(self, fault: Fault) -> list[bytes]:
        signer = Signer(b"not the file's key") if fault is Fault.WRONG_SIGNATURE else self._signer
        refused = {"status": "error", "error": self.REASON}
        content = refused if fault is Fault.REFUSAL else {"status": "ok"}
        if self.form == SIGNED_FRAME:
            # The content is free, `ACK` in the field; that an object can say no is ours.
            body = pack_json(content) if fault is Fault.REFUSAL else b"ACK"
            frames = pack_signed_frame(body, signer)
        else:
            reply = Message(
                new_header("handshake_reply", "fake launcher"), self._parent, {}, content
            )
            frames = pack_message(reply, signer)
        return frames[:-1] if fault is Fault.MALFORMED else frames


def _expect(right: bool, what: str) -> None:
    if not right:
        raise AssertionError(f"a registration in which this does not hold: {what}")


def new_header(msg_type: str, session: str) -> JsonObject:
    """Return the header of a message that is sent now."""
    date = datetime.now(timezone.utc).isoformat()
    return {
        "msg_id": uuid.uuid4().hex,
        "msg_type": msg_type,
        "session": session,
        "username": "fake",
        "date": date,
        "version": PROTOCOL_VERSION,
    }
