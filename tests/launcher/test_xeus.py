"""xeus-python, a C++ kernel of other authors, started by echokernel's provisioner (L1, L2)."""

import json
import os
import sys

import psutil
import pytest
from jupyter_client import KernelManager
from jupyter_client.manager import start_new_kernel
from support.kernelspecs import handshake_metadata

ARGV = [sys.executable, "-m", "xpython_launcher", "-f", "{connection_file}", "--raw"]


@pytest.fixture
def xeus(kernelspecs):
    metadata = handshake_metadata(handshake="signed-frame")
    return kernelspecs("xeus-handshake", argv=ARGV, language="python", metadata=metadata)


def test_xeus_python_registers_executes_and_shuts_down(xeus):
    """L2: a kernel of other authors accepts the launcher's end of the signed frame."""
    manager, client = start_new_kernel(kernel_name=xeus)
    process = psutil.Process(manager.provisioner.pid)
    startup_file = process.cmdline()[process.cmdline().index("-f") + 1]
    assert os.path.basename(startup_file).startswith("registration-")
    listening = {c.laddr.port for c in process.net_connections() if c.status == "LISTEN"}
    with open(manager.connection_file) as file:
        written = json.load(file)
    assert {written[f"{name}_port"] for name in ("shell", "iopub", "stdin", "control", "hb")} <= (
        listening
    )
    messages = []
    reply = client.execute_interactive("print(6 * 7)", timeout=20, output_hook=messages.append)
    assert reply["content"]["status"] == "ok"
    texts = [m["content"]["text"] for m in messages if m["msg_type"] == "stream"]
    assert "".join(texts) == "42\n"

    manager.restart_kernel(now=True)
    client.stop_channels()
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=20)
    assert client.execute_interactive("1", timeout=20)["content"]["status"] == "ok"

    client.stop_channels()
    manager.shutdown_kernel()
    assert not psutil.pid_exists(process.pid)
    manager.context.destroy(linger=0)


def test_a_kernel_whose_connection_file_cannot_be_written_is_stopped(xeus, tmp_path):
    """L4, L5: no client could find this kernel; the launch raises the reason."""
    (tmp_path / "a file").write_text("")
    named = str(tmp_path / "a file" / "kernel.json")
    manager = KernelManager(kernel_name=xeus, connection_file=named)
    with pytest.raises(RuntimeError, match=r"cannot write .*kernel\.json"):
        manager.start_kernel()
    assert not psutil.pid_exists(manager.provisioner.pid)
    manager.context.destroy(linger=0)
