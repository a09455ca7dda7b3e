"""What the tests of comms have in common: clients that open comms and ask over them."""

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
    """A client that hears comms; it skips on IOPub what it does not look for."""

    welcomed: tuple = ()

    def __init__(self, context, connection, topics=(b"",), session: str | None = None):
        super().__init__(context, connection, topics)
        self.session = session or self.session

    def expect_welcome(self, topic: bytes, timeout: float = DEADLINE) -> None:
        """Wait for a welcome; those of several topics come in any order."""
        while topic not in self.welcomed:
            got = self.next(lambda m: m["msg_type"] == "iopub_welcome", timeout)
            self.welcomed += (got["content"]["subscription"].encode(),)

    def next(self, wanted, timeout: float = DEADLINE) -> dict:
        """Return the next message on IOPub for which ``wanted(message)`` is true."""
        while True:
            got = self.receive_on("iopub", timeout)
            if wanted(got):
                return got

    def receive_reply(self, msg_id: str, channel: str = "shell", timeout: float = DEADLINE) -> dict:
        """Return the reply to a request; those to earlier ones are of no interest here."""
        while True:
            got = self.receive_on(channel, timeout)
            if got["parent_header"]["msg_id"] == msg_id:
                return got

    def idle(self, msg_id: str, timeout: float = DEADLINE) -> list[dict]:
        """Return what is published for a request, to its idle."""
        said = []
        while not said or said[-1]["content"] != {"execution_state": "idle"}:
            said.append(self.next(lambda m: m["parent_header"].get("msg_id") == msg_id, timeout))
        return said

    def open(self, comm_id: str, target: str = "echo") -> None:
        msg_id = self.send("comm_open", {"comm_id": comm_id, "target_name": target, "data": {}})
        kinds = [got["msg_type"] for got in self.idle(msg_id)]
        assert kinds == ["status", "status"], "nothing but busy and idle"

    def tell(self, comm_id: str, data: object) -> str:
        return self.send("comm_msg", {"comm_id": comm_id, "data": data})

    def call(self, comm_id: str, method: str, *params: object) -> int:
        """Send a request over a comm; return its id."""
        request = {"jsonrpc": "2.0", "id": next(_ids), "method": method, "params": list(params)}
        self.tell(comm_id, request)
        return request["id"]

    def answer_to(self, id_: object) -> dict:
        """Return the kernel's answer to a request."""

        def answers(got):
            data = got["content"].get("data")
            return isinstance(data, dict) and data.get("id") == id_ and "method" not in data

        return self.next(answers)["content"]["data"]

    def result(self, comm_id: str, method: str, *params: object) -> object:
        return self.answer_to(self.call(comm_id, method, *params))["result"]

    def asked(self, comm_id: str) -> dict:
        """Return the next request of the kernel over a comm."""

        def asks(got):
            return got["content"].get("comm_id") == comm_id and "method" in got["content"]["data"]

        return self.next(asks)["content"]["data"]

    def answer(self, comm_id: str, id_: object, result: object) -> str:
        return self.tell(comm_id, {"jsonrpc": "2.0", "id": id_, "result": result})

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
    """A client that hears no comms, so that they know nothing of it."""

    def __init__(self, context, connection):
        super().__init__(context, connection, (b"kernel.",))

    def sees(self, *comm_ids: str) -> None:
        """Wait until exactly these comms are open."""
        poll_until(lambda: self.comms() == set(comm_ids), f"open comms are {comm_ids}")


def start_comm_kernel(tmp_path, start, *options, **keys) -> dict:
    """Start the kernel of these tests; return how to connect to it."""

    def start_it(path, *arguments):
        start(path, "--kernel-class", COMM_KERNEL, *arguments, **KERNEL_PATH)

    return start_classic(tmp_path, start_it, *options, **keys)


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
                assert selector.select(DEADLINE), f"{wanted} was not said, but {before}"
            line = self.process.stdout.raw.readline().decode().strip()
            assert line, f"the client ended before it said {wanted}; it said {before}"
            if line == wanted:
                return before
            before.append(line)

    def end(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE)
        self.process.stdout.close()


class TcpProxy:
    """A TCP proxy for one port, whose connections can be cut; ``let_in`` False: nobody gets in."""

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
            if not self._open.is_set():  # it was let in while the door was being shut
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

    def cut(self, let_in: bool) -> None:
        """Cut all connections."""
        if not let_in:
            self._open.clear()
        while self._pairs:
            each = self._pairs.pop()
            with contextlib.suppress(OSError):  # its other end was quicker
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def open(self) -> None:
        self._open.set()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut(let_in=True)
        self.open()
