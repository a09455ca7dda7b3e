"""Programs of other authors that use the welcome clients by configuration alone (S3)."""

import os

import nbformat
import pytest
from nbclient import NotebookClient
from support.consoles import exit_console
from support.programs import run_python
from support.waits import DEADLINE, poll_until
from traitlets.config import Config

from echokernel.client import AsyncWelcomeClient

MANAGER = "echokernel.client.WelcomeKernelManager"
ASYNC_MANAGER = "echokernel.client.AsyncWelcomeKernelManager"

# jupyter_console has no setting for its client's class; its configuration file is a program.
CONSOLE_CONFIGURATION = """
from jupyter_console.app import ZMQTerminalIPythonApp
from echokernel.client import BlockingWelcomeClient
ZMQTerminalIPythonApp.kernel_client_class = BlockingWelcomeClient
"""


def notebook(kernel_name, *cells):
    spec = {"name": kernel_name, "display_name": kernel_name}
    document = nbformat.v4.new_notebook(metadata={"kernelspec": spec})
    document.cells = [nbformat.v4.new_code_cell(code) for code in cells]
    return document


@pytest.mark.parametrize("name", ["echo-handshake", "python3", "xpython-raw"])
@pytest.mark.parametrize(
    "settings",
    [
        {"NotebookClient": {"kernel_manager_class": ASYNC_MANAGER}},
        {"AsyncKernelManager": {"client_class": "echokernel.client.AsyncWelcomeClient"}},
    ],
    ids=["kernel_manager_class", "client_class"],
)
def test_nbclient_uses_the_welcome_client(settings, name):
    """S3: either setting is sufficient; welcomes disturb no cell, and every output arrives."""
    executor = NotebookClient(
        notebook(name, *(f"'cell {number}'" for number in range(5))),
        config=Config(settings),
        timeout=DEADLINE,
    )
    used = []
    executor.on_cell_start = lambda **_: used.append(type(executor.kc))
    executor.execute()
    assert set(used) == {AsyncWelcomeClient}
    outputs = [cell.outputs[0] for cell in executor.nb.cells]
    texts = [output.get("text") or output["data"]["text/plain"] for output in outputs]
    assert texts == [f"'cell {number}'" for number in range(5)]


def test_jupyter_execute_accepts_the_setting(tmp_path):
    """S3: the setting works on the command line."""
    path = tmp_path / "notebook.ipynb"
    nbformat.write(notebook("echo-handshake", "hello"), path)
    words = ("jupyter_core", "execute", "--inplace", str(path))
    completed = run_python("-m", *words, f"--NotebookClient.kernel_manager_class={ASYNC_MANAGER}")
    assert completed.returncode == 0, completed.stderr
    assert nbformat.read(path, 4).cells[0].outputs[0].text == "hello"


@pytest.mark.parametrize("name", ["echo-handshake", "python3", "xpython-raw"])
def test_jupyter_console_accepts_the_setting(name, console):
    """S3: xeus's ``parent_header: null`` ends the console only with the console's own client."""
    child = console("--kernel", name, f"--ZMQTerminalIPythonApp.kernel_manager_class={MANAGER}")
    child.expect(r"In \[.*1.*\]")
    child.sendline("'hel' 'lo'")
    child.expect("'hel' 'lo'[^$]*hel")
    child.expect(r"In \[.*2.*\]")
    exit_console(child)


def test_jupyter_console_on_an_existing_kernel_uses_the_client(
    console, start, runtime_dir, tmp_path
):
    """S3: the console has no manager then; its configuration file sets the client."""
    (tmp_path / "configuration").mkdir()
    (tmp_path / "configuration" / "jupyter_console_config.py").write_text(CONSOLE_CONFIGURATION)
    process = start(None)
    name = f"kernel-{process.pid}.json"
    poll_until(lambda: (runtime_dir / name).exists(), "the kernel runs")
    child = console("--existing", name, "--log-level=DEBUG")
    child.expect(r"In \[.*1.*\]")
    child.sendline("hello")
    child.expect("hello[^$]*hello")
    child.expect(r"In \[.*2.*\]")
    child.close(force=True)
    os.kill(process.pid, 15)
    process.wait_for_end()
