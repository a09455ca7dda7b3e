"""The core alone: start, handshake, welcome, messages; no output, comms or flow control."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.kernel_processes import KEY

import echokernel
from echokernel.conformance.raw_client import DEADLINE, RawClient
from echokernel.conformance.raw_messages import BUSY, IDLE

PACKAGE = Path(echokernel.__file__).parent

# Parts of the runtime that do not belong to the core; see ATTACHED in test_floors.
LEFT_OUT = ("serving.py", "comms", "output", "flow_control")

KERNEL = """
from ipykernel.kernelbase import Kernel

class UpperKernel(Kernel):
    implementation = "upper"
    implementation_version = "1"
    banner = "upper case"
    language_info = {"name": "upper", "mimetype": "text/plain", "file_extension": ".txt"}
    stop_on_error_timeout = 60.0  # seconds: a request that follows a failure late is aborted, too

    async def do_execute(self, code, silent, **_):
        if code == "input":
            code = self.raw_input("name? ")
        if code == "fail":
            raise ValueError("failed")
        content = {"name": "stdout", "text": code.upper()}
        self.send_response(self.iopub_socket, "stream", content)
        return {"status": "ok", "execution_count": self.execution_count}
"""

IN_PLACE = """
import sys
for name in ("serving", "comms", "output", "iopub.flow_control"):
    sys.modules[f"echokernel.runtime.{name}"] = None  # importing it raises
from echokernel.runtime.app import run_app
from upper import UpperKernel
sys.exit(run_app(UpperKernel))
"""

VENDORED = """
import sys
sys.modules["echokernel"] = None  # importing it raises
from my_kernels.runtime.app import run_app
status = run_app("upper:UpperKernel")
sys.exit(status)
"""


def copy_core(target):
    """Copy the folders that docs/architecture.md calls the core."""
    target.mkdir()
    (target / "__init__.py").touch()
    shutil.copy(PACKAGE / "connection_files.py", target)
    for folder in ("protocol", "runtime"):
        ignored = shutil.ignore_patterns(*LEFT_OUT, "__pycache__")
        shutil.copytree(PACKAGE / folder, target / folder, ignore=ignored)


@pytest.fixture(params=["in place", "vendored"])
def start_core(request, tmp_path):
    """Start the core on a startup file, as it is or from a copy under another package name."""
    (tmp_path / "upper.py").write_text(KERNEL)
    script = tmp_path / "start_core.py"
    script.write_text(IN_PLACE if request.param == "in place" else VENDORED)
    if request.param == "vendored":
        copy_core(tmp_path / "my_kernels")
    started = []

    def start(path):
        process = subprocess.Popen(
            [sys.executable, str(script), "-f", str(path)],
            env={**os.environ, "PYTHONPATH": str(tmp_path)},
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def test_the_core_handshakes_welcomes_and_answers(launcher, start_core, context):
    """H1, H6, W1, W2, K3, K4: a small kernel class on the core, in both forms."""
    process = start_core(launcher.write_file())
    connection = launcher.receive_registration()
    client = RawClient(context, connection)  # expects its welcome
    launcher.send_receipt()
    second = RawClient(context, connection, topics=(b"session.two",))  # expects its own
    client.expect_welcome(b"session.two")  # it subscribes to every topic

    msg_id = client.execute("hello")
    assert client.receive_until_idle(msg_id) == [
        BUSY,
        ("execute_input", {"code": "hello", "execution_count": 1}),
        ("stream", {"name": "stdout", "text": "HELLO"}),
        IDLE,
    ]
    assert client.receive_reply(msg_id)["content"]["status"] == "ok"
    assert (
        "iopub_welcome"
        in client.request("kernel_info_request", {}, "control")["supported_features"]
    )

    first, queued = client.execute("fail"), client.execute("queued")
    error = {"ename": "ValueError", "evalue": "failed", "traceback": ["ValueError: failed"]}
    assert ("error", error) in client.receive_until_idle(first)
    assert client.receive_reply(first)["content"]["status"] == "error"
    assert client.receive_until_idle(queued) == [BUSY, IDLE]
    assert client.receive_reply(queued)["content"]["status"] == "aborted"

    client.expect_nothing_unread()
    client.shut_down()
    client.close()
    second.close()
    _, stderr = process.communicate(timeout=DEADLINE)
    assert process.returncode == 0
    assert stderr.count("Traceback") == 1, stderr  # the cell's own
    assert KEY not in stderr


def test_the_copied_core_is_complete(tmp_path):
    """No module of the copy imports a module that is not copied."""
    copy_core(tmp_path / "my_kernels")
    code = (
        "import sys, pkgutil, importlib; sys.modules['echokernel'] = None; import my_kernels\n"
        "for module in pkgutil.walk_packages(my_kernels.__path__, 'my_kernels.'):\n"
        "    importlib.import_module(module.name)\n"
        "    print(module.name)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    output = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout.split()
    assert {"my_kernels.runtime.app", "my_kernels.runtime.iopub.publisher"} <= set(output)
    assert not [name for name in output if name.endswith((".serving", ".iopub.flow_control"))]
