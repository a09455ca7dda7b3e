"""``echokernel doctor``: kernelspecs, shown and hidden, the way each would start, and faults."""

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
    """Return (exit status, the surroundings, the diagnoses by name)."""
    done = run_doctor("--json", *names)
    assert done.stderr == ""
    result = json.loads(done.stdout)
    assert result["ok"] is (done.returncode == 0)
    assert done.returncode in (0, 1)
    return (
        done.returncode,
        result["jupyter"],
        {each["name"]: each for each in result["kernelspecs"]},
    )


def test_all_is_well():
    """L7: the installed kernelspecs, found where jupyter_client finds them, status 0."""
    status, jupyter, found = diagnose("echo-handshake", "python3")
    assert status == 0
    assert jupyter["problems"] == []
    echo, python3 = found["echo-handshake"], found["python3"]
    assert echo["folder"] == KernelSpecManager().get_kernel_spec("echo-handshake").resource_dir
    assert (echo["provisioner"], echo["installed"]) == ("handshake-provisioner", True)
    assert (echo["start_mode"], echo["reason"]) == (
        "signed-frame",
        'its config has "handshake": "signed-frame"',
    )
    assert (python3["provisioner"], python3["start_mode"]) == ("local-provisioner", "classic")


def test_what_people_read():
    done = run_doctor("ECHO-handshake")
    assert done.returncode == 0
    assert done.stdout.splitlines()[0].startswith("jupyter_client ")
    assert done.stdout.splitlines()[-2:] == [
        "  provisioner  handshake-provisioner (installed)",
        '  start mode   signed-frame: its config has "handshake": "signed-frame"',
    ]


def test_a_hidden_kernelspec(kernelspecs):
    """Trap 9: jupyter_client drops it; why and what to do is told."""
    metadata = {"kernel_provisioner": {"provisioner_name": "somebody-elses"}}
    kernelspecs("hidden", argv=ARGV, metadata=metadata)
    assert "hidden" not in KernelSpecManager().get_all_specs()
    status, _, found = diagnose()
    assert status == 1
    assert "echo-handshake" in found
    hidden = found["hidden"]
    assert (hidden["provisioner"], hidden["installed"]) == ("somebody-elses", False)
    [problem] = hidden["problems"]
    assert "hides it" in problem
    assert sys.prefix in problem
    assert "pip install" in problem
    assert "NOT INSTALLED" in run_doctor("hidden").stdout


@pytest.mark.parametrize(
    ("version", "config", "way", "why"),
    [
        ("5.6", {}, "signed-frame", "kernel_protocol_version is 5.6"),
        ("5.5", {}, "classic", "kernel_protocol_version is 5.5"),
        ("", {}, "classic", "no kernel_protocol_version"),
        ("5.6", {"handshake": "none"}, "classic", '"handshake": "none"'),
        ("", {"handshake": "handshake-request"}, "handshake-request", "its config has"),
    ],
)
def test_the_way_is_the_provisioners(version, config, way, why, kernelspecs):
    """L7: its own decision, and what it was made from."""
    kernelspecs(
        "chosen", argv=ARGV, metadata=handshake_metadata(**config), kernel_protocol_version=version
    )
    status, _, found = diagnose("chosen")
    assert status == 0
    assert found["chosen"]["start_mode"] == way
    assert why in found["chosen"]["reason"]


def test_our_provisioner_as_default(kernelspecs, monkeypatch):
    """L7: it serves what names none, python3 too; without it, doctor says what it would do."""
    kernelspecs("plain", argv=ARGV, kernel_protocol_version="5.6")
    _, _, found = diagnose("plain")
    assert found["plain"]["start_mode"] == "classic"
    [note] = found["plain"]["notes"]
    assert "JUPYTER_DEFAULT_PROVISIONER_NAME=handshake-provisioner" in note
    assert "signed-frame" in note
    monkeypatch.setenv("JUPYTER_DEFAULT_PROVISIONER_NAME", "handshake-provisioner")
    status, jupyter, found = diagnose("plain", "python3")
    assert status == 0
    assert any("JUPYTER_DEFAULT_PROVISIONER_NAME" in note for note in jupyter["notes"])
    assert found["plain"]["start_mode"] == "signed-frame"
    assert found["python3"]["provisioner"] == "handshake-provisioner"


def test_a_default_provisioner_that_is_not_installed(monkeypatch):
    """Trap 9: it breaks python3, too."""
    monkeypatch.setenv("JUPYTER_DEFAULT_PROVISIONER_NAME", "gone")
    status, jupyter, found = diagnose("python3", "echo-handshake")
    assert status == 1
    [problem] = jupyter["problems"]
    assert "JUPYTER_DEFAULT_PROVISIONER_NAME=gone" in problem
    assert "Unset the variable" in problem
    assert found["python3"]["installed"] is False
    assert found["echo-handshake"]["problems"] == []


def test_one_goes_before_another(kernelspecs, monkeypatch, tmp_path):
    """Shadowing is said and no fault."""
    first = tmp_path / "first"
    monkeypatch.setenv("JUPYTER_PATH", f"{first}{os.pathsep}{tmp_path / 'jupyter'}")
    folder = first / "kernels" / "Twice"
    folder.mkdir(parents=True)
    spec = {"argv": ARGV, "display_name": "Twice", "language": "test"}
    (folder / "kernel.json").write_text(json.dumps(spec))
    second = tmp_path / "jupyter" / "kernels" / "twice"
    second.mkdir(parents=True)
    (second / "kernel.json").write_text(json.dumps(spec))
    done = run_doctor("--json", "twice")
    assert done.returncode == 0
    used, shadowed = json.loads(done.stdout)["kernelspecs"]
    assert (used["folder"], used["notes"]) == (str(folder), [])
    assert KernelSpecManager().get_kernel_spec("twice").resource_dir == str(folder)
    assert shadowed["notes"] == [f"never used: {folder} comes first"]


@pytest.mark.parametrize(
    ("text", "said"),
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
def test_a_kernel_json_that_is_wrong(text, said, kernelspecs, tmp_path):
    """Said with the file and what is wrong in it; the others are diagnosed all the same."""
    kernelspecs("wrong")
    file = tmp_path / "jupyter" / "kernels" / "wrong" / "kernel.json"
    if isinstance(text, dict):
        text = json.dumps({"argv": ARGV, "display_name": "x", "language": "x", **text})
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    status, _, found = diagnose("wrong", "echo-handshake")
    assert status == 1
    assert found["echo-handshake"]["problems"] == []
    problems = "\n".join(found["wrong"]["problems"])
    assert said in problems
    assert str(file.parent) in problems


def test_a_name_that_is_nowhere():
    done = run_doctor("nowhere")
    assert done.returncode == 1
    assert "there is no such kernelspec in" in done.stdout


def test_a_provisioner_that_cannot_be_imported(kernelspecs, monkeypatch, tmp_path):
    made = tmp_path / "site" / "broken-1.dist-info"
    made.mkdir(parents=True)
    (made / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1\n")
    entry = "[jupyter_client.kernel_provisioners]\nbroken = no_such_module:Provisioner\n"
    (made / "entry_points.txt").write_text(entry)
    monkeypatch.setenv("PYTHONPATH", str(made.parent))
    metadata = {"kernel_provisioner": {"provisioner_name": "broken"}}
    kernelspecs("broken", argv=ARGV, metadata=metadata)
    status, _, found = diagnose("broken")
    assert status == 1
    [problem] = found["broken"]["problems"]
    assert "no_such_module" in problem
    assert "reinstall" in problem


# --- the surroundings -----------------------------------------------------------------------------


def test_a_runtime_directory_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "a file").write_text("")
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "a file" / "runtime"))
    status, jupyter, _ = diagnose("echo-handshake")
    assert status == 1
    [problem] = jupyter["problems"]
    assert "connection files cannot be written" in problem
    assert "JUPYTER_RUNTIME_DIR" in problem


def test_a_file_system_that_gives_everybody_the_keys(tmp_path):
    """As vfat or a share does: the file is there, its mode is not."""
    file = tmp_path / "probe"
    file.touch(mode=0o600)
    assert list(module.privacy_problems(file, "remedy")) == []
    file.chmod(0o755)
    [problem] = module.privacy_problems(file, "remedy")
    assert "0755" in problem
    assert problem.endswith("remedy")


@pytest.mark.parametrize(("version", "problems"), [("6.1.12", 1), ("7.0", 0), ("8.10.0", 0)])
def test_an_old_jupyter_client(version, problems):
    assert len(list(module.jupyter_client_problems(version))) == problems


def test_a_kernels_start_loads_no_command():
    """A kernel binds its sockets before anything heavy is loaded."""
    code = (
        "import sys\n"
        "from echokernel.__main__ import main\n"
        "print(main(['-f', '/no/such/file']),"
        " *(n for n in ('doctor', 'stress', 'install') if 'echokernel.tools.' + n in sys.modules))"
    )
    done = run_python("-c", code)
    assert done.stdout == "2\n"
