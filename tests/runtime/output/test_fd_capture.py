"""Output that bypasses ``sys.stdout``, and children that user code forks (spec.md, section 2)."""

import json
import os
import signal

import pytest
from support import KERNEL_PATH
from support.cells import run_cell
from support.kernel_processes import start_classic

from echokernel.conformance.raw_client import RawClient


@pytest.fixture
def start_client(context, tmp_path, start):
    """Return a function that starts a kernel with options and returns a client of it."""
    clients = []

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

        clients.append(RawClient(context, start_classic(tmp_path, start_kernel)))
        clients[-1].process = process[0]
        return clients[-1]

    yield start_with
    for client in clients:
        client.close()


def text_of(published, name):
    assert {kind for kind, _ in published} <= {"stream"}
    return "".join(content["text"] for _, content in published if content["name"] == name)


def test_output_of_c_code_and_children_is_published_in_order(start_client):
    """Output of Python, a C call, a child process and a forked child, before the cell ends."""
    _, published = run_cell(start_client(), "print_below_python x")
    assert text_of(published, "stdout").splitlines() == [
        "python",
        "descriptor",
        "child process",
        "forked child",
        "python again",
    ]


def test_stderr_and_split_characters_are_published(start_client):
    """A character that is written in two parts is one character of the output."""
    client = start_client()
    _, published = run_cell(client, "write_stderr_below_python no")
    assert published == [("stream", {"name": "stderr", "text": "no"})]
    _, published = run_cell(client, "write_half_a_character x")
    assert text_of(published, "stdout") == "between\n\u20ac"


def test_output_of_a_child_after_the_cell_is_published(start_client, tmp_path):
    """The kernel itself neither prints nor flushes after the cell."""
    client = start_client()
    os.mkfifo(gate := tmp_path / "gate")
    msg_id = client.execute(f"start_child {gate}")
    client.receive_reply(msg_id)
    client.receive_until_idle(msg_id)
    gate.open("w").close()
    late = client.receive_publication()
    assert late["content"] == {"name": "stdout", "text": "late\n"}
    assert late["parent_header"]["msg_id"] == msg_id


def test_the_capture_can_be_switched_off(start_client):
    """With ``--no-capture-fd-output`` the output goes to the process's own stderr."""
    client = start_client("--no-capture-fd-output")
    _, published = run_cell(client, "write_stderr_below_python x-y-z")
    assert published == []
    client.shut_down()
    status, stderr = client.process.wait_for_end()
    assert (status, stderr) == (0, "x-y-z")


def test_the_log_is_not_output(start_client):
    """The kernel's log goes to the process's stderr, never to a frontend."""
    client = start_client()
    assert run_cell(client, "log_warning x")[1] == []
    client.shut_down()
    assert "logged x" in client.process.wait_for_end()[1]


def test_the_cause_of_a_crash_reaches_the_launcher(start_client):
    """A segmentation fault is reported on the process's own stderr, which the launcher reads."""
    client = start_client()
    client.execute("crash x")
    status, stderr = client.process.wait_for_end()
    assert status == -signal.SIGSEGV
    assert "Segmentation fault" in stderr
    assert "in crash" in stderr


@pytest.mark.parametrize(
    ("how", "status"), [("return", 0), ("exit", 3), ("SIGTERM", -15), ("SIGKILL", -9)]
)
def test_the_end_of_a_forked_child_does_not_affect_the_kernel(how, status, start_client, tmp_path):
    """The kernel still executes and answers, and its connection file is intact."""
    client = start_client()
    _, published = run_cell(client, f"fork {how}")
    assert f"child gone: {status}\n" in text_of(published, "stdout")
    assert run_cell(client, "say on")[1] == [("stream", {"name": "stdout", "text": "on\n"})]
    client.expect_nothing_unread()
    assert json.loads((tmp_path / "connection.json").read_text())["shell_port"]
    client.shut_down()
    assert client.process.wait_for_end()[0] == 0
