"""Jupyter servers with their own processes and folders, and the messages of a frontend."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

import psutil

from echokernel.conformance.raw_messages import BUSY, IDLE

from . import KERNEL_PATH, optional
from .kernelspecs import handshake_metadata, write_kernelspec
from .ports import free_port, free_range
from .waits import DEADLINE, poll_until

websocket = optional.module("websocket")  # jupyter_server brings it

TOKEN = "a-token-of-the-tests"
SPEAKS_5_6 = {"kernel_protocol_version": "5.6"}
SCRIPTED = ["-m", "echokernel", "--kernel-class", "support.scripted_kernels:ScriptedKernel", "-f",
            "{connection_file}"]  # fmt: skip
"""Python's arguments for a kernel whose cells are commands."""

THIEF = """
import json, os, socket, sys
gate, startup_file = sys.argv[1], sys.argv[-1]
with open(startup_file) as file:
    startup = json.load(file)
port = startup.get("preferred_ports", {}).get("shell_port")
if port:
    thief = socket.create_server((startup["ip"], port))
    thief.set_inheritable(True)
    if gate:
        open(gate).close()
os.execv(sys.executable, [sys.executable, *sys.argv[2:]])
"""
"""Holds the old shell port, which the kernel that this process becomes prefers.

With a gate, a named pipe, the kernel starts when another process opens the pipe.
"""

NO_GATE = ""

DIES = "import sys; sys.exit('line one\\nthe cause')"
CAUSE = ["exited with status 1 before it", "start mode signed-frame", "the cause"]
"""Parts of the error that reports such a kernel."""

WELCOMING = [
    "--ServerApp.kernel_websocket_connection_class=echokernel.server.WelcomeWebsocketConnection",
    "--MappingKernelManager.kernel_manager_class=echokernel.server.WelcomeServerKernelManager",
]
"""docs/client.md: websockets that wait for the welcome."""

SUPERVISION = [
    "--KernelRestarter.time_to_dead=0.2",  # seconds between polls; 3 by default
    "--KernelManager.shutdown_wait_time=2",  # seconds until a kernel is killed; 5 by default
]
"""Shorter intervals than a server's own, so that tests are faster."""


class Server:
    """A running Jupyter application: ``Server(folder, "jupyter_server")``.

    The user's Jupyter is neither read nor written. Kernelspecs are those of this environment and
    those that `kernelspec` writes.
    """

    def __init__(self, folder: Path, module: str, *words: str, **variables: str):
        self.root = folder / "root"
        self.data = folder / "data"
        self.log_file = folder / "server.log"
        self.runtime = folder / "runtime"
        self.root.mkdir(parents=True)
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("JUPYTER", "JPY_"))
        }
        environment |= {
            "JUPYTER_DATA_DIR": str(self.data),
            "JUPYTER_NO_CONFIG": "1",  # no settings and no installed extensions
            "JUPYTER_RUNTIME_DIR": str(self.runtime),
            "JUPYTER_TOKEN": TOKEN,
            "IPYTHONDIR": str(folder / "ipython"),
            "HOME": str(folder),
            "TMPDIR": str(folder),  # Jupyter leaves a folder for its empty configuration there
            **KERNEL_PATH,
            **variables,
        }
        with open(self.log_file, "w") as log:
            self.popen = subprocess.Popen(
                [
                    sys.executable,
                    "-m",
                    module,
                    "--allow-root",
                    f"--ServerApp.port={free_port()}",
                    f"--ServerApp.root_dir={self.root}",
                    "--ExtensionApp.open_browser=False",
                    "--ServerApp.open_browser=False",
                    *SUPERVISION,
                    *words,
                ],
                env=environment,
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            self.url = poll_until(self._find_url, "the server answers", 60)
        except BaseException as error:
            self.kill()
            raise AssertionError(self.log()) from error

    def _find_url(self) -> str | None:
        """Return the server's address once it answers; the port can differ from the request."""
        assert self.popen.poll() is None, "the server has ended"
        for file in self.runtime.glob("jpserver-*.json"):
            try:
                self.url = json.loads(file.read_text())["url"].replace("localhost", "127.0.0.1")
                self.get("api/status")
            except (OSError, ValueError):  # partly written, or not listening yet
                continue
            return self.url
        return None

    def log(self) -> str:
        return self.log_file.read_text()

    # --- REST ----------------------------------------------------------------------------------

    def rest(self, method: str, path: str, body: object = None) -> tuple[int, object]:
        """Return (status, body) of a request; the body is read as JSON if there is one."""
        request = urllib.request.Request(
            self.url + path,
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"token {TOKEN}"},
        )
        try:
            with urllib.request.urlopen(request, timeout=DEADLINE) as response:
                status, text = response.status, response.read()
        except urllib.error.HTTPError as error:
            with error:
                status, text = error.code, error.read()
        return status, json.loads(text) if text else None

    def get(self, path: str) -> object:
        status, body = self.rest("GET", path)
        assert status == 200, body
        return body

    def start_kernel(self, name: str = "echo-handshake") -> str:
        status, kernel = self.rest("POST", "api/kernels", {"name": name})
        assert status == 201, (kernel, self.log())
        return kernel["id"]

    # --- kernels --------------------------------------------------------------------------

    def kernelspec(self, name: str, **spec) -> str:
        return write_kernelspec(self.data / "kernels", name, **spec)

    def scripted(self, name: str = "scripted", *script: str) -> str:
        """Write a kernelspec of a kernel whose cells are commands.

        ``script`` is Python code with arguments, which the process runs first. The code must remove
        these arguments when it becomes the kernel.
        """
        argv = [sys.executable, *(["-c", *script] if script else []), *SCRIPTED]
        # Ports that the operating system gives to no other process during a restart.
        low = free_range(40)
        metadata = handshake_metadata(guess_timeout=60, port_range=f"{low}-{low + 39}")
        return self.kernelspec(name, argv=argv, metadata=metadata, **SPEAKS_5_6)

    def dying(self, name: str = "dying") -> str:
        """Write a kernelspec of a kernel that exits before it registers."""
        argv = [sys.executable, "-c", DIES, "{connection_file}"]
        return self.kernelspec(name, argv=argv, metadata=handshake_metadata(), **SPEAKS_5_6)

    def process(self, kernel_id: str) -> psutil.Process:
        """Return the process that was started with the registration file of this kernel."""
        [process] = self.processes(kernel_id)
        return process

    def processes(self, kernel_id: str = "") -> list[psutil.Process]:
        """Return the running kernels of this server that were started with a registration file."""
        kernels = []
        for child in psutil.Process(self.popen.pid).children(recursive=True):
            try:
                startup_file = child.cmdline()[-1]
            except (psutil.Error, IndexError):  # the process has just ended
                continue
            if os.path.basename(startup_file).startswith(f"registration-{kernel_id}"):
                kernels.append(child)
        return kernels

    def ports(self, kernel_id: str) -> dict[str, int]:
        """Return the ports in a kernel's connection file."""
        connection = json.loads((self.runtime / f"kernel-{kernel_id}.json").read_text())
        return {name: port for name, port in connection.items() if name.endswith("_port")}

    def files(self, kernel_id: str = "") -> list[str]:
        """Return the startup files in the runtime directory, of one kernel or of all."""
        wanted = (f"kernel-{kernel_id}", f"registration-{kernel_id}")
        return sorted(p.name for p in self.runtime.iterdir() if p.name.startswith(wanted))

    def remove_files(self, kernel_id: str) -> None:
        """Remove a kernel's files: the server does not clean up when it gives up a kernel."""
        for name in self.files(kernel_id):
            (self.runtime / name).unlink()

    # --- the end -------------------------------------------------------------------------------

    def stop(self) -> None:
        """Terminate the server, as a service manager does; its kernels must end with it."""
        kernels = self.processes()
        self.popen.terminate()
        try:
            alive = psutil.wait_procs(kernels, timeout=DEADLINE)[1]
            assert not alive, "kernels outlive their server"
            poll_until(lambda: self.files() == [], f"no files are left: {self.files()}")
        finally:
            # JupyterLab 4.6 does not exit after it has used a worker thread of AnyIO, whatever
            # kernels it runs.
            self.kill()

    def kill(self) -> None:
        if self.popen.poll() is None:
            os.killpg(self.popen.pid, signal.SIGKILL)
            self.popen.wait(DEADLINE)


class Websocket:
    """A frontend's connection to one kernel: one websocket for all channels."""

    def __init__(self, server: Server, kernel_id: str, session: str | None = None):
        self.session = session or uuid.uuid4().hex
        self._kernels: set[str] = set()  # session ids of kernels whose welcome arrived
        # `timeout` is for the connection; each receive has its own.
        self._socket = websocket.create_connection(
            f"{server.url.replace('http', 'ws', 1)}api/kernels/{kernel_id}/channels"
            f"?session_id={self.session}",
            header=[f"Authorization: token {TOKEN}"],
            timeout=DEADLINE,
        )

    def close(self) -> None:
        self._socket.close()

    def cut(self) -> None:
        """End the connection without the websocket's closing handshake."""
        self._socket.shutdown()

    def send(self, msg_type: str, content: dict, channel: str = "shell") -> str:
        """Send a request; return its id."""
        msg_id = uuid.uuid4().hex
        header = {
            "msg_id": msg_id,
            "msg_type": msg_type,
            "session": self.session,
            "username": "tester",
            "date": "2026-11-21T00:00:00.000000Z",
            "version": "5.6",
        }
        message = {"header": header, "parent_header": {}, "metadata": {}, "content": content}
        self._socket.send(json.dumps({**message, "channel": channel, "buffers": []}))
        return msg_id

    def execute(self, code: str) -> str:
        return self.send("execute_request", {"code": code, "silent": False})

    def send_comm_msg(self, comm_id: str, data: dict) -> str:
        """Send a message over a comm; return its id."""
        return self.send("comm_msg", {"comm_id": comm_id, "data": data})

    def receive(self, timeout: float = DEADLINE) -> dict:
        self._socket.settimeout(timeout)
        return json.loads(self._socket.recv())

    def receive_until(self, wanted, timeout: float = DEADLINE) -> list[dict]:
        """Return the messages up to and including the first for which ``wanted`` is true."""
        deadline = time.monotonic() + timeout
        messages = []
        while not (messages and wanted(messages[-1])):
            remaining = deadline - time.monotonic()
            try:
                assert remaining > 0
                messages.append(self.receive(remaining))
            except (AssertionError, websocket.WebSocketTimeoutException):
                received = [(m["msg_type"], m["content"]) for m in messages]
                raise AssertionError(f"not within {timeout} s; received: {received}") from None
        return messages

    def receive_status(self, state: str, timeout: float = DEADLINE) -> list[dict]:
        """Receive until the kernel's status is ``state``, for any request."""
        return self.receive_until(
            lambda m: m["content"] == {"execution_state": state} and m["msg_type"] == "status",
            timeout,
        )

    def receive_welcome(self) -> list[dict]:
        """Receive until a new kernel welcomes the server's subscription (W6)."""

        def is_new(message):
            # The welcome of each websocket's subscription reaches all websockets.
            return (
                message["msg_type"] == "iopub_welcome"
                and message["header"]["session"] not in self._kernels
            )

        messages = self.receive_until(is_new)
        self._kernels.add(messages[-1]["header"]["session"])
        return messages

    def receive_output(self, msg_id: str) -> list[dict]:
        """Receive until a request, of any client, has printed."""
        return self.receive_until(
            lambda m: m["msg_type"] == "stream" and m["parent_header"]["msg_id"] == msg_id
        )

    def receive_comm_data(self, wanted) -> dict:
        """Receive a comm message whose data are ``wanted``; return the data."""
        messages = self.receive_until(
            lambda m: m["msg_type"] == "comm_msg" and wanted(m["content"]["data"])
        )
        return messages[-1]["content"]["data"]

    def comms(self) -> set[str]:
        """Return the ids of the open comms."""
        reply, _ = self.receive_answer(self.send("comm_info_request", {}))
        return set(reply["comms"])

    def receive_answer(self, msg_id: str, timeout: float = DEADLINE) -> tuple[dict, list[tuple]]:
        """Return the reply to a request and all its publications, busy to idle."""
        replies, published = [], []

        def complete(message):
            if message["parent_header"].get("msg_id") == msg_id:
                if message["channel"] == "iopub":
                    published.append((message["msg_type"], message["content"]))
                else:
                    replies.append(message["content"])
            return replies and IDLE in published

        self.receive_until(complete, timeout)
        assert len(replies) == 1
        assert published[0] == BUSY
        assert published.index(IDLE) == len(published) - 1
        return replies[0], published

    def run_cell(self, code: str) -> list[tuple]:
        """Execute; return the publications between busy and idle."""
        reply, published = self.receive_answer(self.execute(code))
        assert reply["status"] == "ok", reply
        return published[1:-1]
