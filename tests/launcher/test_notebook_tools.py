"""Whole programs that run notebooks: papermill, Voilà, pytest with nbmake and xdist.

A witness stands in front of the kernel: a process that notes what the startup file asks of the
kernel before it becomes it.
"""

import json
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import nbformat
import psutil
import pytest
from jupyter_client.kernelspec import KernelSpecManager
from support import optional
from support.kernelspecs import handshake_metadata
from support.ports import free_port
from support.programs import run_python
from support.waits import DEADLINE, poll_until

for needed in ("papermill", "voila", "nbmake", "xdist"):
    optional.module(needed)

pytestmark = pytest.mark.timeout(300)  # programs within programs on a slow machine

WITNESS = """
import json, os, sys
record, startup_file = sys.argv[1:3]
with open(startup_file) as file:
    keys = json.load(file)
if "registration_port" in keys:
    how = "registers"
elif keys["shell_port"]:
    how = "is told its ports"
else:
    how = "rewrites its ports"
with open(record, "a") as file:
    file.write(how + "\\n")
os.execv(sys.executable, [sys.executable, *sys.argv[3:]])
"""


@pytest.fixture
def witnessed(kernelspecs, tmp_path):
    """Shadow an installed kernelspec: ``witnessed(name)`` returns how its kernels were started."""

    def shadow(name, provisioner=True):
        record = tmp_path / f"{name}.record"
        folder = KernelSpecManager().get_kernel_spec(name).resource_dir
        spec = json.loads((Path(folder) / "kernel.json").read_text())
        witness = [sys.executable, "-c", WITNESS, str(record), "{connection_file}"]
        spec["argv"] = [*witness, *spec["argv"][1:]]
        if not provisioner:
            spec["metadata"].pop("kernel_provisioner")
        kernelspecs(name, **spec)
        return lambda: record.read_text().splitlines()

    return shadow


@pytest.fixture
def notebook(tmp_path):
    def write(name, *sources, kernel="echo-handshake", language="echo"):
        spec = {"name": kernel, "display_name": kernel, "language": language}
        made = nbformat.v4.new_notebook(metadata={"kernelspec": spec})
        made.cells = [nbformat.v4.new_code_cell(source) for source in sources]
        path = tmp_path / name
        nbformat.write(made, path)
        return str(path)

    return write


def run_module(*words, **environment):
    return run_python("-m", *words, timeout=280, **environment)


def outputs(path):
    return [[o.text for o in cell.outputs] for cell in nbformat.read(path, 4).cells]


# --- papermill ----------------------------------------------------------------------------------


def test_papermill(witnessed, notebook, tmp_path):
    """L1."""
    starts = witnessed("echo-handshake")
    done = tmp_path / "done.ipynb"
    ran = run_module("papermill", notebook("in.ipynb", "one", "two", "three"), str(done))
    assert ran.returncode == 0, ran.stderr
    assert outputs(done) == [["one"], ["two"], ["three"]]
    assert starts() == ["registers"]


@pytest.fixture
def dying(kernelspecs):
    return kernelspecs(
        "dying",
        argv=[sys.executable, "-c", "import sys; sys.exit('the cause')", "{connection_file}"],
        metadata=handshake_metadata(handshake="signed-frame"),
    )


def ends_with_the_cause(ran):
    assert ran.returncode == 1
    assert "exited with status 1 before it registered its ports" in ran.stderr
    assert "the cause" in ran.stderr


def test_papermill_and_a_kernel_that_dies(dying, notebook, tmp_path):
    """L4: papermill ends at once, with the cause."""
    never = notebook("in.ipynb", "never", kernel=dying)
    ends_with_the_cause(run_module("papermill", never, str(tmp_path / "out.ipynb")))


def test_jupyter_execute_and_a_kernel_that_dies(dying, notebook):
    """L4: so does nbclient."""
    never = notebook("in.ipynb", "never", kernel=dying)
    ends_with_the_cause(run_module("jupyter_core", "execute", never))


# --- Voilà --------------------------------------------------------------------------------------


@contextmanager
def voila(path, log):
    """Serve a notebook; gives the address of its page."""
    port = free_port()
    with open(log, "w") as file:
        server = subprocess.Popen(
            [
                *(sys.executable, "-m", "voila", path),
                *("--no-browser", f"--port={port}", "--Voila.ip=127.0.0.1"),
            ],
            stdout=file,
            stderr=file,
        )
    try:
        poll_until(lambda: answers(port), f"Voilà answers: {log.read_text()}", 60)
        yield f"http://127.0.0.1:{port}/"
        kernels = psutil.Process(server.pid).children()
    finally:
        server.terminate()
        server.wait(DEADLINE)
    assert psutil.wait_procs(kernels, timeout=DEADLINE)[1] == [], "kernels outlive Voilà"


def visit(address):
    with urllib.request.urlopen(address, timeout=60) as response:
        return response.read().decode()


def test_voila(witnessed, notebook, runtime_dir, tmp_path):
    """L1: each visit has a kernel of its own; they end with the server."""
    starts = witnessed("echo-handshake")
    with voila(notebook("app.ipynb", "first", "second"), tmp_path / "voila.log") as address:
        for _ in range(2):
            page = visit(address)
            assert "<pre>first</pre>" in page
            assert "<pre>second</pre>" in page
    assert starts() == ["registers"] * 2


def test_voila_and_a_hidden_kernel(kernelspecs, notebook, tmp_path):
    """LAUNCHER_NOTES 9: Voilà runs another kernel of the same language instead."""
    hidden(kernelspecs)
    app = notebook("app.ipynb", "print(6 * 7)", kernel="elsewhere", language="python")
    with voila(app, tmp_path / "voila.log") as address:
        assert "<pre>42" in visit(address)


def answers(port):
    try:
        urllib.request.urlopen(f"http://127.0.0.1:{port}/static/no-such-file", timeout=DEADLINE)
    except urllib.error.HTTPError as error:
        error.close()
        return True
    except OSError:
        return False
    return True


# --- nbmake and xdist: docs/recipes.md ----------------------------------------------------------

EVERY_KERNEL = {"JUPYTER_DEFAULT_PROVISIONER_NAME": "handshake-provisioner"}


def test_nbmake_in_parallel(witnessed, notebook, tmp_path):
    """L1, L2, L7: kernelspecs that name no provisioner; one environment variable for them all."""
    starts = witnessed("echo-handshake", provisioner=False)
    python3 = witnessed("python3")
    notebooks = [notebook(f"echo-{number}.ipynb", "one", "two") for number in range(4)]
    notebooks.append(notebook("python.ipynb", "1 + 1", kernel="python3", language="python"))
    ran = run_module("pytest", "--nbmake", "-n", "2", *notebooks, **EVERY_KERNEL)
    assert "5 passed" in ran.stdout, ran.stdout
    assert starts() == ["registers"] * 4
    assert python3() == ["rewrites its ports"]


def test_nbmake_without_it(witnessed, notebook):
    """The same kernelspec, launched as Jupyter does by itself."""
    starts = witnessed("echo-handshake", provisioner=False)
    ran = run_module("pytest", "--nbmake", notebook("echo.ipynb", "one"))
    assert "1 passed" in ran.stdout, ran.stdout
    assert starts() == ["is told its ports"]


# --- where echokernel is not installed -----------------------------------------------------------

ELSEWHERE = "a-provisioner-that-is-not-installed"


def execute(path, **environment):
    ran = run_module("jupyter_core", "execute", path, **environment)
    return ran.returncode, ran.stderr


def test_a_variable_that_names_what_is_not_installed(notebook):
    """LAUNCHER_NOTES 9: it hides every kernel that names no provisioner, python3 first."""
    everywhere = {"JUPYTER_DEFAULT_PROVISIONER_NAME": ELSEWHERE}
    python3 = notebook("python.ipynb", "1 + 1", kernel="python3", language="python")
    status, said = execute(python3, **everywhere)
    assert status == 1
    assert "No such kernel named python3" in said
    assert f"kernel provisioner ('{ELSEWHERE}') that is not available" in said
    assert "not available" in run_module("jupyter_core", "kernelspec", "list", **everywhere).stderr
    status, said = execute(python3)
    assert status == 0, said


def hidden(kernelspecs):
    provisioner = {"kernel_provisioner": {"provisioner_name": ELSEWHERE}}
    kernelspecs("elsewhere", argv=[sys.executable, "{connection_file}"], metadata=provisioner)


def test_a_kernelspec_that_names_what_is_not_installed(kernelspecs, notebook):
    """LAUNCHER_NOTES 9: that kernel alone is hidden, although it is listed."""
    hidden(kernelspecs)
    status, said = execute(notebook("in.ipynb", "never", kernel="elsewhere"))
    assert status == 1
    assert "No such kernel named elsewhere" in said
    assert "elsewhere" in run_module("jupyter_core", "kernelspec", "list").stdout
    status, said = execute(notebook("echo.ipynb", "hello"))
    assert status == 0, said
