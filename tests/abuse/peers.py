"""A kernel's process and its peers: a client that checks every message, and a raw ZMTP peer.

Nothing here imports echokernel's kernel. Every wait has a deadline.
"""

import contextlib
import hashlib
import hmac
import json
import os
import select
import signal
import socket
import struct
import sys
import threading
import time
import uuid
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

import psutil
import zmq
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

DELIMITER = b"<IDS|MSG>"

DEADLINE = 20.0
"""Seconds for one message, generous because the machine may be loaded."""

POLL_TIME = 0.5
"""Seconds without a message after which a client checks that the kernel still runs."""

JOIN_RETRY = 200
"""Milliseconds between two requests whose answer proves the IOPub subscription."""

MB = 1_000_000


class KernelLost(AssertionError):
    """The kernel's process exited, or a message did not arrive or was invalid."""


class NoMessage(KernelLost):
    """No message arrived before the deadline."""


class InvalidMessage(KernelLost):
    """The frames are not a message, or the signature is wrong."""


class Message(NamedTuple):
    """The parts of a message that the tests use."""

    kind: str
    parent: str
    """The id of the request; empty without a request."""
    content: dict

    @property
    def is_idle(self):
        return self.kind == "status" and self.content["execution_state"] == "idle"


class Signer:
    """Signs and verifies with the key of a connection file."""

    def __init__(self, key):
        self._mac = hmac.new(key if isinstance(key, bytes) else key.encode(), None, hashlib.sha256)

    def sign(self, frames):
        mac = self._mac.copy()
        for frame in frames:
            mac.update(frame)
        return mac.hexdigest().encode()

    def parse(self, frames):
        """Return the message in ``frames``; raise InvalidMessage."""
        try:
            start = frames.index(DELIMITER) + 1
            signed = frames[start + 1 : start + 5]
            if not hmac.compare_digest(self.sign(signed), frames[start]):
                raise InvalidMessage("the kernel sent a message with a wrong signature")
            header, parent, _, content = map(json.loads, signed)
            return Message(header["msg_type"], parent.get("msg_id", ""), content)
        except (LookupError, ValueError, TypeError) as error:
            raise InvalidMessage(f"the kernel sent an invalid message: {error!r}") from error


class Client:
    """A client that checks every message. It belongs to one thread.

    Args:
        connection: content of the connection file.
        is_alive: returns True while the kernel's process runs.
        topics: the IOPub subscriptions.
    """

    def __init__(self, connection, is_alive, topics=(b"",)):
        self._signer = Signer(connection["key"])
        self._is_alive = is_alive
        self.session = uuid.uuid4().hex
        self._sent = 0
        self._context = zmq.Context()
        self._sockets = {}
        for channel, kind in {"shell": zmq.DEALER, "control": zmq.DEALER, "iopub": zmq.SUB}.items():
            sock = self._sockets[channel] = self._context.socket(kind)
            sock.linger = 0
            sock.set_hwm(0)  # unread messages wait in this process
            if kind == zmq.SUB:
                for topic in topics:  # before connecting (S1)
                    sock.subscribe(topic)
            sock.connect(endpoint(connection, channel))

    def close(self):
        self._context.destroy(linger=0)

    def join(self):
        """Return when the kernel answers on shell and IOPub."""
        deadline = time.monotonic() + DEADLINE
        while True:
            self.send("kernel_info_request", {})
            # Messages published before the subscription never arrive: repeat until one does.
            if self._sockets["iopub"].poll(JOIN_RETRY):
                break
            self._check(deadline, "a message on iopub")
        self.catch_up()

    def catch_up(self):
        """Return when everything that was published before has been read."""
        for _ in self.published(self.send("kernel_info_request", {})):
            pass

    def send(self, kind, content, channel="shell"):
        """Send a request; return its id."""
        self._sent += 1
        msg_id = f"{self.session}_{self._sent}"
        header = {
            "msg_id": msg_id,
            "msg_type": kind,
            "session": self.session,
            "username": "test",
            "date": datetime.now(timezone.utc).isoformat(),
            "version": "5.3",
        }
        signed = [json.dumps(header).encode(), b"{}", b"{}", json.dumps(content).encode()]
        frames = [DELIMITER, self._signer.sign(signed), *signed]
        self._sockets[channel].send_multipart(frames)
        return msg_id

    def execute(self, code, **content):
        """Send a cell; return the request's id. A dict is an order to the workload kernel."""
        text = code if isinstance(code, str) else json.dumps(code)
        # A failed cell must not abort the next ones: each has its own answer.
        return self.send("execute_request", {"code": text, "stop_on_error": False, **content})

    def run(self, code, seconds=DEADLINE):
        """Execute a cell; return the messages published for it. The reply must be ``ok``."""
        msg_id = self.execute(code)
        published = list(self.published(msg_id, seconds))
        assert self.reply(msg_id).content["status"] == "ok"
        return published

    def ask(self, kind, channel="shell"):
        """Send a request without content; return the reply's content."""
        return self.reply(self.send(kind, {}, channel), channel=channel).content

    def reply(self, msg_id, seconds=DEADLINE, channel="shell"):
        """Return the reply to a request; replies to others are discarded."""
        deadline = time.monotonic() + seconds
        while (message := self.receive(channel, deadline)).parent != msg_id:
            pass
        return message

    def published(self, msg_id, seconds=DEADLINE):
        """Yield the messages published for a request, up to its idle status.

        Args:
            msg_id: the request's id.
            seconds: longest time between two messages of any kind.
        """
        while True:
            message = self.receive("iopub", time.monotonic() + seconds)
            if message.parent == msg_id:
                yield message
                if message.is_idle:
                    return

    def receive(self, channel, deadline):
        """Return the next message; ``deadline`` is of the monotonic clock.

        Raises:
            NoMessage: none arrived in time.
            InvalidMessage: the kernel did not sign it, or it does not parse.
            KernelLost: the kernel's process exited.
        """
        sock = self._sockets[channel]
        while True:
            try:
                return self._signer.parse(sock.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                remaining = max(0, deadline - time.monotonic())
                if not sock.poll(min(POLL_TIME, remaining) * 1000):
                    self._check(deadline, f"a message on {channel}")

    def _check(self, deadline, awaited):
        if not self._is_alive():
            raise KernelLost("the kernel's process exited")
        if time.monotonic() > deadline:
            raise NoMessage(f"no answer in time: {awaited}")


def endpoint(connection, channel):
    return f"{connection['transport']}://{connection['ip']}:{connection[f'{channel}_port']}"


# --- a peer without libzmq -----------------------------------------------------------------------

GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
"""Signature, version 3.0, mechanism, role (client): https://rfc.zeromq.org/spec:23/ZMTP"""

MORE, LONG, COMMAND = 1, 2, 4
"""Flags of a frame: another one follows; the size has 8 bytes; the frame is a command."""

CHUNK = 1 << 20
"""Bytes for one read."""


class RawPeer:
    """One ZMTP 3.0 connection without encryption, on plain TCP.

    It does what libzmq's sockets cannot: it stops reading, stops in the middle of its greeting, and
    sends frames of any size. (An XSUB socket that sends a topic of 10 MB crashes its own process.)

    Args:
        address: IP address and port.
        kind: the socket type in the handshake; it must suit the kernel's socket.

    Raises:
        OSError: no connection, or the kernel closed it.
    """

    def __init__(self, address, kind=b"SUB"):
        self._socket = socket.create_connection(address, timeout=DEADLINE)
        self._buffer, self._position = b"", 0
        deadline = time.monotonic() + DEADLINE
        try:
            self._socket.sendall(GREETING)
            self._read(len(GREETING), deadline)
            ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", len(kind)) + kind
            self._socket.sendall(bytes([COMMAND, len(ready)]) + ready)
            self._read_frame(deadline)  # the kernel's READY
        except BaseException:
            self._socket.close()
            raise

    def close(self):
        self._socket.close()

    def subscribe(self, topic):
        """Subscribe; raise OSError if the kernel closed the connection."""
        self.send([b"\x01" + topic])

    def send(self, frames):
        """Send one message; raise OSError if the kernel closed the connection."""
        last = len(frames) - 1
        self._socket.sendall(b"".join(frame(body, i < last) for i, body in enumerate(frames)))

    def receive(self, seconds=DEADLINE):
        """Return the frames of the next message.

        Raises:
            TimeoutError: none arrived in time.
            ConnectionError: the kernel closed the connection.
        """
        deadline = time.monotonic() + seconds
        frames, flags = [], MORE
        while flags & MORE:
            flags, body = self._read_frame(deadline)
            if flags & COMMAND:
                flags |= MORE  # a command stands between messages
            else:
                frames.append(body)
        return frames

    def _read_frame(self, deadline):
        flags, size = self._read(2, deadline)
        if flags & LONG:
            size = int.from_bytes(bytes([size]) + self._read(7, deadline), "big")
        return flags, self._read(size, deadline)

    def _read(self, size, deadline):
        if len(self._buffer) - self._position < size:
            parts = [self._buffer[self._position :]]
            missing = size - len(parts[0])
            while missing > 0:
                remaining = max(0, deadline - time.monotonic())
                if not select.select([self._socket], [], [], remaining)[0]:
                    raise TimeoutError("the kernel sent nothing in time")
                chunk = self._socket.recv(CHUNK)
                if not chunk:
                    raise ConnectionError("the kernel closed the connection")
                parts.append(chunk)
                missing -= len(chunk)
            self._buffer, self._position = b"".join(parts), 0
        self._position += size
        return self._buffer[self._position - size : self._position]


def frame(body, more=False):
    """Return the bytes of one frame."""
    if len(body) < 256:
        return bytes([MORE * more, len(body)]) + body
    return bytes([MORE * more | LONG]) + struct.pack(">Q", len(body)) + body


# --- the kernel's process ------------------------------------------------------------------------


class RunningKernel:
    """A started kernel."""

    def __init__(self, manager, log):
        self._manager = manager
        self._log = log
        self.connection = manager.get_connection_info()
        self.process = psutil.Process(manager.provisioner.pid)

    def is_alive(self):
        """Return True while the process runs; may be called from any thread."""
        try:
            return self.process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    @contextlib.contextmanager
    def client(self):
        """Provide a client that has joined."""
        with contextlib.closing(Client(self.connection, self.is_alive)) as client:
            client.join()
            yield client

    @contextlib.contextmanager
    def stock_client(self):
        """Provide jupyter_client's own client, ready."""
        client = self._manager.client()
        client.start_channels(hb=False)
        try:
            client.wait_for_ready(timeout=DEADLINE)
            yield client
        finally:
            client.stop_channels()

    def address(self, channel):
        return self.connection["ip"], self.connection[f"{channel}_port"]

    def interrupt(self):
        """Send SIGINT to the process alone."""
        os.kill(self.process.pid, signal.SIGINT)

    def memory(self):
        """Return the resident memory, in bytes."""
        return self.process.memory_info().rss

    def log(self):
        """Return what the process has written to stdout and stderr."""
        return self._log.read_text(encoding="utf-8", errors="replace")


@contextlib.contextmanager
def start_kernel(folder, *words, kernel_class="workload_kernel:WorkloadKernel"):
    """Start a kernel in ``folder``; kill it at the end.

    Args:
        folder: for the kernelspec, the log, and as the kernel's working directory.
        words: more words of the kernel's command line.
        kernel_class: of this folder's `workload_kernel`, or of an installed package.
    """
    spec = {
        "argv": [sys.executable, "-m", "echokernel", "--kernel-class", kernel_class, *words,
                 "-f", "{connection_file}"],
        "env": {"PYTHONPATH": str(Path(__file__).parent)},
        "display_name": "under test",
        "language": "workload",
        "kernel_protocol_version": "5.6",
        "metadata": {"kernel_provisioner": {"provisioner_name": "handshake-provisioner"}},
    }  # fmt: skip
    kernels = folder / "kernels"
    (kernels / "under-test").mkdir(parents=True)
    (kernels / "under-test" / "kernel.json").write_text(json.dumps(spec), encoding="utf-8")
    specs = KernelSpecManager(kernel_dirs=[str(kernels)])
    manager = KernelManager(kernel_name="under-test", kernel_spec_manager=specs)
    log = folder / "kernel.log"
    try:
        with log.open("wb") as output:
            # The folder is not a checkout: `python -m` would import echokernel from there.
            manager.start_kernel(cwd=str(folder), stdout=output, stderr=output)
        yield RunningKernel(manager, log)
    finally:
        if manager.has_kernel:
            manager.shutdown_kernel(now=True)
        manager.cleanup_resources()
        manager.context.destroy(linger=0)


class MemoryWatch:
    """Records the highest resident memory of a kernel while the ``with`` block runs."""

    INTERVAL = 0.02

    def __init__(self, kernel):
        self._kernel = kernel
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self):
        self._before = self._peak = self._kernel.memory()
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()

    @property
    def growth(self):
        """Bytes from the beginning to the peak."""
        return self._peak - self._before

    def _watch(self):
        with contextlib.suppress(psutil.NoSuchProcess):  # the client reports that
            while not self._ended.wait(self.INTERVAL):
                self._peak = max(self._peak, self._kernel.memory())
