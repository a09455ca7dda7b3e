"""Clients that open comms and send requests over them, for the tests of comms."""

from __future__ import annotations

import contextlib
import itertools
import os
import selectors
import socket
import subprocess
import sys
import threading

from echokernel.conformance.raw_client import RawClient

from . import KERNEL_PATH
from .kernel_processes import start_classic
from .waits import DEADLINE, poll_until

HERE = os.path.dirname(__file__)
COMM_KERNEL = "support.comm_kernels:CommKernel"

_ids = itertools.count(1)


class CommClient(RawClient):
    """A client that receives comm messages; it skips other messages on IOPub."""

    welcomed: tuple = ()

    def __init__(self, context, connection, topics=(b"",), session: str | None = None):
        super().__init__(context, connection, topics)
        self.session = session or self.session

    def expect_welcome(self, topic: bytes, timeout: float = DEADLINE) -> None:
        """Wait for a welcome; the welcomes to several topics arrive in any order."""
        while topic not in self.welcomed:
            welcome = self.next(lambda m: m["msg_type"] == "iopub_welcome", timeout)
            self.welcomed += (welcome["content"]["subscription"].encode(),)

    def next(self, wanted, timeout: float = DEADLINE) -> dict:
        """Return the next message on IOPub for which ``wanted(message)`` is true."""
        while True:
            message = self.receive_on("iopub", timeout)
            if wanted(message):
                return message

    def receive_reply(self, msg_id: str, channel: str = "shell", timeout: float = DEADLINE) -> dict:
        """Return the reply to a request; replies to other requests are skipped."""
        while True:
            reply = self.receive_on(channel, timeout)
            if reply["parent_header"]["msg_id"] == msg_id:
                return reply

    def idle(self, msg_id: str, timeout: float = DEADLINE) -> list[dict]:
        """Return the messages that are published for a request, up to its idle status."""
        messages = []
        while not messages or messages[-1]["content"] != {"execution_state": "idle"}:
            message = self.next(lambda m: m["parent_header"].get("msg_id") == msg_id, timeout)
            messages.append(message)
        return messages

    def open(self, comm_id: str, target: str = "echo") -> None:
        msg_id = self.send("comm_open", {"comm_id": comm_id, "target_name": target, "data": {}})
        kinds = [message["msg_type"] for message in self.idle(msg_id)]
        assert kinds == ["status", "status"], "the messages are not busy and idle only"

    def send_data(self, comm_id: str, data: object) -> str:
        """Send a comm_msg; return its id."""
        return self.send("comm_msg", {"comm_id": comm_id, "data": data})

    def call(self, comm_id: str, method: str, *params: object) -> int:
        """Send a request over a comm; return its id."""
        request = {"jsonrpc": "2.0", "id": next(_ids), "method": method, "params": list(params)}
        self.send_data(comm_id, request)
        return request["id"]

    def receive_response(self, id_: object) -> dict:
        """Return the kernel's response to a request."""

        def is_response(message):
            data = message["content"].get("data")
            return isinstance(data, dict) and data.get("id") == id_ and "method" not in data

        return self.next(is_response)["content"]["data"]

    def result(self, comm_id: str, method: str, *params: object) -> object:
        return self.receive_response(self.call(comm_id, method, *params))["result"]

    def asked(self, comm_id: str) -> dict:
        """Return the next request of the kernel over a comm."""

        def is_request(message):
            content = message["content"]
            return content.get("comm_id") == comm_id and "method" in content["data"]

        return self.next(is_request)["content"]["data"]

    def answer(self, comm_id: str, id_: object, result: object) -> str:
        return self.send_data(comm_id, {"jsonrpc": "2.0", "id": id_, "result": result})

    def closed(self, comm_id: str) -> dict:
        """Wait for the comm_close of a comm."""
        return self.next(
            lambda m: m["msg_type"] == "comm_close" and m["content"]["comm_id"] == comm_id
        )

    def comms(self) -> set[str]:
        """Return the ids of the open comms."""
        msg_id = self.send("comm_info_request", {}, "control")
        return set(self.receive_reply(msg_id, "control")["content"]["comms"])


class Observer(CommClient):
    """A client without a comm topic: comms do not depend on it."""

    def __init__(self, context, connection):
        super().__init__(context, connection, (b"kernel.",))

    def sees(self, *comm_ids: str) -> None:
        """Wait until exactly these comms are open."""
        poll_until(lambda: self.comms() == set(comm_ids), f"open comms are {comm_ids}")


def start_comm_kernel(tmp_path, start, *options, **keys) -> dict:
    """Start a `CommKernel`; return the content of its connection file."""

    def start_kernel(path, *arguments):
        start(path, "--kernel-class", COMM_KERNEL, *arguments, **KERNEL_PATH)

    return start_classic(tmp_path, start_kernel, *options, **keys)


class ClientProcess:
    """A client in another process (comm_client_process.py)."""

    def __init__(self, path, comm_id, target, *topics, within=()):
        words = [
            sys.executable,
            f"{HERE}/comm_client_process.py",
            str(path),
            comm_id,
            target,
            *topics,
        ]
        self.process = subprocess.Popen(
            [*within, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        self.line("ready")

    @property
    def pid(self) -> int:
        return self.process.pid

    def line(self, wanted: str) -> list[str]:
        """Read lines up to ``wanted``; return those before it."""
        before = []
        while True:
            with selectors.DefaultSelector() as selector:
                selector.register(self.process.stdout, selectors.EVENT_READ)
                assert selector.select(DEADLINE), f"no line {wanted!r} after {before}"
            line = self.process.stdout.raw.readline().decode().strip()
            assert line, f"the client exited before the line {wanted!r}; it printed {before}"
            if line == wanted:
                return before
            before.append(line)

    def end(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE)
        self.process.stdout.close()


class TcpProxy:
    """A TCP proxy for one port. The tests close its connections, and refuse new ones."""

    def __init__(self, port: int):
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[socket.socket] = []
        self._open = threading.Event()
        self._open.set()
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            self._open.wait()
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if not self._open.is_set():  # accepted while `cut` was called
                client.close()
                continue
            kernel = socket.create_connection(self._target)
            self._pairs += [client, kernel]
            for one, other in ((client, kernel), (kernel, client)):
                threading.Thread(target=self._pump, args=(one, other), daemon=True).start()

    @staticmethod
    def _pump(one: socket.socket, other: socket.socket) -> None:
        try:
            while data := one.recv(65536):
                other.sendall(data)
        except OSError:
            return

    def cut(self, accept_new: bool) -> None:
        """Close all connections; refuse new ones until `open` unless ``accept_new``."""
        if not accept_new:
            self._open.clear()
        while self._pairs:
            connection = self._pairs.pop()
            with contextlib.suppress(OSError):  # the peer has closed it
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()

    def open(self) -> None:
        self._open.set()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut(accept_new=True)
        self.open()
