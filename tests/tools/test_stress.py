"""``echokernel stress``: the command as a user runs it, and what it computes."""

import io
import json
import signal
import subprocess
import sys
import tempfile

import psutil
import pytest
from support.kernelspecs import handshake_metadata
from support.programs import ECHOKERNEL, run_program
from support.waits import poll_until

from echokernel.tools.stress import report as stress_report
from echokernel.tools.stress.report import Progress, Row, summarize, table

LONG = 100  # seconds, for a whole run on a loaded machine


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """A folder for temporary files of the test's own; it must be empty again at its end."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    monkeypatch.setattr(tempfile, "tempdir", None)
    yield folder
    assert sorted(folder.glob("echokernel-stress-*")) == []


def stress(*words):
    return run_program(ECHOKERNEL, "stress", *words, timeout=LONG)


# --- runs -----------------------------------------------------------------------------------------


@pytest.mark.timeout(LONG + 20)
def test_a_thief_that_reads_connection_files(tmp_path):
    """L7, H1: every classic launch is lost, no handshake is; said in the table and in JSON."""
    file = tmp_path / "result.json"
    done = stress("--launches", "4", "--processes", "2", "--json", str(file))
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(file.read_text())
    classic, handshake = result["modes"]
    assert (classic["mode"], classic["launches"]) == ("classic", 4)
    assert classic["failures"] + classic["hangs"] > 0
    assert (handshake["launches"], handshake["failures"], handshake["hangs"]) == (4, 0, 0)
    assert handshake["median_start"] > 0
    assert result["ports_taken"] >= 5, "a launch failed for another reason than the thief"
    lost = [each for each in result["launches"] if each["outcome"] != "ok"]
    assert all(each["mode"] == "classic" for each in lost)
    assert any("Address already in use" in each["cause"] for each in lost)
    lines = done.stdout.splitlines()
    assert lines[0] == "echo-handshake, 4 launches per mode from 2 processes, load: thief"
    assert lines[2].split() == ["launches", "failures", "hangs", "median", "start", "ratio"]
    assert lines[4].split()[:4] == ["handshake", "4", "0", "0"]
    assert "the start mode is signed-frame" in done.stdout
    assert "8/8 launches" in done.stderr.splitlines()[-1]
    assert "\x1b" not in done.stderr, "no bar where no terminal is"


@pytest.mark.timeout(LONG + 20)
def test_without_load_everything_starts():
    """The ratio of the starts is that to the first way; any way of the provisioner can be added."""
    done = stress("--launches", "1", "--load", "none", "--modes", "handshake,handshake-request")
    assert done.returncode == 0, done.stdout + done.stderr
    handshake, request = (line.split() for line in done.stdout.splitlines()[3:5])
    assert handshake[:4] == ["handshake", "1", "0", "0"]
    assert handshake[-1] == "1.00"
    assert request[:4] == ["handshake-request", "1", "0", "0"]
    assert float(request[-1]) > 0


@pytest.mark.timeout(LONG + 20)
def test_while_ports_are_bound():
    done = stress("--launches", "1", "--load", "binds", "--modes", "handshake")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "ports" in done.stdout


@pytest.mark.timeout(LONG + 20)
def test_a_kernel_that_dies_and_one_that_hangs(kernelspecs):
    """L4: both are counted, with the cause; the status says that a handshake failed."""
    dies = "import sys; sys.exit('the cause')"
    hangs = "import threading; threading.Event().wait()"
    for name, code in (("dies", dies), ("hangs", hangs)):
        argv = [sys.executable, "-c", code, "{connection_file}"]
        kernelspecs(name, argv=argv, metadata=handshake_metadata(handshake="signed-frame"))
    words = ("--launches", "1", "--load", "none", "--modes", "handshake")
    done = stress("--kernel", "dies", *words)
    assert done.returncode == 1
    assert "handshake, 1 x: the cause" in done.stdout
    done = stress("--kernel", "hangs", "--timeout", "2", *words)
    assert done.returncode == 1
    assert done.stdout.splitlines()[3].split()[:4] == ["handshake", "1", "0", "1"]
    assert "did not register its ports within 2 s" in done.stdout


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
def test_interrupted(how, kernelspecs, tmp_path):
    """Every process and kernel ends, the folder goes, one line says so."""
    witness = tmp_path / "pids"
    hangs = (
        "import os, sys, threading\n"
        "with open(sys.argv[1], 'a') as file: print(os.getpid(), file=file)\n"
        "threading.Event().wait()"
    )
    argv = [sys.executable, "-c", hangs, str(witness), "{connection_file}"]
    kernelspecs("hangs", argv=argv, metadata=handshake_metadata(handshake="signed-frame"))
    process = subprocess.Popen(
        [ECHOKERNEL, "stress", "--kernel", "hangs", "--processes", "2"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        poll_until(lambda: len(witness_lines(witness)) >= 2, "two kernels run", LONG)
        family = psutil.Process(process.pid).children(recursive=True)
        assert len(family) == 5, "a thief, two launchers, two kernels"
    finally:
        process.send_signal(how)
        out, err = process.communicate(timeout=LONG)
    assert process.returncode == 130
    assert (out, err.strip()) == (
        "",
        "echokernel stress: interrupted; all its processes and kernels were stopped",
    )
    _, alive = psutil.wait_procs(family, timeout=20)
    assert not alive, alive


def witness_lines(file):
    return file.read_text().splitlines() if file.exists() else []


@pytest.mark.timeout(LONG + 20)
def test_its_processes_end_with_it(kernelspecs, tmp_path, temporary):
    """Killed, it leaves no process: those that it started notice."""
    witness = tmp_path / "pids"
    hangs = (
        "import os, sys, threading\n"
        "with open(sys.argv[1], 'a') as file: print(os.getpid(), file=file)\n"
        "threading.Event().wait()"
    )
    argv = [sys.executable, "-c", hangs, str(witness), "{connection_file}"]
    kernelspecs("hangs", argv=argv)
    process = subprocess.Popen([ECHOKERNEL, "stress", "--kernel", "hangs", "--processes", "1"])
    poll_until(lambda: witness_lines(witness), "a kernel runs", LONG)
    family = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(family, timeout=40)
    assert not alive, alive
    for left in temporary.glob("echokernel-stress-*"):  # nobody is there to remove it
        subprocess.run(["rm", "-r", str(left)], check=True)


# --- mistakes -------------------------------------------------------------------------------------


def test_mistakes_are_told_in_one_line(kernelspecs, tmp_path):
    kernelspecs("wrong", argv=["x"], metadata=handshake_metadata(handshake="bogus"))
    (tmp_path / "a file").write_text("")
    for words, said in (
        (["--kernel", "missing"], "there is no kernelspec missing"),
        (["--kernel", "wrong"], "see `echokernel doctor wrong`"),
        (["--json", str(tmp_path / "a file" / "x.json")], "a file"),
        (["--json", str(tmp_path)], "directory"),
    ):
        done = stress(*words)
        assert done.returncode == 2
        lines = [line for line in done.stderr.splitlines() if line.startswith("echokernel stress")]
        assert len(lines) == 1
        assert said in lines[0]
        assert "Traceback" not in done.stderr
        assert done.stdout == ""


@pytest.mark.parametrize(
    "words",
    [["--launches", "0"], ["--launches", "x"], ["--timeout", "-1"], ["--load", "bogus"],
     ["--modes", "classic,bogus"], ["--processes", "1.5"], ["more"]],
)  # fmt: skip
def test_wrong_arguments(words):
    done = stress(*words)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: echokernel stress")
    assert "Traceback" not in done.stderr


# --- what is computed -----------------------------------------------------------------------------


def record(way, outcome="ok", **more):
    return {"mode": way, "outcome": outcome, **more}


def test_summary():
    records = [
        record("classic", seconds=1.0), record("classic", seconds=3.0),
        record("classic", "failed", cause="x"), record("handshake", seconds=1.0),
        record("handshake", "hung", cause="y"), record("rewrite", "failed", cause="z"),
    ]  # fmt: skip
    assert summarize(records, ["classic", "handshake", "rewrite"]) == [
        Row("classic", 3, 1, 0, 2.0, 1.0),
        Row("handshake", 2, 0, 1, 1.0, 0.5),
        Row("rewrite", 1, 1, 0, None, None),
    ]
    assert [row.ok for row in summarize(records, ["classic", "handshake"])] == [False, False]


def test_table_and_causes():
    rows = [Row("classic", 10, 9, 1, None, None), Row("handshake", 10, 0, 0, 0.534, None)]
    assert table(rows) == (
        "           launches  failures  hangs  median start  ratio\n"
        "classic          10         9      1             -      -\n"
        "handshake        10         0      0        0.53 s      -"
    )
    records = [record("classic", "failed", cause="gone")] * 9 + [
        record("classic", "hung", cause="?")
    ]
    text = stress_report.report("title", rows, records, ("signed-frame", "so it is"), 45)
    assert text.splitlines()[-4:] == [
        "handshake: the start mode is signed-frame, because so it is",
        "the load took 45 ports",
        "classic, 9 x: gone",
        "classic, 1 x: ?",
    ]


def test_a_kernel_without_a_handshake_is_told():
    rows = [Row("handshake", 1, 0, 0, 1.0, 1.0)]
    text = stress_report.report("title", rows, [], ("classic", "it says 5.5"), None)
    assert text.splitlines()[-1] == (
        "handshake: the start mode is classic (no handshake; see --modes for other start modes),"
        " because it says 5.5"
    )


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress():
    """A bar on a terminal, which overwrites itself; else a line for each tenth."""
    for out, expected in (
        (Terminal(), "\r\x1b[K[" + "#" * 30 + "] 20/20 launches; failed: classic 1, handshake 0\n"),
        (io.StringIO(), "20/20 launches; failed: classic 1, handshake 0\n"),
    ):
        progress = Progress(20, ["classic", "handshake"], out)
        progress.step(record("classic", "failed"))
        for _ in range(19):
            progress.step(record("handshake"))
        assert out.getvalue().endswith(expected)
        assert out.getvalue().count("\n") == (1 if out.isatty() else 10)
