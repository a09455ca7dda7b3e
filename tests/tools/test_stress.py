"""``echokernel stress``: the command, run as by a user, and its calculations."""

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
    """A temporary folder for each test; it must be empty at the test's end."""
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
def test_classic_launches_fail_under_a_thief_and_handshakes_do_not(tmp_path):
    """L7, H1: the table and the JSON report both."""
    file = tmp_path / "result.json"
    completed = stress("--launches", "4", "--processes", "2", "--json", str(file))
    assert completed.returncode == 0, completed.stdout + completed.stderr
    result = json.loads(file.read_text())
    classic, handshake = result["modes"]
    assert (classic["mode"], classic["launches"]) == ("classic", 4)
    assert classic["failures"] + classic["hangs"] > 0
    assert (handshake["launches"], handshake["failures"], handshake["hangs"]) == (4, 0, 0)
    assert handshake["median_start"] > 0
    assert result["ports_taken"] >= 5, "a launch failed for another reason than the thief"
    failed = [launch for launch in result["launches"] if launch["outcome"] != "ok"]
    assert all(launch["mode"] == "classic" for launch in failed)
    assert any("Address already in use" in launch["cause"] for launch in failed)
    lines = completed.stdout.splitlines()
    assert lines[0] == "echo-handshake, 4 launches per mode from 2 processes, load: thief"
    assert lines[2].split() == ["launches", "failures", "hangs", "median", "start", "ratio"]
    assert lines[4].split()[:4] == ["handshake", "4", "0", "0"]
    assert "the start mode is signed-frame" in completed.stdout
    assert "8/8 launches" in completed.stderr.splitlines()[-1]
    assert "\x1b" not in completed.stderr, "no progress bar without a terminal"


@pytest.mark.timeout(LONG + 20)
def test_every_launch_succeeds_without_load():
    """The ratio refers to the first start mode; any mode of the provisioner can be added."""
    completed = stress(
        "--launches", "1", "--load", "none", "--modes", "handshake,handshake-request"
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    handshake, request = (line.split() for line in completed.stdout.splitlines()[3:5])
    assert handshake[:4] == ["handshake", "1", "0", "0"]
    assert handshake[-1] == "1.00"
    assert request[:4] == ["handshake-request", "1", "0", "0"]
    assert float(request[-1]) > 0


@pytest.mark.timeout(LONG + 20)
def test_a_handshake_succeeds_while_ports_are_bound():
    completed = stress("--launches", "1", "--load", "binds", "--modes", "handshake")
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert "ports" in completed.stdout


@pytest.mark.timeout(LONG + 20)
def test_dying_and_hanging_kernels_are_counted(kernelspecs):
    """L4: the report contains the cause, and the exit status reports a failed handshake."""
    dies = "import sys; sys.exit('the cause')"
    hangs = "import threading; threading.Event().wait()"
    for name, code in (("dies", dies), ("hangs", hangs)):
        argv = [sys.executable, "-c", code, "{connection_file}"]
        kernelspecs(name, argv=argv, metadata=handshake_metadata(handshake="signed-frame"))
    words = ("--launches", "1", "--load", "none", "--modes", "handshake")
    completed = stress("--kernel", "dies", *words)
    assert completed.returncode == 1
    assert "handshake, 1 x: the cause" in completed.stdout
    completed = stress("--kernel", "hangs", "--timeout", "2", *words)
    assert completed.returncode == 1
    assert completed.stdout.splitlines()[3].split()[:4] == ["handshake", "1", "0", "1"]
    assert "did not register its ports within 2 s" in completed.stdout


@pytest.mark.parametrize(
    "signal_number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"]
)
def test_an_interrupt_ends_every_process(signal_number, kernelspecs, tmp_path):
    """Every process and kernel ends, the folder is removed, and one line reports that."""
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
        processes = psutil.Process(process.pid).children(recursive=True)
        assert len(processes) == 5, "a thief, two launchers, two kernels"
    finally:
        process.send_signal(signal_number)
        out, err = process.communicate(timeout=LONG)
    assert process.returncode == 130
    assert (out, err.strip()) == (
        "",
        "echokernel stress: interrupted; all its processes and kernels were stopped",
    )
    _, alive = psutil.wait_procs(processes, timeout=20)
    assert not alive, alive


def witness_lines(file):
    return file.read_text().splitlines() if file.exists() else []


@pytest.mark.timeout(LONG + 20)
def test_its_processes_end_if_it_is_killed(kernelspecs, tmp_path, temporary):
    """The processes that it started detect its end and exit."""
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
    processes = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.wait()
    _, alive = psutil.wait_procs(processes, timeout=40)
    assert not alive, alive
    for folder in temporary.glob("echokernel-stress-*"):  # the killed process cannot remove it
        subprocess.run(["rm", "-r", str(folder)], check=True)


# --- mistakes -------------------------------------------------------------------------------------


def test_a_mistake_is_reported_in_one_line(kernelspecs, tmp_path):
    kernelspecs("wrong", argv=["x"], metadata=handshake_metadata(handshake="bogus"))
    (tmp_path / "a file").write_text("")
    for words, problem in (
        (["--kernel", "missing"], "there is no kernelspec missing"),
        (["--kernel", "wrong"], "see `echokernel doctor wrong`"),
        (["--json", str(tmp_path / "a file" / "x.json")], "a file"),
        (["--json", str(tmp_path)], "directory"),
    ):
        completed = stress(*words)
        assert completed.returncode == 2
        lines = [
            line for line in completed.stderr.splitlines() if line.startswith("echokernel stress")
        ]
        assert len(lines) == 1
        assert problem in lines[0]
        assert "Traceback" not in completed.stderr
        assert completed.stdout == ""


@pytest.mark.parametrize(
    "words",
    [["--launches", "0"], ["--launches", "x"], ["--timeout", "-1"], ["--load", "bogus"],
     ["--modes", "classic,bogus"], ["--processes", "1.5"], ["more"]],
)  # fmt: skip
def test_invalid_arguments_print_the_usage(words):
    completed = stress(*words)
    assert completed.returncode == 2
    assert completed.stderr.startswith("usage: echokernel stress")
    assert "Traceback" not in completed.stderr


# --- calculations ---------------------------------------------------------------------------------


def record(mode, outcome="ok", **more):
    return {"mode": mode, "outcome": outcome, **more}


def test_summary_counts_outcomes_per_mode():
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


def test_report_has_a_table_and_causes():
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


def test_report_names_a_start_mode_without_a_handshake():
    rows = [Row("handshake", 1, 0, 0, 1.0, 1.0)]
    text = stress_report.report("title", rows, [], ("classic", "it says 5.5"), None)
    assert text.splitlines()[-1] == (
        "handshake: the start mode is classic (no handshake; see --modes for other start modes),"
        " because it says 5.5"
    )


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_on_a_terminal_and_in_a_file():
    """On a terminal, a bar overwrites itself; otherwise each tenth has a line."""
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
