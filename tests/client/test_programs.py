"""Programs of others with our clients, by their configuration alone (S3)."""

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
    made = nbformat.v4.new_notebook(metadata={"kernelspec": spec})
    made.cells = [nbformat.v4.new_code_cell(code) for code in cells]
    return made


@pytest.mark.parametrize("name", ["echo-handshake", "python3", "xpython-raw"])
@pytest.mark.parametrize(
    "settings",
    [
        {"NotebookClient": {"kernel_manager_class": ASYNC_MANAGER}},
        {"AsyncKernelManager": {"client_class": "echokernel.client.AsyncWelcomeClient"}},
    ],
    ids=["kernel_manager_class", "client_class"],
)
def test_nbclient(settings, name):
    """S3: either setting is enough; every cell's output arrives, welcomes disturb nobody."""
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
    said = [each.get("text") or each["data"]["text/plain"] for each in outputs]
    assert said == [f"'cell {number}'" for number in range(5)]


def test_jupyter_execute(tmp_path):
    """S3: on the command line."""
    path = tmp_path / "notebook.ipynb"
    nbformat.write(notebook("echo-handshake", "hello"), path)
    words = ("jupyter_core", "execute", "--inplace", str(path))
    done = run_python("-m", *words, f"--NotebookClient.kernel_manager_class={ASYNC_MANAGER}")
    assert done.returncode == 0, done.stderr
    assert nbformat.read(path, 4).cells[0].outputs[0].text == "hello"


@pytest.mark.parametrize("name", ["echo-handshake", "python3", "xpython-raw"])
def test_jupyter_console(name, console):
    """S3: also on xeus, whose ``parent_header: null`` ends the console with its own client."""
    child = console("--kernel", name, f"--ZMQTerminalIPythonApp.kernel_manager_class={MANAGER}")
    child.expect(r"In \[.*1.*\]")
    child.sendline("'hel' 'lo'")
    child.expect("'hel' 'lo'[^$]*hel")
    child.expect(r"In \[.*2.*\]")
    exit_console(child)


def test_jupyter_console_on_an_existing_kernel(console, start, runtime_dir, tmp_path):
    """S3: there is no manager then; the client is set in the configuration file."""
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
