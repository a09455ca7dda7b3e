"""Raw peers for the wire tests: a launcher, a kernel's process, a client.

Written against the texts, not against echokernel: nothing here imports it, so that a mistake in
its wire code cannot hide itself. Every wait has a deadline.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import uuid
from pathlib import Path

import zmq

SECOND = 1000  # milliseconds, as zmq counts
DEADLINE = 20  # seconds; generous, since nothing waits for it but a failure

DELIMITER = b"<IDS|MSG>"
CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
FORMS = ("signed-frame", "handshake-request")
KEY = "a-very-secret-key-of-the-tests"


def sign(key: str, *frames: bytes) -> bytes:
    """Return the hex HMAC-SHA256 of ``frames``; nothing for an empty key."""
    if not key:
        return b""
    return hmac.new(key.encode(), b"".join(frames), hashlib.sha256).hexdigest().encode()


def signed_frame(key: str, body: bytes) -> list[bytes]:
    return [DELIMITER, sign(key, body), body]


def message(
    msg_type: str,
    content: dict,
    *,
    key: str = KEY,
    session: str = "test",
    parent: dict | None = None,
    **header,
):
    """Return (msg_id, frames) of a Jupyter message."""
    msg_id = uuid.uuid4().hex
    head = {
        "msg_id": msg_id,
        "msg_type": msg_type,
        "session": session,
        "username": "tester",
        "date": "2026-11-21T00:00:00.000000Z",
        "version": "5.6",
        **header,
    }
    parts = [json.dumps(part).encode() for part in (head, parent or {}, {}, content)]
    return msg_id, [DELIMITER, sign(key, *parts), *parts]


def parse(frames: list[bytes], key: str = KEY) -> dict:
    """Return a received message as a dict; its signature must be right."""
    at = frames.index(DELIMITER)
    signature, header, parent, metadata, content = frames[at + 1 : at + 6]
    assert signature == sign(key, header, parent, metadata, content)
    return {
        "topics": frames[:at],
        "header": json.loads(header),
        "msg_type": json.loads(header)["msg_type"],
        "parent_header": json.loads(parent),
        "content": json.loads(content),
        "buffers": frames[at + 6 :],
    }


def receive(peer: zmq.Socket, timeout: float = DEADLINE) -> list[bytes]:
    assert peer.poll(timeout * SECOND), f"nothing came within {timeout} s"
    return peer.recv_multipart()


class Launcher:
    """A launcher with a bare registration socket, in either form of the handshake."""

    def __init__(self, context: zmq.Context, folder: Path, form: str, *, key: str = KEY):
        self.form = form
        self.key = key
        self.folder = folder
        # The peers that the forms are used with in the field: a ROUTER, and a plain REP.
        signed = form == "signed-frame"
        self.socket = context.socket(zmq.ROUTER if signed else zmq.REP)
        self.socket.linger = 0
        self.port = self.socket.bind_to_random_port("tcp://127.0.0.1")

    def keys(self) -> dict:
        """Return the registration file as the form's launchers write it."""
        common = {"transport": "tcp", "signature_scheme": "hmac-sha256", "key": self.key}
        if self.form == "signed-frame":
            return {
                **common,
                "kernel_id": "kernel-one",
                "registration_ip": "127.0.0.1",
                "registration_port": str(self.port),
                "ip": "127.0.0.1",
            }
        return {**common, "ip": "127.0.0.1", "registration_port": self.port}

    def write_file(self, drop: tuple = (), **changes) -> Path:
        path = self.folder / "registration.json"
        keys = {**self.keys(), **changes}
        path.write_text(json.dumps({k: v for k, v in keys.items() if k not in drop}))
        path.chmod(0o600)
        return path

    def receive_registration(self) -> dict:
        """Return the registration's content, verified and of exactly this form."""
        frames = receive(self.socket)
        at = frames.index(DELIMITER)
        self._way_back, rest = frames[:at], frames[at + 1 :]
        if self.form == "signed-frame":
            signature, body = rest
            assert len(self._way_back) == 1, "an identity and nothing else"
            assert signature == sign(self.key, body)
            content = json.loads(body)
            assert content.pop("kernel_id") == "kernel-one"
            assert all(isinstance(port, str) for port in content.values())
        else:
            assert self._way_back == []  # the REP socket took the empty frame
            registration = parse([DELIMITER, *rest], self.key)
            assert registration["msg_type"] == "handshake_request"
            self._parent = registration["header"]
            content = registration["content"]
            assert all(type(port) is int for port in content.values())
        assert set(content) == {f"{channel}_port" for channel in CHANNELS}
        ports = {name: int(port) for name, port in content.items()}
        assert len(set(ports.values())) == 5
        return {"transport": "tcp", "ip": "127.0.0.1", "key": self.key, **ports}

    def receipt(self, key: str | None = None, status: str = "ok", **more) -> list[bytes]:
        """Return the frames of a receipt behind the way back to the kernel."""
        key = self.key if key is None else key
        if self.form == "signed-frame":
            ok = status == "ok"
            return signed_frame(
                key, b"ACK" if ok else json.dumps({"status": status, **more}).encode()
            )
        return message("handshake_reply", {"status": status, **more}, key=key)[1]

    def send(self, frames: list[bytes]) -> None:
        self.socket.send_multipart([*self._way_back, *frames])

    def give_receipt(self) -> None:
        self.send(self.receipt())


class Client:
    """A bare client of one kernel. Fails when a message is left that the test did not read."""

    def __init__(self, context: zmq.Context, connection: dict, topics: tuple = (b"",)):
        self.key = connection["key"]
        self.session = uuid.uuid4().hex
        self._context = context
        self.connection = connection
        self.shell = self.connect("shell", zmq.DEALER)
        self.control = self.connect("control", zmq.DEALER)
        self.stdin = self.connect("stdin", zmq.DEALER)
        self.iopub = self.connect("iopub", zmq.SUB, topics)
        self.seen_starting = False
        for topic in topics:
            self.expect_welcome(topic)

    def connect(self, channel: str, kind: int, topics: tuple = ()) -> zmq.Socket:
        made = self._context.socket(kind)
        made.linger = 0
        if kind == zmq.DEALER:
            made.identity = self.session.encode()
        for topic in topics:  # before connecting: nothing is missed then
            made.subscribe(topic)
        made.connect(url(self.connection, channel))
        return made

    def expect_welcome(self, topic: bytes, timeout: float = DEADLINE) -> dict:
        """Return the welcome; who subscribes to everything hears those of others, too."""
        welcome = {"content": None}
        while welcome["content"] != {"subscription": topic.decode()}:
            # W5: `starting` may come first, if the welcome before it was another subscriber's.
            welcome = self.publication(timeout)
            assert welcome["msg_type"] == "iopub_welcome"
        assert welcome["topics"] == ([topic] if topic else [])
        assert welcome["parent_header"] == {}
        return welcome

    def send(self, msg_type: str, content: dict, channel: str = "shell", **header) -> str:
        msg_id, frames = message(msg_type, content, key=self.key, session=self.session, **header)
        getattr(self, channel).send_multipart(frames)
        return msg_id

    def execute(self, code: str, **content) -> str:
        return self.send("execute_request", {"code": code, "silent": False, **content})

    def reply(self, msg_id: str, channel: str = "shell", timeout: float = DEADLINE) -> dict:
        got = parse(receive(getattr(self, channel), timeout), self.key)
        assert got["parent_header"]["msg_id"] == msg_id
        return got

    def publication(self, timeout: float = DEADLINE) -> dict:
        """Return the next IOPub message; ``starting`` may come once, and belongs to nobody."""
        got = parse(receive(self.iopub, timeout), self.key)
        if got["content"] == {"execution_state": "starting"}:
            assert not self.seen_starting, "a second `starting`"
            assert got["parent_header"] == {}
            self.seen_starting = True
            return self.publication(timeout)
        return got

    def transcript(self, msg_id: str, timeout: float = DEADLINE) -> list[tuple]:
        """Return what is published for a request, busy to idle, as (msg_type, content)."""
        said = []
        while True:
            got = self.publication(timeout)
            assert got["parent_header"].get("msg_id") == msg_id, got
            said.append((got["msg_type"], got["content"]))
            if said[-1] == IDLE:
                return said

    def ask(self, msg_type: str, content: dict, channel: str = "shell") -> dict:
        """Send a request that publishes only its status; return the reply's content."""
        msg_id = self.send(msg_type, content, channel)
        reply = self.reply(msg_id, channel)
        assert reply["msg_type"] == msg_type.replace("_request", "_reply")
        assert self.transcript(msg_id) == [BUSY, IDLE]
        return reply["content"]

    def shut_down(self) -> None:
        msg_id = self.send("shutdown_request", {"restart": False}, "control")
        assert self.reply(msg_id, "control")["content"] == {"status": "ok", "restart": False}
        *published, idle = self.transcript(msg_id)
        assert idle == IDLE
        assert ("shutdown_reply", {"status": "ok", "restart": False}) in published

    def nothing_left(self) -> None:
        """Fail on unread messages; a round trip on each channel brings in what is on its way."""
        self.ask("kernel_info_request", {})
        self.ask("kernel_info_request", {}, "control")
        assert not self.stdin.poll(0)

    def close(self) -> None:
        for each in (self.shell, self.control, self.stdin, self.iopub):
            each.close()


BUSY = ("status", {"execution_state": "busy"})
IDLE = ("status", {"execution_state": "idle"})


def url(connection: dict, channel: str) -> str:
    between = ":" if connection["transport"] == "tcp" else "-"
    ip, port = connection["ip"], connection[f"{channel}_port"]
    return f"{connection['transport']}://{ip}{between}{port}"
