"""Programs of other authors with the installed kernelspec, and ``echokernel install``."""

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
    """Return the kernels of a console, from the operating system's table of processes."""
    return [
        process
        for process in psutil.Process(child.pid).children(recursive=True)
        if "echokernel" in process.cmdline()
    ]


def test_jupyter_console_starts_a_kernel_by_a_handshake(console, runtime_dir):
    """L1: the README's first command, on a terminal, uses a registration file."""
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


def test_two_consoles_attach_to_one_kernel(console, start, runtime_dir):
    """W2, H6: after ``jupyter console --existing``, each receives its first output."""
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


def test_jupyter_console_reports_why_its_kernel_died(console, kernelspecs):
    """L4: the console reports the cause immediately, instead of waiting forever."""
    argv = [sys.executable, "-c", "import sys; sys.exit('the cause')", "{connection_file}"]
    kernelspecs("dying", argv=argv, metadata=handshake_metadata(handshake="signed-frame"))
    child = console("--kernel", "dying")
    child.expect("exited with status 1 before it registered its ports")
    child.expect("the cause")
    child.expect(pexpect.EOF)


def test_jupyter_execute_runs_every_cell(tmp_path):
    """L1: nbclient receives the output of each cell."""
    path = tmp_path / "notebook.ipynb"
    notebook = nbformat.v4.new_notebook(
        metadata={"kernelspec": {"name": "echo-handshake", "display_name": "Echo"}}
    )
    notebook.cells = [nbformat.v4.new_code_cell(f"cell {number}") for number in range(5)]
    nbformat.write(notebook, path)
    completed = jupyter("execute", "--inplace", str(path))
    assert completed.returncode == 0, completed.stderr
    texts = [cell.outputs[0].text for cell in nbformat.read(path, 4).cells]
    assert texts == [f"cell {number}" for number in range(5)]


def test_the_wheel_installs_the_kernelspec():
    """K1: jupyter_client finds the kernelspec by name, with its advertised values and logos."""
    listed = json.loads(jupyter("kernelspec", "list", "--json").stdout)
    entry = listed["kernelspecs"]["echo-handshake"]
    spec = entry["spec"]
    assert spec["argv"] == ["python", "-m", "echokernel", "-f", "{connection_file}"]
    assert spec["kernel_protocol_version"] == "5.6"
    assert spec["interrupt_mode"] == "signal"
    assert spec["metadata"]["supported_encryption"] == ["curve"]
    assert spec["metadata"]["kernel_provisioner"]["provisioner_name"] == "handshake-provisioner"
    logos = {"logo-32x32.png", "logo-64x64.png", "logo-svg.svg"}
    assert logos < set(os.listdir(entry["resource_dir"]))


@pytest.mark.parametrize("provisioner", [True, False])
def test_echokernel_install_writes_a_kernelspec(provisioner, tmp_path, monkeypatch):
    """The kernelspec names this environment's Python, for a Jupyter in another environment."""
    words = ["--prefix", str(tmp_path), "--name", "mine", "--display-name", "My echo"]
    if not provisioner:
        words.append("--no-provisioner")
    completed = run_program(ECHOKERNEL, "install", *words)
    assert completed.returncode == 0, completed.stderr
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share" / "jupyter"))
    spec = KernelSpecManager().get_kernel_spec("mine")
    assert os.path.samefile(spec.argv[0], sys.executable)
    assert os.path.dirname(spec.argv[0]) == BIN, (
        "this environment's Python, not its base installation's"
    )
    assert spec.display_name == "My echo"
    assert ("kernel_provisioner" in spec.metadata) is provisioner
    printed = run_python("-c", STARTS_MINE)
    assert printed.stdout == "hello", printed.stderr


STARTS_MINE = """
from jupyter_client.manager import run_kernel
with run_kernel(kernel_name="mine") as client:
    client.execute_interactive("hello", timeout=20)
"""


def test_echokernel_install_reports_an_unwritable_prefix(tmp_path):
    (tmp_path / "a file").write_text("")
    completed = run_program(ECHOKERNEL, "install", "--prefix", str(tmp_path / "a file"))
    assert completed.returncode == 1
    assert completed.stderr.startswith("echokernel install: ")
    assert completed.stderr.count("\n") == 1
