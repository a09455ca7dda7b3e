"""Behaviour of the kernels in this environment: ``python docs/support_table.py`` prints the table.

Each kernel is started from its kernelspec, and measured over raw sockets. The script imports no
module of echokernel, so that all columns are measured in the same way. Every wait is bounded.
"""

import hashlib
import hmac
import json
import os
import socket
import struct
import subprocess
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory

import zmq
from jupyter_client.connect import write_connection_file
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
from jupyter_client.launcher import launch_kernel

KERNELS = {  # distribution: its kernelspec
    "echokernel": "echo-handshake",
    "ipykernel": "python3",
    "xeus-python": "xpython-raw",
    "async-kernel": "async",
}
ROWS = {
    "first": "first client welcomed",
    "second": "second client welcomed",
    "topic": "subscriber of a topic welcomed by it",
    "busy": "welcomed while user code keeps the main thread busy",
    "odd": "a topic that is not UTF-8 disturbs no other client",
    "junk": "junk on IOPub survived",
    "memory": "memory that a topic of 10 MB costs",
    "signed-frame": "handshake: signed frame",
    "handshake-request": "handshake: handshake request",
    "info": "`kernel_info`: protocol; lists `iopub_welcome`",
    "spec": "kernelspec: `kernel_protocol_version`",
}
DELIMITER = b"<IDS|MSG>"
KEY = uuid.uuid4().hex
HOST = "127.0.0.1"
SLEEPER = """
from echokernel.kernel import EchoKernel
class Sleeper(EchoKernel):
    def do_execute(self, code, silent, *args, **kwargs):
        exec(code, {})
        return super().do_execute("", silent, *args, **kwargs)
"""  # echo's language cannot sleep; the language is an author's part, so this is fair


def log(line):
    sys.stderr.write(f"{line}\n")


def sign(*frames):
    return hmac.new(KEY.encode(), b"".join(frames), hashlib.sha256).hexdigest().encode()


def compose(msg_type, content, parent=None):
    """Return (msg_id, frames) of a message."""
    header = {"msg_id": uuid.uuid4().hex, "msg_type": msg_type, "version": "5.6"}
    header |= {"session": KEY, "username": "table", "date": "2026-11-21T00:00:00.000000Z"}
    parts = [json.dumps(part).encode() for part in (header, parent or {}, {}, content)]
    return header["msg_id"], [DELIMITER, sign(*parts), *parts]


def parse(frames):
    """Return (topics, header, parent, content); None if message or signature is invalid."""
    with suppress(ValueError):  # no delimiter, too few frames, not JSON
        at = frames.index(DELIMITER)
        signature, header, parent, metadata, content = frames[at + 1 : at + 6]
        if signature == sign(header, parent, metadata, content):
            return frames[:at], json.loads(header), json.loads(parent) or {}, json.loads(content)
    return None


class Kernel:
    """The process of a kernel, and sockets that are connected to it."""

    def connect(self, channel, kind, topic=None):
        sock = self.context.socket(kind)
        self.sockets.append(sock)  # closed when the kernel is stopped
        if topic is not None:  # before connecting: a welcome is sent once
            sock.subscribe(topic)
        sock.connect(f"tcp://{HOST}:{self.ports[f'{channel}_port']}")
        return sock

    def connect_shell(self, ports):
        self.ports = ports
        self.shell = self.connect("shell", zmq.DEALER)

    def receive(self, sock, seconds=5):
        """Yield messages until the time is over or the process has ended."""
        deadline = time.monotonic() + seconds
        while (remaining := deadline - time.monotonic()) > 0 and self.popen.poll() is None:
            if sock.poll(min(remaining, 0.1) * 1000):
                yield sock.recv_multipart()

    def info(self, seconds=5):
        """Return (msg_id, content) of a kernel_info exchange; content is None without a reply."""
        msg_id, frames = compose("kernel_info_request", {})
        self.shell.send_multipart(frames)
        for _, _, parent, content in filter(None, map(parse, self.receive(self.shell, seconds))):
            if parent.get("msg_id") == msg_id:
                return msg_id, content
        return msg_id, None

    def welcome(self, subscriber, topic="", seconds=5):
        """Return the frames of the welcome for this topic, or None."""
        for frames in self.receive(subscriber, seconds):
            _, header, _, content = parse(frames) or (0, {}, 0, 0)
            if header.get("msg_type") == "iopub_welcome" and content == {"subscription": topic}:
                return frames
        return None

    def failure(self):
        """Return what fails for a new client; an empty text if everything works."""
        subscriber = self.connect("iopub", zmq.SUB, b"")
        for _ in range(4):  # without a welcome, repeat the request until the subscription is live
            msg_id, reply = self.info()
            if reply is None:
                return "no answer on shell" if self.popen.poll() is None else "it dies"
            states = set()
            for _, _, parent, content in filter(None, map(parse, self.receive(subscriber, 1))):
                if parent.get("msg_id") == msg_id:
                    states.add(content.get("execution_state"))
                if states >= {"busy", "idle"}:
                    return ""
        return "nothing on IOPub"

    def resident(self):
        """Return the resident memory in MB."""
        with suppress(ImportError):
            import psutil

            return psutil.Process(self.popen.pid).memory_info().rss / 1e6
        status = Path(f"/proc/{self.popen.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024 / 1e6


@contextmanager
def started(spec, *more, registration=None):
    """Yield a new kernel, started as by jupyter_client; afterwards nothing of it remains."""
    kernel = Kernel()
    with TemporaryDirectory(prefix="support-", ignore_cleanup_errors=True) as folder:
        Path(folder, "sleeper.py").write_text(SLEEPER)
        file = f"{folder}/kernel.json"
        if registration:
            Path(file).write_text(json.dumps(registration))
        else:  # classic: another process can bind these ports before the kernel does
            _, ports = write_connection_file(file, ip=HOST, key=KEY.encode())
        argv = [word.replace("{connection_file}", file) for word in spec["argv"]]
        if argv[0] in ("python", "python3", "python{}.{}".format(*sys.version_info)):
            argv[0] = sys.executable
        folders = dict.fromkeys(("JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "PYTHONPATH"), folder)
        quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        kernel.context, kernel.sockets, kernel.folder = zmq.Context(), [], folder
        kernel.popen = launch_kernel([*argv, *more], env=os.environ | folders, **quiet)
        try:
            if not registration:
                kernel.connect_shell(ports)
                kernel.info_reply = kernel.info(15)[1]
                assert kernel.info_reply, "does not start"
            yield kernel
        finally:
            kernel.popen.kill()
            kernel.popen.wait(10)
            kernel.context.destroy(linger=0)


def welcomes(spec):
    """Connect three subscribers, one after the other; all of them stay connected."""
    with started(spec) as kernel:
        first = kernel.connect("iopub", zmq.SUB, b"")
        cells = {"first": "no", "second": "no", "topic": "no"}
        if frames := kernel.welcome(first):
            parent = frames[frames.index(DELIMITER) + 3].decode()
            cells["first"] = "yes" if parent == "{}" else f"yes, but `parent_header: {parent}`"
        if kernel.welcome(kernel.connect("iopub", zmq.SUB, b"")):
            cells["second"] = "yes"
        if frames := kernel.welcome(kernel.connect("iopub", zmq.SUB, b"stream"), "stream"):
            cells["topic"] = "yes" if frames[0] == b"stream" else f"no: on {frames[0]!r}"
        elif (frames := kernel.welcome(first, "stream", 0.5)) and frames[0] in (b"", DELIMITER):
            cells["topic"] = "no: sent without the topic"
        listed = "iopub_welcome" in kernel.info_reply.get("supported_features", [])
        cells["info"] = (
            f"{kernel.info_reply.get('protocol_version', 'none')}; {'yes' if listed else 'no'}"
        )
    return {**cells, "spec": spec.get("kernel_protocol_version", "none")}


def busy(spec):
    """Connect the first client while a cell sleeps."""
    more = ["--kernel-class", "sleeper:Sleeper"] if spec["language"] == "echo" else []
    with started(spec, *more) as kernel:
        mark = Path(kernel.folder, "running")
        code = f"open({str(mark)!r}, 'w').close(); import time; time.sleep(5)"
        kernel.shell.send_multipart(compose("execute_request", {"code": code, "silent": False})[1])
        deadline = time.monotonic() + 10
        while not mark.exists():
            assert time.monotonic() < deadline, "the cell does not run"
            time.sleep(0.02)
        frames = kernel.welcome(kernel.connect("iopub", zmq.SUB, b""), seconds=4)
        return {"busy": "yes" if frames and not kernel.shell.poll(0) else "no"}


def frame(body, more=False):
    """Return a frame of ZMTP 3.0."""
    long = len(body) > 255
    return bytes([more | long << 1]) + struct.pack(">Q" if long else "B", len(body)) + body


JUNK = {
    "odd": {"": frame(b"\x01\xff\xfe")},
    "junk": {  # libzmq's own SUB never sends these
        " of an empty frame": frame(b""),
        " of half a frame": frame(b"\x01" + b"x" * 99)[:9],
        " of a first byte 2": frame(b"\x02topic"),
        " of several frames": frame(b"\x01a", more=True) + frame(b"b"),
    },
}


def raw_subscriber(kernel, sent):
    """Return a TCP connection to IOPub that sends the greeting of a SUB, and then these bytes."""
    raw = socket.create_connection((HOST, kernel.ports["iopub_port"]), 5)
    ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", 3) + b"SUB"
    raw.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32))
    raw.sendall(b"\x04" + bytes([len(ready)]) + ready)
    answer = b""
    while b"READY" not in answer:  # bytes that a SUB sends earlier can be lost
        answer += (received := raw.recv(4096))
        assert received, "IOPub disconnects a SUB"
    with suppress(OSError):  # the kernel can disconnect this peer
        raw.sendall(sent)
    return raw


def junk(spec):
    """Send junk, and name the first kind after which a new client does not work."""
    cells = {"odd": "yes", "junk": "yes"}
    for row in cells:
        with started(spec) as kernel:
            for name, sent in JUNK[row].items():
                with raw_subscriber(kernel, sent):
                    time.sleep(0.4)
                if failure := kernel.failure():
                    cells[row] = f"no: {failure}{name}"
                    break
    return cells


def memory(spec):
    """Watch the memory until it has not grown for a second; then disconnect the client."""
    with started(spec) as kernel:
        peak = before = kernel.resident()
        with raw_subscriber(kernel, frame(b"\x01" + b"x" * 10_000_000)):
            start = grown = time.monotonic()
            while kernel.popen.poll() is None and time.monotonic() < min(grown + 1, start + 6):
                if (now := kernel.resident()) > peak + 1:
                    peak, grown = now, time.monotonic()
                time.sleep(0.05)
        time.sleep(0.5)
        failure = kernel.failure()
    return {"memory": f"{peak - before:.0f} MB" + (f"; {failure} afterwards" if failure else "")}


def answer_registration(frames):
    """Return (ports, frames of the receipt) for a registration in either form."""
    if frames[0] != DELIMITER:  # from a ROUTER
        identity, delimiter, signature, body = frames
        assert (delimiter, signature) == (DELIMITER, sign(body)), "not a signed frame"
        return json.loads(body), [identity, DELIMITER, sign(b"ACK"), b"ACK"]
    _, header, _, ports = parse(frames)
    assert header["msg_type"] == "handshake_request"
    return ports, compose("handshake_reply", {"status": "ok"}, header)[1]


def handshake(spec, form="signed-frame", kind=zmq.ROUTER):
    """Let a kernel register in this form, and send a request to its shell port."""
    file = {"transport": "tcp", "ip": HOST, "signature_scheme": "hmac-sha256", "key": KEY}
    with zmq.Context() as context, context.socket(kind) as peer:
        file["registration_port"] = peer.bind_to_random_port(f"tcp://{HOST}")
        if kind == zmq.ROUTER:
            file |= {"kernel_id": "one", "registration_ip": HOST}
            file["registration_port"] = str(file["registration_port"])
        with started(spec, registration=file) as kernel:
            for frames in kernel.receive(peer, 10):
                ports, receipt = answer_registration(frames)
                peer.send_multipart(receipt)
                kernel.connect_shell(ports)
                return {form: "yes" if kernel.info()[1] else "no: registers, then no answer"}
    return {form: "no"}


def handshake_request(spec):
    return handshake(spec, "handshake-request", zmq.REP)


def run(job):
    """Run one check of one kernel, and once more if the check itself fails."""
    name, spec, check = job
    for _ in range(2):
        log(f"{name}: {check.__name__}")
        try:
            return name, check(spec)
        except Exception as error:
            log(f"{name}: {check.__name__}: {error!r}")
    return name, {}


def installed():
    """Return {distribution: kernelspec} of this environment, and of no other."""
    manager = KernelSpecManager(kernel_dirs=[f"{sys.prefix}/share/jupyter/kernels"])
    specs = {}
    for distribution, name in KERNELS.items():
        try:
            version(distribution)
            folder = manager.get_kernel_spec(name).resource_dir
            specs[distribution] = json.loads(Path(folder, "kernel.json").read_text())
        except (NoSuchKernel, PackageNotFoundError):
            log(f"not installed: {distribution}")
    return specs


def main():
    specs = installed()
    checks = (handshake, handshake_request, welcomes, busy, junk, memory)
    table = {name: {} for name in specs}
    with ThreadPoolExecutor(3) as pool:  # most of the time they wait
        for name, cells in pool.map(run, [(n, s, c) for n, s in specs.items() for c in checks]):
            table[name] |= cells
    print("|", *(f"| {name} {version(name)}" for name in specs), "|")
    print("|---" * (len(specs) + 1) + "|")
    for row, label in ROWS.items():
        print(f"| {label}", *(f"| {table[name].get(row, '?')}" for name in specs), "|")


if __name__ == "__main__":
    main()
