"""Output that bypasses ``sys.stdout``, and children that user code forks."""

import json
import os
import signal

import pytest
from support import KERNEL_PATH
from support.cells import run_cell
from support.kernel_processes import start_classic

from echokernel.conformance.raw_client import RawClient


@pytest.fixture
def started(context, tmp_path, start):
    """Return a function that starts a kernel with options and returns a client of it."""
    made = []

    def start_with(*options):
        process = []

        def start_kernel(path, *arguments):
            words = (
                "--kernel-class",
                "support.scripted_kernels:ScriptedKernel",
                *options,
                *arguments,
            )
            process.append(start(path, *words, **KERNEL_PATH))

        made.append(RawClient(context, start_classic(tmp_path, start_kernel)))
        made[-1].process = process[0]
        return made[-1]

    yield start_with
    for client in made:
        client.close()


def text_of(published, name):
    assert {kind for kind, _ in published} <= {"stream"}
    return "".join(content["text"] for _, content in published if content["name"] == name)


def test_everything_is_published_in_order(started):
    """By the descriptor, a C call, a child process, a forked child: before the cell is done."""
    _, published = run_cell(started(), "print_below_python x")
    assert text_of(published, "stdout").splitlines() == [
        "python",
        "descriptor",
        "child process",
        "forked child",
        "python again",
    ]


def test_stderr_and_split_characters(started):
    client = started()
    _, published = run_cell(client, "write_stderr_below_python no")
    assert published == [("stream", {"name": "stderr", "text": "no"})]
    _, published = run_cell(client, "write_half_a_character x")
    assert text_of(published, "stdout") == "between\n\u20ac"


def test_output_after_the_cell_is_published_too(started, tmp_path):
    """A child that lives on: nobody prints or flushes, and it is shown all the same."""
    client = started()
    os.mkfifo(gate := tmp_path / "gate")
    msg_id = client.execute(f"start_child {gate}")
    client.receive_reply(msg_id)
    client.receive_until_idle(msg_id)
    gate.open("w").close()
    late = client.receive_publication()
    assert late["content"] == {"name": "stdout", "text": "late\n"}
    assert late["parent_header"]["msg_id"] == msg_id


def test_the_option_to_leave_it_alone(started):
    client = started("--no-capture-fd-output")
    _, published = run_cell(client, "write_stderr_below_python x-y-z")
    assert published == []
    client.shut_down()
    status, stderr = client.process.wait_for_end()
    assert (status, stderr) == (0, "x-y-z")


def test_the_log_is_not_output(started):
    """What the kernel logs goes to the process's stderr, never to a frontend."""
    client = started()
    assert run_cell(client, "log_warning x")[1] == []
    client.shut_down()
    assert "logged x" in client.process.wait_for_end()[1]


def test_the_cause_of_a_crash_reaches_the_launcher(started):
    """A segmentation fault is told on the process's own stderr, where the launcher reads."""
    client = started()
    client.execute("crash x")
    status, stderr = client.process.wait_for_end()
    assert status == -signal.SIGSEGV
    assert "Segmentation fault" in stderr
    assert "in crash" in stderr


@pytest.mark.parametrize(
    ("how", "status"), [("return", 0), ("exit", 3), ("SIGTERM", -15), ("SIGKILL", -9)]
)
def test_forked_children(how, status, started, tmp_path):
    """However a child ends, its parent lives, answers, can be interrupted and attached to."""
    client = started()
    _, published = run_cell(client, f"fork {how}")
    assert f"child gone: {status}\n" in text_of(published, "stdout")
    assert run_cell(client, "say on")[1] == [("stream", {"name": "stdout", "text": "on\n"})]
    client.expect_nothing_unread()
    assert json.loads((tmp_path / "connection.json").read_text())["shell_port"]
    client.shut_down()
    assert client.process.wait_for_end()[0] == 0
