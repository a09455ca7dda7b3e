"""Whole programs of others on the installed kernelspec, and our command beside them."""

import json
import os
import sys

import nbformat
import pexpect
import psutil
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from support.consoles import exit_console
from support.kernelspecs import handshake_metadata
from support.programs import BIN, ECHOKERNEL, run_program, run_python
from support.waits import DEADLINE, poll_until


def jupyter(*words):
    return run_python("-m", "jupyter_core", *words)


def kernels_of(child):
    """Return the kernels of a console, as the system's list of processes has them."""
    return [
        process
        for process in psutil.Process(child.pid).children(recursive=True)
        if "echokernel" in process.cmdline()
    ]


def test_jupyter_console(console, runtime_dir):
    """L1: the README's first command, on a terminal, started by a registration file."""
    child = console("--kernel", "echo-handshake")
    child.expect("Echo: each cell is printed")
    child.expect(r"In \[.*1.*\]")
    [kernel] = kernels_of(child)
    startup_file = kernel.cmdline()[-1]
    assert os.path.basename(startup_file).startswith("registration-")
    assert not os.path.exists(startup_file)
    child.sendline("hello from a terminal")
    child.expect("hello from a terminal[^$]*hello from a terminal")
    child.expect(r"In \[.*2.*\]")
    exit_console(child)
    psutil.wait_procs([kernel], timeout=DEADLINE)
    assert not kernel.is_running()


def test_two_consoles_on_one_kernel(console, start, runtime_dir):
    """W2, H6: ``jupyter console --existing`` attaches; the second hears its first output, too."""
    process = start(None)
    name = f"kernel-{process.pid}.json"
    poll_until(lambda: (runtime_dir / name).exists(), "the kernel runs")
    for number in (1, 2):
        child = console("--existing", name)
        child.expect(r"In \[.*1.*\]")
        child.sendline(f"console {number}")
        child.expect(f"console {number}[^$]*console {number}")
        child.expect(rf"In \[.*{number + 1}.*\]")
        child.close(force=True)
    os.kill(process.pid, 15)
    process.wait_for_end()


def test_a_kernel_that_dies_in_a_console(console, kernelspecs):
    """L4: the console says why at once, instead of waiting for ever."""
    argv = [sys.executable, "-c", "import sys; sys.exit('the cause')", "{connection_file}"]
    kernelspecs("dying", argv=argv, metadata=handshake_metadata(handshake="signed-frame"))
    child = console("--kernel", "dying")
    child.expect("exited with status 1 before it registered its ports")
    child.expect("the cause")
    child.expect(pexpect.EOF)


def test_jupyter_execute(tmp_path):
    """L1: nbclient."""
    path = tmp_path / "notebook.ipynb"
    notebook = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "echo-handshake", "display_name": "Echo"}}
    )
    notebook.cells = [nbformat.v4.new_code_cell(f"cell {number}") for number in range(5)]
    nbformat.write(notebook, path)
    done = jupyter("execute", "--inplace", str(path))
    assert done.returncode == 0, done.stderr
    said = [cell.outputs[0].text for cell in nbformat.read(path, 4).cells]
    assert said == [f"cell {number}" for number in range(5)]


def test_the_wheel_installs_the_kernelspec():
    """K1: found by its name, with what it says and its logos."""
    listed = json.loads(jupyter("kernelspec", "list", "--json").stdout)
    found = listed["kernelspecs"]["echo-handshake"]
    spec = found["spec"]
    assert spec["argv"] == ["python", "-m", "echokernel", "-f", "{connection_file}"]
    assert spec["kernel_protocol_version"] == "5.6"
    assert spec["interrupt_mode"] == "signal"
    assert spec["metadata"]["supported_encryption"] == ["curve"]
    assert spec["metadata"]["kernel_provisioner"]["provisioner_name"] == "handshake-provisioner"
    logos = {"logo-32x32.png", "logo-64x64.png", "logo-svg.svg"}
    assert logos < set(os.listdir(found["resource_dir"]))


@pytest.mark.parametrize("provisioner", [True, False])
def test_echokernel_install(provisioner, tmp_path, monkeypatch):
    """For a Jupyter in another environment: this environment's Python, and its options."""
    words = ["--prefix", str(tmp_path), "--name", "mine", "--display-name", "My echo"]
    if not provisioner:
        words.append("--no-provisioner")
    done = run_program(ECHOKERNEL, "install", *words)
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share" / "jupyter"))
    spec = KernelSpecManager().get_kernel_spec("mine")
    assert os.path.samefile(spec.argv[0], sys.executable)
    assert os.path.dirname(spec.argv[0]) == BIN, "this environment's, not the one it was made from"
    assert spec.display_name == "My echo"
    assert ("kernel_provisioner" in spec.metadata) is provisioner
    client_heard = run_python("-c", STARTS_MINE)
    assert client_heard.stdout == "hello", client_heard.stderr


STARTS_MINE = """
from jupyter_client.manager import run_kernel
with run_kernel(kernel_name="mine") as client:
    client.execute_interactive("hello", timeout=20)
"""


def test_echokernel_install_where_nobody_can_write(tmp_path):
    (tmp_path / "a file").write_text("")
    done = run_program(ECHOKERNEL, "install", "--prefix", str(tmp_path / "a file"))
    assert done.returncode == 1
    assert done.stderr.startswith("echokernel install: ")
    assert done.stderr.count("\n") == 1
