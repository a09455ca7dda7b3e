"""``echokernel`` and the programs of kernel authors: commands, exit statuses, names in messages."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from support.kernel_processes import KEY
from support.programs import ECHOKERNEL, run_program, run_python
from support.waits import DEADLINE

import echokernel
from echokernel.__main__ import COMMANDS
from echokernel.testing.fake_launcher import FakeLauncher, Fault

OTHERS = [name for name in COMMANDS if name != "run"]


def run_echokernel(*words):
    return run_program(ECHOKERNEL, *words)


def test_help_lists_each_command():
    done = run_echokernel("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: echokernel ")
    lines = [line.split(maxsplit=1) for line in done.stdout.splitlines()]
    for name, line in COMMANDS.items():
        assert [name, line] in lines


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help(name):
    done = run_echokernel(name, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: echokernel {name} ")


def test_python_m_is_the_same_program():
    assert run_python("-m", "echokernel", "--help").stdout == run_echokernel("--help").stdout


def test_version():
    assert run_echokernel("--version").stdout == f"{echokernel.__version__}\n"


@pytest.mark.parametrize(
    ("word", "advice"),
    [
        ("doctro", "did you mean doctor?"),
        ("Install", "did you mean install?"),
        ("connection.json", f"the commands are {', '.join(COMMANDS)};"),
        ("", f"the commands are {', '.join(COMMANDS)};"),
    ],
)
def test_an_unknown_command(word, advice):
    done = run_echokernel(word, "--help")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"echokernel: error: {word!r} is not a command; {advice} `echokernel --help` explains the"
        " commands\n"
    )


@pytest.mark.parametrize(
    "words", [["-f"], ["run", "-f"], ["--log-level", "INFO", "-f"], ["--ip", "127.0.0.1", "-f"]]
)
@pytest.mark.parametrize("name", OTHERS)
def test_only_the_first_word_is_a_command(words, name):
    """F1: the file can have the name of a command; a kernel registers its ports."""
    with FakeLauncher("signed-frame") as launcher:
        launcher.write_file(name)
        process = subprocess.Popen(
            [sys.executable, "-m", "echokernel", *words, name], stderr=subprocess.PIPE, text=True
        )
        try:
            assert len(launcher.receive_registration(DEADLINE)) == 5
            launcher.answer(Fault.REFUSAL)
            _, stderr = process.communicate(timeout=DEADLINE)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 1
    assert stderr.count("\n") == 1
    assert stderr.startswith("echokernel: ")
    assert launcher.REASON in stderr


def test_a_wrong_option_is_an_option_of_run():
    done = run_echokernel("--doctor")
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("echokernel run: error: ")


def test_a_start_imports_no_command():
    """A kernel binds its sockets before anything heavy is loaded."""
    code = (
        "import sys\n"
        "from echokernel.__main__ import main\n"
        "print(main(['-f', '/no/such/file']))\n"
        "print(*(m for m in sys.modules if m.startswith('echokernel.tools') or m == 'difflib'))\n"
        "print('echokernel.runtime.app' in sys.modules)\n"
    )
    assert run_python("-c", code).stdout == "2\n\nTrue\n"


# --- kernels of other authors -------------------------------------------------------------------

LANGUAGE = """
from echokernel import Kernel

class MyKernel(Kernel):
    pass
"""

STARTS = """
from echokernel import run_kernel
run_kernel("my_kernel.language:MyKernel")
"""

LOGS = """
from echokernel import run_kernel
run_kernel("my_kernel.missing:MyKernel")
"""

PROGRAMS = {
    "a package": ["-m", "my_kernel"],
    "a module": ["-m", "my_kernel.starts"],
    "a script": ["my_kernel/starts.py"],
    "a folder": ["my_kernel"],
}
NAMES = {"a module": "my_kernel.starts", "a script": "starts"}


@pytest.fixture
def my_kernel(tmp_path, monkeypatch):
    """A package of another author in the current directory."""
    folder = tmp_path / "my_kernel"
    folder.mkdir()
    sources = {"__init__": "", "language": LANGUAGE, "logs": LOGS}
    for name, source in {**sources, "__main__": STARTS, "starts": STARTS}.items():
        (folder / f"{name}.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))


@pytest.mark.parametrize("program", PROGRAMS)
def test_the_help_of_an_author_names_that_kernel(program, my_kernel):
    done = run_python(*PROGRAMS[program], "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"usage: {NAMES.get(program, 'my_kernel')} [-h]")
    assert "--MyKernel.ident=" in done.stdout
    assert "echo" not in done.stdout.lower()
    assert not any(name in done.stdout for name in OTHERS)


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("words", [["--no-such-option"], ["doctor"], ["--version"]])
def test_a_wrong_argument_of_an_author(program, words, my_kernel):
    """The commands are those of echokernel, and its version is not that kernel's."""
    done = run_python(*PROGRAMS[program], *words)
    assert (done.returncode, done.stdout) == (2, "")
    name = NAMES.get(program, "my_kernel")
    assert done.stderr.splitlines()[-1].startswith(f"{name}: error: ")
    assert "echokernel" not in done.stderr


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_bad_startup_file_of_an_author(program, my_kernel):
    """F3: one line, status 2."""
    done = run_python(*PROGRAMS[program], "-f", "missing.json")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{NAMES.get(program, 'my_kernel')}: missing.json: ")
    assert done.stderr.count("\n") == 1


def test_the_log_of_an_author(my_kernel, tmp_path):
    """F4: the warning about an empty key, then the error line."""
    (tmp_path / "connection.json").write_text(json.dumps({"key": ""}))
    done = run_python("-m", "my_kernel.logs", "-f", "connection.json")
    warning, error = done.stderr.splitlines()
    assert warning.startswith("[my_kernel.logs] WARNING ")
    assert error.startswith("my_kernel.logs: ")
    assert done.returncode == 1


# --- run_kernel ends the process ----------------------------------------------------------------


def run_script(kernel_class, *words):
    code = f"from echokernel import run_kernel; run_kernel({kernel_class!r})\nprint('not reached')"
    done = run_python("-c", code, *words)
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stdout == ""
    return done.returncode, done.stderr


def test_a_class_that_cannot_be_imported_ends_the_process_with_status_1():
    status, line = run_script("no.such:Kernel")
    assert status == 1
    assert "cannot load the kernel class no.such:Kernel: ModuleNotFoundError" in line


@pytest.mark.parametrize("content", [None, "{", f'{{"key": "{KEY}", "transport": "pigeon"}}'])
def test_a_bad_startup_file_ends_the_process_with_status_2(content, tmp_path):
    """F3, F4: the line names the file, not the key."""
    if content is not None:
        (tmp_path / "startup.json").write_text(content)
    status, line = run_script("echokernel.kernel:EchoKernel", "-f", "startup.json")
    assert status == 2
    assert "startup.json: " in line
    assert KEY not in line
