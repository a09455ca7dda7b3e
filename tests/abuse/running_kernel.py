"""A kernel's process, and clients that use it at the same time.

Nothing here imports echokernel's kernel. Every wait has a deadline.
"""

import contextlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import psutil
import zmq
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from echokernel.conformance.raw_client import DEADLINE, SECOND, RawClient
from echokernel.conformance.raw_messages import IDLE, PeerTimeout, parent_id_of, parse_message
from echokernel.conformance.raw_zmtp import ZmtpPeer

POLL_TIME = 0.5
"""Seconds without a message after which a client checks that the kernel still runs."""

MB = 1_000_000


class KernelExited(AssertionError):
    """The kernel's process exited while a client waited for a message."""


class ConcurrentClient(RawClient):
    """A client of a kernel that has other clients: it skips their messages.

    It belongs to one thread.

    Args:
        connection: content of the connection file.
        is_alive: returns True while the kernel's process runs.
        topics: the IOPub subscriptions.
    """

    def __init__(self, connection, is_alive, topics=(b"",)):
        self._is_alive = is_alive
        self._welcomed = set()
        context = zmq.Context()
        context.setsockopt(zmq.RCVHWM, 0)  # unread messages wait in this process
        context.setsockopt(zmq.SNDHWM, 0)
        try:
            super().__init__(context, connection, topics)
        except BaseException:
            context.destroy(linger=0)
            raise

    def connect(self, channel, kind, topics=()):
        """Return a connected socket; stdin stays unconnected.

        libzmq keeps 11 KB for each stdin connection that has closed, until the kernel reads stdin:
        its memory would not stay flat.
        """
        if channel == "stdin":
            return self.context.socket(kind)
        return super().connect(channel, kind, topics)

    def close(self):
        self.context.destroy(linger=0)

    def execute(self, code, **content):
        """Send a cell; return the request's id. The workload kernel understands a dict."""
        text = code if isinstance(code, str) else json.dumps(code)
        # A failed cell must not abort the next ones: each has its own answer.
        return super().execute(text, stop_on_error=False, **content)

    def run(self, code, timeout=DEADLINE):
        """Execute a cell; return the messages published for it. The reply must be ``ok``."""
        msg_id = self.execute(code)
        published = self.receive_until_idle(msg_id, timeout)
        assert self.receive_reply(msg_id)["content"]["status"] == "ok"
        return published

    def receive_on(self, channel, timeout=DEADLINE):
        """Return the next message of a channel.

        Raises:
            PeerTimeout: none arrived in time.
            PeerError: its signature is wrong, or it does not parse.
            KernelExited: the kernel's process exited.
        """
        sock = getattr(self, channel)
        deadline = time.monotonic() + timeout
        while True:
            try:
                return parse_message(sock.recv_multipart(zmq.NOBLOCK), self.key)
            except zmq.Again:
                remaining = max(0, deadline - time.monotonic())
                if sock.poll(min(POLL_TIME, remaining) * SECOND):
                    continue
            if not self._is_alive():
                raise KernelExited("the kernel's process exited")
            if time.monotonic() > deadline:
                raise PeerTimeout(f"a message on {channel}", timeout)

    def receive_reply(self, msg_id, channel="shell", timeout=DEADLINE):
        """Return the reply to a request; replies to other requests are discarded."""
        return self._receive_first(channel, lambda m: parent_id_of(m) == msg_id, timeout)

    def publications(self, msg_id, timeout=DEADLINE):
        """Yield (msg_type, content) of the messages published for a request, up to its idle status.

        Args:
            msg_id: the request's id.
            timeout: longest time between two messages of any kind, in seconds.
        """
        while True:
            message = self.receive_on("iopub", timeout)
            if parent_id_of(message) == msg_id:
                published = message["msg_type"], message["content"]
                yield published
                if published == IDLE:
                    return

    def receive_until_idle(self, msg_id, timeout=DEADLINE):
        return list(self.publications(msg_id, timeout))

    def expect_welcome(self, topic, timeout=DEADLINE):
        """Wait for the welcome to a topic (W2); the welcomes arrive in any order."""

        def is_last(message):
            if message["msg_type"] == "iopub_welcome":
                self._welcomed.add(message["content"]["subscription"].encode())
            return topic in self._welcomed

        if topic not in self._welcomed:
            self._receive_first("iopub", is_last, timeout)

    def _receive_first(self, channel, condition, timeout):
        deadline = time.monotonic() + timeout
        while True:
            message = self.receive_on(channel, max(0, deadline - time.monotonic()))
            if condition(message):
                return message


class RunningKernel:
    """A started kernel."""

    def __init__(self, manager, log):
        self._manager = manager
        self._log = log
        connection = manager.get_connection_info()
        self.connection = {**connection, "key": connection["key"].decode()}
        self.process = psutil.Process(manager.provisioner.pid)

    def is_alive(self):
        """Return True while the process runs; may be called from any thread."""
        try:
            return self.process.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False

    def client(self, topics=(b"",)):
        """Return the context manager of a client that has received its welcomes."""
        return contextlib.closing(ConcurrentClient(self.connection, self.is_alive, topics))

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

    def raw_peer(self, channel, socket_type):
        """Return the context manager of a peer without libzmq, which may lack the key."""
        host, port = self.address(channel)
        return ZmtpPeer(port, host, socket_type=socket_type)

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
    """Start a kernel in ``folder``, and wait until it has loaded its class; kill it at the end.

    Args:
        folder: for the kernelspec, the log, and as the kernel's working directory.
        words: more words of the kernel's command line.
        kernel_class: a class of this folder's `workload_kernel`, or of an installed package.
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
            # This folder is not a checkout, from which `python -m` would import echokernel.
            manager.start_kernel(cwd=str(folder), stdout=output, stderr=output)
        kernel = RunningKernel(manager, log)
        with kernel.client() as client:
            client.request("kernel_info_request", {})  # the welcome can precede the class
        yield kernel
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
        with contextlib.suppress(psutil.NoSuchProcess):  # the client reports the exit
            while not self._ended.wait(self.INTERVAL):
                self._peak = max(self._peak, self._kernel.memory())
