"""Fixtures: a private Jupyter, and kernels that are gone when a test ends."""

import asyncio
import inspect
import os
import tempfile
from functools import partial
from pathlib import Path

import pytest
import zmq
from support.consoles import open_console
from support.home import TemporaryHome
from support.kernel_processes import KEY, KernelProcess, start_classic
from support.kernelspecs import write_kernelspec
from support.managers import close_event_loop
from support.tiers import EVERYTHING, is_selected

from echokernel.conformance.raw_client import RawClient
from echokernel.conformance.raw_launcher import FORMS, RawLauncher

HOME = pytest.StashKey[TemporaryHome]()


def pytest_configure(config):
    """Give the whole session a temporary home directory; xdist's workers inherit it."""
    if not hasattr(config, "workerinput"):
        config.stash[HOME] = TemporaryHome()
        config.add_cleanup(config.stash[HOME].end)


def pytest_collection_modifyitems(config, items):
    """Deselect the tests that only the full suite runs (see support/tiers.py)."""
    arguments = [os.path.join(config.invocation_params.dir, name) for name in config.args]
    deselected = [item for item in items if not is_selected(item.path, arguments)]
    if deselected:
        items[:] = [item for item in items if is_selected(item.path, arguments)]
        config.hook.pytest_deselected(items=deselected)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    """Report what was written into the user's own home directory; in the full suite, fail."""
    if HOME in session.config.stash and (new := session.config.stash[HOME].new_entries()):
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        reporter.write_line(f"\nwritten into the user's home directory: {', '.join(new)}", red=True)
        if os.environ.get(EVERYTHING):
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Run an ``async def`` test on an event loop of its own."""
    function = pyfuncitem.obj
    if not inspect.iscoroutinefunction(function):
        return None
    names = inspect.signature(function).parameters
    asyncio.run(function(**{name: pyfuncitem.funcargs[name] for name in names}))
    return True


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
    close_event_loop()


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
        process = KernelProcess(startup_file, {**os.environ, **environment}, *arguments)
        started.append(process)
        return process

    yield start_kernel
    for process in started:
        process.kill()


@pytest.fixture(params=FORMS)
def launcher(request, context, tmp_path):
    return RawLauncher(context, tmp_path, request.param, key=KEY)


@pytest.fixture
def signed_frame_launcher(context, tmp_path):
    return RawLauncher(context, tmp_path, "signed-frame", key=KEY)


@pytest.fixture
def connection(tmp_path, start):
    """A running kernel, started the classic way with ports 0; how to connect to it."""
    return start_classic(tmp_path, start)


@pytest.fixture
def client(context, connection):
    made = RawClient(context, connection)
    yield made
    made.close()


@pytest.fixture
def kernelspecs(tmp_path, monkeypatch):
    """Make a kernelspec for this test: ``kernelspecs(name, **kernel_json)``."""
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))

    return partial(write_kernelspec, tmp_path / "jupyter" / "kernels")


# --- programs of users --------------------------------------------------------------------------


@pytest.fixture
def console(tmp_path, monkeypatch):
    """Run jupyter console on a pseudo-terminal: ``console("--kernel", "echo-handshake")``."""
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path / "configuration"))
    opened = []

    def open_one(*words):
        opened.append(open_console(*words, cwd=str(tmp_path)))
        return opened[-1]

    yield open_one
    for child in opened:
        child.close(force=True)
