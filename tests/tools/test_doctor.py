"""``echokernel doctor``: kernelspecs, shown and hidden, the start mode of each, and faults."""

import json
import os
import sys

import pytest
from jupyter_client.kernelspec import KernelSpecManager
from support.kernelspecs import handshake_metadata
from support.programs import ECHOKERNEL, run_program, run_python

from echokernel.tools import doctor as module

ARGV = ["python", "-m", "echokernel", "-f", "{connection_file}"]


def run_doctor(*words):
    return run_program(ECHOKERNEL, "doctor", *words)


def diagnose(*names):
    """Return (exit status, the environment, the diagnoses by name)."""
    completed = run_doctor("--json", *names)
    assert completed.stderr == ""
    result = json.loads(completed.stdout)
    assert result["ok"] is (completed.returncode == 0)
    assert completed.returncode in (0, 1)
    return (
        completed.returncode,
        result["jupyter"],
        {diagnosis["name"]: diagnosis for diagnosis in result["kernelspecs"]},
    )


def test_correct_kernelspecs_have_status_0():
    """L7: doctor finds the installed kernelspecs where jupyter_client finds them."""
    status, jupyter, diagnoses = diagnose("echo-handshake", "python3")
    assert status == 0
    assert jupyter["problems"] == []
    echo, python3 = diagnoses["echo-handshake"], diagnoses["python3"]
    assert echo["folder"] == KernelSpecManager().get_kernel_spec("echo-handshake").resource_dir
    assert (echo["provisioner"], echo["installed"]) == ("handshake-provisioner", True)
    assert (echo["start_mode"], echo["reason"]) == (
        "signed-frame",
        'its config has "handshake": "signed-frame"',
    )
    assert (python3["provisioner"], python3["start_mode"]) == ("local-provisioner", "classic")


def test_the_text_names_provisioner_and_start_mode():
    completed = run_doctor("ECHO-handshake")
    assert completed.returncode == 0
    assert completed.stdout.splitlines()[0].startswith("jupyter_client ")
    assert completed.stdout.splitlines()[-2:] == [
        "  provisioner  handshake-provisioner (installed)",
        '  start mode   signed-frame: its config has "handshake": "signed-frame"',
    ]


def test_a_hidden_kernelspec_is_reported(kernelspecs):
    """jupyter_client hides a kernelspec without its provisioner; doctor states the remedy."""
    metadata = {"kernel_provisioner": {"provisioner_name": "another-provisioner"}}
    kernelspecs("hidden", argv=ARGV, metadata=metadata)
    assert "hidden" not in KernelSpecManager().get_all_specs()
    status, _, diagnoses = diagnose()
    assert status == 1
    assert "echo-handshake" in diagnoses
    hidden = diagnoses["hidden"]
    assert (hidden["provisioner"], hidden["installed"]) == ("another-provisioner", False)
    [problem] = hidden["problems"]
    assert "hides it" in problem
    assert sys.prefix in problem
    assert "pip install" in problem
    assert "NOT INSTALLED" in run_doctor("hidden").stdout


@pytest.mark.parametrize(
    ("version", "config", "start_mode", "reason"),
    [
        ("5.6", {}, "signed-frame", "kernel_protocol_version is 5.6"),
        ("5.5", {}, "classic", "kernel_protocol_version is 5.5"),
        ("", {}, "classic", "no kernel_protocol_version"),
        ("5.6", {"handshake": "none"}, "classic", '"handshake": "none"'),
        ("", {"handshake": "handshake-request"}, "handshake-request", "its config has"),
    ],
)
def test_the_start_mode_is_the_provisioners(version, config, start_mode, reason, kernelspecs):
    """L7: doctor reports the provisioner's own decision, and its reason."""
    kernelspecs(
        "chosen", argv=ARGV, metadata=handshake_metadata(**config), kernel_protocol_version=version
    )
    status, _, diagnoses = diagnose("chosen")
    assert status == 0
    assert diagnoses["chosen"]["start_mode"] == start_mode
    assert reason in diagnoses["chosen"]["reason"]


def test_echokernels_provisioner_as_default(kernelspecs, monkeypatch):
    """L7: it serves kernelspecs without a provisioner; doctor reports what it would do for them."""
    kernelspecs("plain", argv=ARGV, kernel_protocol_version="5.6")
    _, _, diagnoses = diagnose("plain")
    assert diagnoses["plain"]["start_mode"] == "classic"
    [note] = diagnoses["plain"]["notes"]
    assert "JUPYTER_DEFAULT_PROVISIONER_NAME=handshake-provisioner" in note
    assert "signed-frame" in note
    monkeypatch.setenv("JUPYTER_DEFAULT_PROVISIONER_NAME", "handshake-provisioner")
    status, jupyter, diagnoses = diagnose("plain", "python3")
    assert status == 0
    assert any("JUPYTER_DEFAULT_PROVISIONER_NAME" in note for note in jupyter["notes"])
    assert diagnoses["plain"]["start_mode"] == "signed-frame"
    assert diagnoses["python3"]["provisioner"] == "handshake-provisioner"


def test_a_default_provisioner_that_is_not_installed_is_reported(monkeypatch):
    """Such a default hides python3, too."""
    monkeypatch.setenv("JUPYTER_DEFAULT_PROVISIONER_NAME", "gone")
    status, jupyter, diagnoses = diagnose("python3", "echo-handshake")
    assert status == 1
    [problem] = jupyter["problems"]
    assert "JUPYTER_DEFAULT_PROVISIONER_NAME=gone" in problem
    assert "Unset the variable" in problem
    assert diagnoses["python3"]["installed"] is False
    assert diagnoses["echo-handshake"]["problems"] == []


def test_a_shadowed_kernelspec_is_noted(kernelspecs, monkeypatch, tmp_path):
    """Shadowing is a note, not a fault."""
    first = tmp_path / "first"
    monkeypatch.setenv("JUPYTER_PATH", f"{first}{os.pathsep}{tmp_path / 'jupyter'}")
    folder = first / "kernels" / "Twice"
    folder.mkdir(parents=True)
    spec = {"argv": ARGV, "display_name": "Twice", "language": "test"}
    (folder / "kernel.json").write_text(json.dumps(spec))
    second = tmp_path / "jupyter" / "kernels" / "twice"
    second.mkdir(parents=True)
    (second / "kernel.json").write_text(json.dumps(spec))
    completed = run_doctor("--json", "twice")
    assert completed.returncode == 0
    used, shadowed = json.loads(completed.stdout)["kernelspecs"]
    assert (used["folder"], used["notes"]) == (str(folder), [])
    assert KernelSpecManager().get_kernel_spec("twice").resource_dir == str(folder)
    assert shadowed["notes"] == [f"never used: {folder} comes first"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('{"argv": [\n "x",\n]}', "line 3"),
        ("[]", "the content must be a JSON object"),
        (b"\xff", "utf-8"),
        ('{"metadata": []}', "metadata must be"),
        ('{"metadata": {"kernel_provisioner": "x"}}', "kernel_provisioner must be"),
        ('{"metadata": {"kernel_provisioner": {"config": 5}}}', "config must be"),
        ({"display_name": 5}, "wrong type"),
        ({"argv": []}, "argv must be a list"),
        ({"argv": "python -m x"}, "argv must be a list"),
        ({"argv": ["python", "-m", "x"]}, "{connection_file}"),
        ({"argv": ["/no/such/program", "{connection_file}"]}, "/no/such/program does not exist"),
        ({"argv": ["{resource_dir}/kernel.json", "{connection_file}"]}, "is not executable"),
        ({"metadata": handshake_metadata(handshake="bogus")}, "handshake"),
        ({"metadata": handshake_metadata(handshke="none")}, "'handshke', which"),
    ],
)
def test_an_invalid_kernel_json_is_reported(text, problem, kernelspecs, tmp_path):
    """Doctor names the file and its fault, and diagnoses the other kernelspecs."""
    kernelspecs("wrong")
    file = tmp_path / "jupyter" / "kernels" / "wrong" / "kernel.json"
    if isinstance(text, dict):
        text = json.dumps({"argv": ARGV, "display_name": "x", "language": "x", **text})
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    status, _, diagnoses = diagnose("wrong", "echo-handshake")
    assert status == 1
    assert diagnoses["echo-handshake"]["problems"] == []
    problems = "\n".join(diagnoses["wrong"]["problems"])
    assert problem in problems
    assert str(file.parent) in problems


def test_an_unknown_name_is_reported():
    completed = run_doctor("unknown")
    assert completed.returncode == 1
    assert "there is no such kernelspec in" in completed.stdout


def test_a_provisioner_that_cannot_be_imported_is_reported(kernelspecs, monkeypatch, tmp_path):
    package = tmp_path / "site" / "broken-1.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    entry = "[jupyter_client.kernel_provisioners]\nbroken = no_such_module:Provisioner\n"
    (package / "entry_points.txt").write_text(entry)
    monkeypatch.setenv("PYTHONPATH", str(package.parent))
    metadata = {"kernel_provisioner": {"provisioner_name": "broken"}}
    kernelspecs("broken", argv=ARGV, metadata=metadata)
    status, _, diagnoses = diagnose("broken")
    assert status == 1
    [problem] = diagnoses["broken"]["problems"]
    assert "no_such_module" in problem
    assert "reinstall" in problem


# --- the environment ------------------------------------------------------------------------------


def test_an_unwritable_runtime_directory_is_reported(tmp_path, monkeypatch):
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "a file" / "runtime"))
    status, jupyter, _ = diagnose("echo-handshake")
    assert status == 1
    [problem] = jupyter["problems"]
    assert "connection files cannot be written" in problem
    assert "JUPYTER_RUNTIME_DIR" in problem


def test_a_file_that_other_users_can_read_is_reported(tmp_path):
    """File systems such as vfat, or shares, do not store the mode of a file."""
    file = tmp_path / "probe"
    file.touch(mode=0o600)
    assert list(module.privacy_problems(file, "remedy")) == []
    file.chmod(0o755)
    [problem] = module.privacy_problems(file, "remedy")
    assert "0755" in problem
    assert problem.endswith("remedy")


@pytest.mark.parametrize(("version", "problems"), [("6.1.12", 1), ("7.0", 0), ("8.10.0", 0)])
def test_an_old_jupyter_client_is_reported(version, problems):
    assert len(list(module.jupyter_client_problems(version))) == problems


def test_a_kernels_start_imports_no_command():
    """A kernel binds its sockets before it imports anything slow."""
    code = (
        "import sys\n"
        "from echokernel.__main__ import main\n"
        "print(main(['-f', '/no/such/file']),"
        " *(n for n in ('doctor', 'stress', 'install') if 'echokernel.tools.' + n in sys.modules))"
    )
    completed = run_python("-c", code)
    assert completed.stdout == "2\n"
