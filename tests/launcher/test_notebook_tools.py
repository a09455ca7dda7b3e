"""Programs that run notebooks: papermill, Voilà, pytest with nbmake and xdist.

Some kernelspecs start a witness: a process that records the start mode, which it recognises by the
startup file, and then becomes the kernel.
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
    start_mode = "handshake"
elif keys["shell_port"]:
    start_mode = "classic"
else:
    start_mode = "rewrite"
with open(record, "a") as file:
    file.write(start_mode + "\\n")
os.execv(sys.executable, [sys.executable, *sys.argv[3:]])
"""


@pytest.fixture
def record_starts(kernelspecs, tmp_path):
    """Shadow a kernelspec: ``record_starts(name)`` returns a reader of its kernels' start modes."""

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
        document = nbformat.v4.new_notebook(metadata={"kernelspec": spec})
        document.cells = [nbformat.v4.new_code_cell(source) for source in sources]
        path = tmp_path / name
        nbformat.write(document, path)
        return str(path)

    return write


def run_module(*words, **environment):
    return run_python("-m", *words, timeout=280, **environment)


def outputs(path):
    return [[o.text for o in cell.outputs] for cell in nbformat.read(path, 4).cells]


# --- papermill ----------------------------------------------------------------------------------


def test_papermill_starts_a_kernel_by_a_handshake(record_starts, notebook, tmp_path):
    """L1: papermill needs no configuration."""
    starts = record_starts("echo-handshake")
    executed = tmp_path / "executed.ipynb"
    completed = run_module("papermill", notebook("in.ipynb", "one", "two", "three"), str(executed))
    assert completed.returncode == 0, completed.stderr
    assert outputs(executed) == [["one"], ["two"], ["three"]]
    assert starts() == ["handshake"]


@pytest.fixture
def dying(kernelspecs):
    return kernelspecs(
        "dying",
        argv=[sys.executable, "-c", "import sys; sys.exit('the cause')", "{connection_file}"],
        metadata=handshake_metadata(handshake="signed-frame"),
    )


def assert_reports_the_cause(completed):
    assert completed.returncode == 1
    assert "exited with status 1 before it registered its ports" in completed.stderr
    assert "the cause" in completed.stderr


def test_papermill_reports_why_its_kernel_died(dying, notebook, tmp_path):
    """L4: papermill ends immediately, with the cause."""
    path = notebook("in.ipynb", "never", kernel=dying)
    assert_reports_the_cause(run_module("papermill", path, str(tmp_path / "out.ipynb")))


def test_jupyter_execute_reports_why_its_kernel_died(dying, notebook):
    """L4: nbclient ends immediately, with the cause."""
    path = notebook("in.ipynb", "never", kernel=dying)
    assert_reports_the_cause(run_module("jupyter_core", "execute", path))


# --- Voilà --------------------------------------------------------------------------------------


@contextmanager
def voila(path, log):
    """Serve a notebook; yield the address of its page."""
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
        poll_until(lambda: is_answering(port), f"Voilà answers: {log.read_text()}", 60)
        yield f"http://127.0.0.1:{port}/"
        kernels = psutil.Process(server.pid).children()
    finally:
        server.terminate()
        server.wait(DEADLINE)
    assert psutil.wait_procs(kernels, timeout=DEADLINE)[1] == [], "kernels outlive Voilà"


def visit(address):
    with urllib.request.urlopen(address, timeout=60) as response:
        return response.read().decode()


def test_voila_starts_a_kernel_for_each_visit(record_starts, notebook, runtime_dir, tmp_path):
    """L1: each visit has its own kernel; the kernels end with the server."""
    starts = record_starts("echo-handshake")
    with voila(notebook("app.ipynb", "first", "second"), tmp_path / "voila.log") as address:
        for _ in range(2):
            page = visit(address)
            assert "<pre>first</pre>" in page
            assert "<pre>second</pre>" in page
    assert starts() == ["handshake"] * 2


def test_voila_replaces_a_hidden_kernel(kernelspecs, notebook, tmp_path):
    """Voilà runs another kernel of the same language if it cannot find the notebook's kernel."""
    write_hidden_kernelspec(kernelspecs)
    app = notebook("app.ipynb", "print(6 * 7)", kernel="elsewhere", language="python")
    with voila(app, tmp_path / "voila.log") as address:
        assert "<pre>42" in visit(address)


def is_answering(port):
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


def test_one_variable_starts_every_kernel_of_nbmake(record_starts, notebook, tmp_path):
    """L1, L2, L7: the kernelspecs name no provisioner, and one environment variable names it."""
    starts = record_starts("echo-handshake", provisioner=False)
    python3 = record_starts("python3")
    notebooks = [notebook(f"echo-{number}.ipynb", "one", "two") for number in range(4)]
    notebooks.append(notebook("python.ipynb", "1 + 1", kernel="python3", language="python"))
    completed = run_module("pytest", "--nbmake", "-n", "2", *notebooks, **EVERY_KERNEL)
    assert "5 passed" in completed.stdout, completed.stdout
    assert starts() == ["handshake"] * 4
    assert python3() == ["rewrite"]


def test_without_the_variable_nbmake_starts_kernels_classic(record_starts, notebook):
    """L7: the same kernelspec, started by jupyter_client's own provisioner."""
    starts = record_starts("echo-handshake", provisioner=False)
    completed = run_module("pytest", "--nbmake", notebook("echo.ipynb", "one"))
    assert "1 passed" in completed.stdout, completed.stdout
    assert starts() == ["classic"]


# --- where echokernel is not installed -----------------------------------------------------------

NOT_INSTALLED = "a-provisioner-that-is-not-installed"


def execute(path, **environment):
    completed = run_module("jupyter_core", "execute", path, **environment)
    return completed.returncode, completed.stderr


def test_a_default_provisioner_that_is_not_installed_hides_kernels(notebook):
    """The variable hides every kernelspec that names no provisioner, python3 first."""
    variables = {"JUPYTER_DEFAULT_PROVISIONER_NAME": NOT_INSTALLED}
    python3 = notebook("python.ipynb", "1 + 1", kernel="python3", language="python")
    status, stderr = execute(python3, **variables)
    assert status == 1
    assert "No such kernel named python3" in stderr
    assert f"kernel provisioner ('{NOT_INSTALLED}') that is not available" in stderr
    assert "not available" in run_module("jupyter_core", "kernelspec", "list", **variables).stderr
    status, stderr = execute(python3)
    assert status == 0, stderr


def write_hidden_kernelspec(kernelspecs):
    provisioner = {"kernel_provisioner": {"provisioner_name": NOT_INSTALLED}}
    kernelspecs("elsewhere", argv=[sys.executable, "{connection_file}"], metadata=provisioner)


def test_a_provisioner_that_is_not_installed_hides_its_kernel(kernelspecs, notebook):
    """Only that kernelspec is hidden from programs, although it is listed."""
    write_hidden_kernelspec(kernelspecs)
    status, stderr = execute(notebook("in.ipynb", "never", kernel="elsewhere"))
    assert status == 1
    assert "No such kernel named elsewhere" in stderr
    assert "elsewhere" in run_module("jupyter_core", "kernelspec", "list").stdout
    status, stderr = execute(notebook("echo.ipynb", "hello"))
    assert status == 0, stderr
