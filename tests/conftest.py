"""Fixtures: a private Jupyter, and kernels that are gone when a test ends."""

import asyncio
import inspect
import json
import os
import sys
import tempfile
from pathlib import Path

import pexpect
import pytest
import zmq
from harness import DEADLINE, KEY, Client, Launcher, Process, wait_until
from jupyter_core.utils import ensure_event_loop


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Run an ``async def`` test on an event loop of its own."""
    function = pyfuncitem.obj
    if not inspect.iscoroutinefunction(function):
        return None
    names = inspect.signature(function).parameters
    asyncio.run(function(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


TESTS = os.path.dirname(__file__)
"""For the path of a kernel's Python: where the kernels of the tests are."""

FORMS = ("signed-frame", "handshake-request")


@pytest.fixture(autouse=True)
def runtime_dir(tmp_path, monkeypatch):
    """A runtime directory of the test's own; it must be empty again at its end."""
    # Kernels start in the current directory: elsewhere than in the checkout, `echokernel` is the
    # installed one.
    monkeypatch.chdir(tmp_path)
    # A short path: the system takes no more than 107 characters for an ipc socket.
    short = tempfile.TemporaryDirectory(prefix="ek-")
    folder = Path(short.name) / "runtime"
    for name in ("JPY_PARENT_PID", "JPY_SESSION_NAME", "JUPYTER_DEFAULT_PROVISIONER_NAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(folder))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    yield folder
    left = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    short.cleanup()
    assert left == [], f"left behind in the runtime directory: {left}"


@pytest.fixture(autouse=True)
def synchronous_jupyter():
    """Close the event loop that jupyter_client's synchronous calls leave open in each thread."""
    yield
    close_loop_of_this_thread()


def close_loop_of_this_thread():
    ensure_event_loop().close()


@pytest.fixture
def context():
    """A context that closes every socket a test has made, also one it has forgotten."""
    made, sockets = zmq.Context(), []

    def socket(kind):
        sockets.append(zmq.Socket(made, kind))
        return sockets[-1]

    made.__dict__["socket"] = socket
    yield made
    for each in sockets:
        each.close(linger=0)
    made.term()


@pytest.fixture
def start(tmp_path):
    """Start a kernel's process on a startup file; kill what is left of it afterwards."""
    started = []

    def start_kernel(startup_file=None, *arguments, **environment):
        process = Process(startup_file, {**os.environ, **environment}, *arguments)
        started.append(process)
        return process

    yield start_kernel
    for process in started:
        process.kill()


@pytest.fixture(params=FORMS)
def launcher(request, context, tmp_path):
    return Launcher(context, tmp_path, request.param)


@pytest.fixture
def signed_frame_launcher(context, tmp_path):
    return Launcher(context, tmp_path, "signed-frame")


@pytest.fixture
def connection(tmp_path, start):
    """A running kernel, started the classic way with ports 0; how to connect to it."""
    return start_classic(tmp_path, start)


def start_classic(tmp_path, start, *arguments, key=KEY, **keys):
    path = tmp_path / "connection.json"
    path.write_text(json.dumps({"key": key, **keys}))
    path.chmod(0o600)
    start(path, *arguments)

    def rewritten():
        found = json.loads(path.read_text())
        return found if found.get("shell_port") else None

    return wait_until(rewritten, "the kernel has rewritten its connection file")


@pytest.fixture
def client(context, connection):
    made = Client(context, connection)
    yield made
    made.close()


@pytest.fixture
def kernelspecs(tmp_path, monkeypatch):
    """Make a kernelspec for this test: ``kernelspecs(name, **kernel_json)``."""
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))

    def make(name, **spec):
        folder = tmp_path / "jupyter" / "kernels" / name
        folder.mkdir(parents=True)
        spec = {"display_name": name, "language": "test", **spec}
        (folder / "kernel.json").write_text(json.dumps(spec))
        return name

    return make


def handshake_metadata(**config):
    """Return what in a kernelspec makes jupyter_client use our provisioner."""
    provisioner = {"provisioner_name": "handshake-provisioner", "config": config}
    return {"kernel_provisioner": provisioner}


# --- programs of users --------------------------------------------------------------------------


@pytest.fixture
def console(tmp_path, monkeypatch):
    """Run jupyter console on a pseudo-terminal: ``console("--kernel", "echo-handshake")``."""
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "configuration"))
    opened = []

    def open_console(*words):
        child = pexpect.spawn(
            sys.executable,
            ["-m", "jupyter_console", *words],
            encoding="utf-8",
            timeout=3 * DEADLINE,
            dimensions=(40, 200),
            cwd=str(tmp_path),
            env={**os.environ, "TERM": "dumb", "PROMPT_TOOLKIT_NO_CPR": "1"},
        )
        opened.append(child)
        return child

    yield open_console
    for child in opened:
        child.close(force=True)


@pytest.fixture
def kernel(server):
    """Start a kernel on the module's ``server``, by REST: ``kernel(name)`` returns its id."""
    started = []

    def start(name="echo-handshake"):
        started.append(server.start_kernel(name))
        return started[-1]

    yield start
    for kernel_id in started:
        server.rest("DELETE", f"api/kernels/{kernel_id}")
        assert server.processes(kernel_id) == []
        server.forget_files(kernel_id)


@pytest.fixture
def connect(server):
    """Connect a frontend: ``connect(kernel_id)``; with the session of an earlier one: a reload."""
    from servers import Websocket  # needs what not everybody has installed

    opened = []

    def open_websocket(kernel_id, session=None):
        opened.append(Websocket(server, kernel_id, session))
        return opened[-1]

    yield open_websocket
    for each in opened:
        each.close()
