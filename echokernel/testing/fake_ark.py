"""A fake of ark for launcher authors: the kernel's end of a handshake request.

``python -m echokernel.testing.fake_ark -f FILE`` starts as ark does, is as strict as ark, and then
runs an echo kernel for stock clients. It was written after posit-dev/ark, ``crates/amalthea``, of
November 2026 (https://github.com/posit-dev/ark).

If FILE has five ports, it is a connection file. Otherwise the fake binds free ports, sends them in
a ``handshake_request`` and exits if no valid reply comes within 5 s. In both cases it exits if no
client subscribes to IOPub within 10 s. The exit status is then 101, as after a panic in Rust.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, TypeGuard

import zmq

from ..protocol.errors import WireError
from ..protocol.wire import JsonObject, Message, Signer, pack_message, unpack_message
from .fake_launcher import CHANNELS, SECOND_MS, new_header

PANIC = 101
"""Exit status of a Rust program that panics."""

KERNEL_INFO: JsonObject = {
    "status": "ok",
    "protocol_version": "5.4",  # As ark reports it, which supports more.
    "supported_features": ["iopub_welcome"],
    "implementation": "fake-ark",
    "implementation_version": "1",
    "language_info": {
        "name": "echo",
        "version": "1",
        "mimetype": "text/plain",
        "file_extension": ".txt",
    },
    "banner": "A fake of ark's end of the handshake",
    "help_links": [],
    "debugger": False,
}


class FakeArk:
    """An echo kernel that starts as ark does. Its sockets are bound here; `run` does the rest.

    Args:
        file: the content of the startup file.
        receipt_timeout: seconds to wait for the reply to the handshake request.
        subscriber_timeout: seconds to wait for the first subscriber of IOPub.
    """

    def __init__(
        self, file: JsonObject, *, receipt_timeout: float = 5, subscriber_timeout: float = 10
    ) -> None:
        self._receipt_timeout = receipt_timeout
        self._subscriber_timeout = subscriber_timeout
        ports = _ports_of(file)
        self._registration_port = None if ports else _registration_port(file)
        if ports and "registration_port" in file:
            # ark takes such a file for a connection file and does not register.
            _panic("five ports and a registration_port in one file: ark would not register")
        self._address = f"{file['transport']}://{file['ip']}"
        self._signer = Signer(file["key"].encode(), file["signature_scheme"])
        self._session = uuid.uuid4().hex
        self._executed = 0
        self._parent = os.getppid()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        kinds = (zmq.ROUTER, zmq.XPUB, zmq.ROUTER, zmq.ROUTER, zmq.REP)
        self._sockets = {
            channel: self._bind(kind, ports.get(channel, 0))
            for channel, kind in zip(CHANNELS, kinds, strict=True)
        }

    def _bind(self, kind: int, port: int) -> zmq.Socket[bytes]:
        sock = self._context.socket(kind)
        sock.linger = SECOND_MS
        try:
            sock.bind(f"{self._address}:{port}")
        except zmq.ZMQError as error:
            _panic(f"cannot bind {self._address}:{port}: {error}")
        return sock

    def run(self) -> None:
        """Register, wait for a subscriber, then handle requests until the shutdown request."""
        heartbeat = threading.Thread(target=self._echo_heartbeats, daemon=True)
        heartbeat.start()
        if self._registration_port is not None:
            self._register(self._registration_port)
        self._await_subscriber()
        self._handle_requests()
        self._sockets.pop("hb")  # Closed by its thread.
        for sock in self._sockets.values():
            sock.close()
        self._context.term()
        heartbeat.join()

    def _echo_heartbeats(self) -> None:
        heartbeat = self._sockets["hb"]
        try:
            zmq.proxy(heartbeat, heartbeat)
        except zmq.ContextTerminated:
            heartbeat.close()

    def _register(self, port: int) -> None:
        ports = {
            f"{channel}_port": int(sock.getsockopt_string(zmq.LAST_ENDPOINT).rpartition(":")[2])
            for channel, sock in self._sockets.items()
        }
        with self._context.socket(zmq.REQ) as registration:
            registration.linger = 0
            registration.connect(f"{self._address}:{port}")
            request = Message(new_header("handshake_request", self._session), content=ports)
            registration.send_multipart(pack_message(request, self._signer))
            if not registration.poll(int(self._receipt_timeout * SECOND_MS)):
                _panic(f"no handshake_reply within {self._receipt_timeout:g} s")
            try:
                reply = unpack_message(registration.recv_multipart(), self._signer)
            except WireError as error:
                _panic(f"the handshake_reply cannot be read: {error}")
        if reply.msg_type != "handshake_reply" or reply.content.get("status") != "ok":
            _panic(f"the launcher replied {reply.msg_type} with the content {reply.content}")

    def _await_subscriber(self) -> None:
        iopub = self._sockets["iopub"]
        if not iopub.poll(int(self._subscriber_timeout * SECOND_MS)):
            _panic(f"no client subscribed to IOPub within {self._subscriber_timeout:g} s")
        # As ark, only the first subscriber gets a welcome, and the welcome has no topic frame.
        topic = iopub.recv()[1:].decode()
        self._publish("iopub_welcome", {"subscription": topic}, {})
        self._publish("status", {"execution_state": "starting"}, {})

    def _handle_requests(self) -> None:
        poller = zmq.Poller()
        for channel in ("shell", "control", "stdin", "iopub"):
            poller.register(self._sockets[channel], zmq.POLLIN)
        while os.getppid() == self._parent:
            for ready, _ in poller.poll(SECOND_MS):
                frames = ready.recv_multipart()
                if ready in (self._sockets["shell"], self._sockets["control"]):
                    try:
                        request = unpack_message(frames, self._signer)
                    except WireError as error:
                        print(f"fake ark: dropped a message: {error}", file=sys.stderr)
                        continue
                    self._handle(request, ready)
                    if request.msg_type == "shutdown_request":
                        return

    def _handle(self, request: Message, channel: zmq.Socket[bytes]) -> None:
        self._publish("status", {"execution_state": "busy"}, request.header)
        content = self._reply_to(request)
        if content is not None:
            reply = Message(
                new_header(request.msg_type.replace("_request", "_reply"), self._session),
                request.header,
                content=content,
                identities=request.identities,
            )
            channel.send_multipart(pack_message(reply, self._signer))
        self._publish("status", {"execution_state": "idle"}, request.header)

    def _reply_to(self, request: Message) -> JsonObject | None:
        """Return the content of the reply, or None for a request without a reply."""
        match request.msg_type:
            case "kernel_info_request":
                return KERNEL_INFO
            case "execute_request":
                return self._execute(request)
            case "shutdown_request":
                return {"status": "ok", "restart": request.content.get("restart", False)}
            case "interrupt_request":
                return {"status": "ok"}
            case "comm_info_request":
                return {"status": "ok", "comms": {}}
            case "is_complete_request":
                return {"status": "unknown"}
        return None

    def _execute(self, request: Message) -> JsonObject:
        code = str(request.content.get("code", ""))
        self._executed += 1
        if not request.content.get("silent", False):
            executed = {"code": code, "execution_count": self._executed}
            self._publish("execute_input", executed, request.header)
            self._publish("stream", {"name": "stdout", "text": code}, request.header)
        return {"status": "ok", "execution_count": self._executed, "user_expressions": {}}

    def _publish(self, msg_type: str, content: JsonObject, parent: JsonObject) -> None:
        message = Message(new_header(msg_type, self._session), parent, content=content)
        self._sockets["iopub"].send_multipart(pack_message(message, self._signer))


def _ports_of(file: JsonObject) -> dict[str, int]:
    """Return channel -> port of a connection file; empty if the file is not a connection file."""
    values = {channel: file.get(f"{channel}_port") for channel in CHANNELS}
    ports = {channel: port for channel, port in values.items() if _is_u16(port)}
    return ports if len(ports) == len(CHANNELS) else {}


def _registration_port(file: JsonObject) -> int:
    port = file.get("registration_port")
    if not _is_u16(port):
        # ark's parser accepts a JSON number only, not a numeric string.
        _panic("neither a connection file nor a registration file: registration_port is not a u16")
    return port


def _is_u16(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 65535


def _read(path: str) -> JsonObject:
    try:
        file = json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        _panic(f"{path} cannot be read: {error}")
    names = ("transport", "ip", "key", "signature_scheme")
    missing = [n for n in names if not isinstance(file, dict) or not isinstance(file.get(n), str)]
    if missing:
        _panic(f"{path} has no {missing[0]}")
    return dict(file)


def _panic(reason: str) -> NoReturn:
    """Exit as a Rust program that panics: immediately, without sending pending messages."""
    print(f"fake ark: {reason}", file=sys.stderr, flush=True)
    os._exit(PANIC)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the fake until the shutdown request; return its exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m echokernel.testing.fake_ark", description="Run a fake of ark."
    )
    parser.add_argument("-f", dest="startup_file", metavar="FILE", required=True)
    parser.add_argument("--receipt-timeout", type=float, default=5, metavar="SECONDS")
    parser.add_argument("--subscriber-timeout", type=float, default=10, metavar="SECONDS")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # There is no computation to interrupt.
    FakeArk(
        _read(options.startup_file),
        receipt_timeout=options.receipt_timeout,
        subscriber_timeout=options.subscriber_timeout,
    ).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
