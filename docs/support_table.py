"""Which kernel of this environment does what: ``python docs/support_table.py`` prints the table.

Each is started from its kernelspec and asked over raw sockets; nothing of echokernel is imported,
so that its column is measured as the others are. Every wait is bounded.
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
    "odd": "a topic that is not UTF-8 disturbs nobody",
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
"""  # the language of ours cannot sleep; a language is the author's part, so this is fair


def say(line):
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
    """Return (topics, header, parent, content); None if it is no message, or signed wrongly."""
    with suppress(ValueError):  # no delimiter, too few frames, not JSON
        at = frames.index(DELIMITER)
        signature, header, parent, metadata, content = frames[at + 1 : at + 6]
        if signature == sign(header, parent, metadata, content):
            return frames[:at], json.loads(header), json.loads(parent) or {}, json.loads(content)
    return None


class Kernel:
    """A kernel's process, and sockets to it."""

    def connect(self, channel, kind, topic=None):
        made = self.context.socket(kind)
        self.sockets.append(made)  # it lives as long as the kernel
        if topic is not None:  # before connecting: a welcome is sent once
            made.subscribe(topic)
        made.connect(f"tcp://{HOST}:{self.ports[f'{channel}_port']}")
        return made

    def use(self, ports):
        self.ports = ports
        self.shell = self.connect("shell", zmq.DEALER)

    def arriving(self, peer, seconds=5):
        """Yield what arrives, until the time is over or the process has ended."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and self.popen.poll() is None:
            if peer.poll(min(left, 0.1) * 1000):
                yield peer.recv_multipart()

    def info(self, seconds=5):
        """Return (msg_id, content) of a kernel_info exchange; content None: no answer."""
        asked, frames = compose("kernel_info_request", {})
        self.shell.send_multipart(frames)
        for _, _, parent, content in filter(None, map(parse, self.arriving(self.shell, seconds))):
            if parent.get("msg_id") == asked:
                return asked, content
        return asked, None

    def welcome(self, listener, topic="", seconds=5):
        """Return the frames of the welcome on this topic, or None."""
        for frames in self.arriving(listener, seconds):
            _, header, _, content = parse(frames) or (0, {}, 0, 0)
            if header.get("msg_type") == "iopub_welcome" and content == {"subscription": topic}:
                return frames
        return None

    def trouble(self):
        """Return what no longer works for a new client; nothing if all is well."""
        listener = self.connect("iopub", zmq.SUB, b"")
        for _ in range(4):  # nobody promised a welcome: ask until the subscription is live
            asked, answered = self.info()
            if answered is None:
                return "no answer on shell" if self.popen.poll() is None else "it dies"
            states = set()
            for _, _, parent, content in filter(None, map(parse, self.arriving(listener, 1))):
                if parent.get("msg_id") == asked:
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
    """Yield a fresh kernel, started as jupyter_client does; nothing of it is left behind."""
    kernel = Kernel()
    with TemporaryDirectory(prefix="support-", ignore_cleanup_errors=True) as folder:
        Path(folder, "sleeper.py").write_text(SLEEPER)
        file = f"{folder}/kernel.json"
        if registration:
            Path(file).write_text(json.dumps(registration))
        else:  # whether these ports stay free is anybody's guess: the classic way
            _, ports = write_connection_file(file, ip=HOST, key=KEY.encode())
        argv = [word.replace("{connection_file}", file) for word in spec["argv"]]
        if argv[0] in ("python", "python3", "python{}.{}".format(*sys.version_info)):
            argv[0] = sys.executable
        places = dict.fromkeys(("JUPYTER_RUNTIME_DIR", "IPYTHONDIR", "PYTHONPATH"), folder)
        quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        kernel.context, kernel.sockets, kernel.folder = zmq.Context(), [], folder
        kernel.popen = launch_kernel([*argv, *more], env=os.environ | places, **quiet)
        try:
            if not registration:
                kernel.use(ports)
                kernel.about = kernel.info(15)[1]
                assert kernel.about, "does not start"
            yield kernel
        finally:
            kernel.popen.kill()
            kernel.popen.wait(10)
            kernel.context.destroy(linger=0)


def welcomes(spec):
    """Three subscribers, one after the other, all of whom stay."""
    with started(spec) as kernel:
        first = kernel.connect("iopub", zmq.SUB, b"")
        cells = {"first": "no", "second": "no", "topic": "no"}
        if came := kernel.welcome(first):
            parent = came[came.index(DELIMITER) + 3].decode()
            cells["first"] = "yes" if parent == "{}" else f"yes, but `parent_header: {parent}`"
        if kernel.welcome(kernel.connect("iopub", zmq.SUB, b"")):
            cells["second"] = "yes"
        if came := kernel.welcome(kernel.connect("iopub", zmq.SUB, b"stream"), "stream"):
            cells["topic"] = "yes" if came[0] == b"stream" else f"no: on {came[0]!r}"
        elif (came := kernel.welcome(first, "stream", 0.5)) and came[0] in (b"", DELIMITER):
            cells["topic"] = "no: sent without the topic"
        listed = "iopub_welcome" in kernel.about.get("supported_features", [])
        cells["info"] = (
            f"{kernel.about.get('protocol_version', 'none')}; {'yes' if listed else 'no'}"
        )
    return {**cells, "spec": spec.get("kernel_protocol_version", "none")}


def busy(spec):
    """The first client comes while a cell sleeps."""
    more = ["--kernel-class", "sleeper:Sleeper"] if spec["language"] == "echo" else []
    with started(spec, *more) as kernel:
        mark = Path(kernel.folder, "running")
        code = f"open({str(mark)!r}, 'w').close(); import time; time.sleep(5)"
        kernel.shell.send_multipart(compose("execute_request", {"code": code, "silent": False})[1])
        deadline = time.monotonic() + 10
        while not mark.exists():
            assert time.monotonic() < deadline, "the cell does not run"
            time.sleep(0.02)
        came = kernel.welcome(kernel.connect("iopub", zmq.SUB, b""), seconds=4)
        return {"busy": "yes" if came and not kernel.shell.poll(0) else "no"}


def frame(body, more=False):
    """Return a frame of ZMTP 3."""
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


def by_hand(kernel, sent):
    """Return a connection to IOPub that greets in ZMTP 3.0, as a SUB, and says this."""
    raw = socket.create_connection((HOST, kernel.ports["iopub_port"]), 5)
    ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", 3) + b"SUB"
    raw.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32))
    raw.sendall(b"\x04" + bytes([len(ready)]) + ready)
    answer = b""
    while b"READY" not in answer:  # what a SUB says earlier is not always heard
        answer += (got := raw.recv(4096))
        assert got, "IOPub hangs up on a SUB"
    with suppress(OSError):  # it may hang up on this
        raw.sendall(sent)
    return raw


def junk(spec):
    """Send what disturbs some kernels, and name the first that does harm."""
    cells = {"odd": "yes", "junk": "yes"}
    for row in cells:
        with started(spec) as kernel:
            for name, sent in JUNK[row].items():
                with by_hand(kernel, sent):
                    time.sleep(0.4)
                if trouble := kernel.trouble():
                    cells[row] = f"no: {trouble}{name}"
                    break
    return cells


def memory(spec):
    """Watch the memory until it has not grown for a second; then the client leaves."""
    with started(spec) as kernel:
        most = before = kernel.resident()
        with by_hand(kernel, frame(b"\x01" + b"x" * 10_000_000)):
            start = grown = time.monotonic()
            while kernel.popen.poll() is None and time.monotonic() < min(grown + 1, start + 6):
                if (now := kernel.resident()) > most + 1:
                    most, grown = now, time.monotonic()
                time.sleep(0.05)
        time.sleep(0.5)
        trouble = kernel.trouble()
    return {"memory": f"{most - before:.0f} MB" + (f"; {trouble} afterwards" if trouble else "")}


def registered(frames):
    """Return (ports, frames of the receipt) of a registration in either form."""
    if frames[0] != DELIMITER:  # from a ROUTER
        identity, delimiter, signature, body = frames
        assert (delimiter, signature) == (DELIMITER, sign(body)), "not a signed frame"
        return json.loads(body), [identity, DELIMITER, sign(b"ACK"), b"ACK"]
    _, header, _, ports = parse(frames)
    assert header["msg_type"] == "handshake_request"
    return ports, compose("handshake_reply", {"status": "ok"}, header)[1]


def handshake(spec, form="signed-frame", kind=zmq.ROUTER):
    """Let a kernel register in this form, and ask it on the shell port that it names."""
    file = {"transport": "tcp", "ip": HOST, "signature_scheme": "hmac-sha256", "key": KEY}
    with zmq.Context() as context, context.socket(kind) as peer:
        file["registration_port"] = peer.bind_to_random_port(f"tcp://{HOST}")
        if kind == zmq.ROUTER:
            file |= {"kernel_id": "one", "registration_ip": HOST}
            file["registration_port"] = str(file["registration_port"])
        with started(spec, registration=file) as kernel:
            for frames in kernel.arriving(peer, 10):
                ports, receipt = registered(frames)
                peer.send_multipart(receipt)
                kernel.use(ports)
                return {form: "yes" if kernel.info()[1] else "no: registers, then no answer"}
    return {form: "no"}


def handshake_request(spec):
    return handshake(spec, "handshake-request", zmq.REP)


def run(job):
    """Run one check of one kernel; once more if the check itself comes to grief."""
    name, spec, check = job
    for _ in range(2):
        say(f"{name}: {check.__name__}")
        try:
            return name, check(spec)
        except Exception as error:
            say(f"{name}: {check.__name__}: {error!r}")
    return name, {}


def installed():
    """Return {distribution: kernelspec} of this environment; no other place is looked at."""
    manager = KernelSpecManager(kernel_dirs=[f"{sys.prefix}/share/jupyter/kernels"])
    found = {}
    for distribution, name in KERNELS.items():
        try:
            version(distribution)
            folder = manager.get_kernel_spec(name).resource_dir
            found[distribution] = json.loads(Path(folder, "kernel.json").read_text())
        except (NoSuchKernel, PackageNotFoundError):
            say(f"not installed: {distribution}")
    return found


def main():
    specs = installed()
    checks = (handshake, handshake_request, welcomes, busy, junk, memory)
    table = {name: {} for name in specs}
    with ThreadPoolExecutor(3) as pool:  # they wait, for the most part
        for name, cells in pool.map(run, [(n, s, c) for n, s in specs.items() for c in checks]):
            table[name] |= cells
    print("|", *(f"| {name} {version(name)}" for name in specs), "|")
    print("|---" * (len(specs) + 1) + "|")
    for row, label in ROWS.items():
        print(f"| {label}", *(f"| {table[name].get(row, '?')}" for name in specs), "|")


if __name__ == "__main__":
    main()
