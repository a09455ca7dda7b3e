"""The clients in examples/*.py, run as a reader would, and the ten lines of docs/client.md."""

import pytest
from jupyter_client.session import Session
from support import CHECKOUT
from support.programs import run_python

from echokernel.conformance.raw_messages import endpoint

EXAMPLES = CHECKOUT / "examples"


def output_of(name, *words):
    completed = run_python(str(EXAMPLES / name), *words)
    assert completed.returncode == 0, completed.stderr
    return completed.stdout.splitlines()


def received_by(name, lines):
    return [line.rpartition(" ")[2] for line in lines if line.startswith(f"the {name} client")]


@pytest.mark.parametrize(
    ("kernel", "output"),
    [("echo-handshake", "stream"), ("python3", "execute_result"),
     ("xpython-raw", "execute_result")],
)  # fmt: skip
def test_two_clients_receive_the_same(kernel, output):
    """W2, S2: the second client, which sent no request, receives the same messages."""
    lines = output_of("two_clients.py", kernel)
    complete = ["busy", "execute_input", output, "idle"]
    assert received_by("first", lines) == complete
    assert received_by("second", lines) == complete


@pytest.mark.parametrize("kernel", ["echo-handshake", "python3"])
def test_restart_and_run_loses_no_message(kernel):
    """S2, L6: after each restart, each cell has all its messages and its output."""
    lines = output_of("restart_and_run.py", kernel, "2")
    expected = [f"{cell}: 4 messages, {cell}" for cell in ("'one'", "'two'", "'three'")]
    assert lines == expected * 3


def ten_lines():
    """Return the code block of docs/client.md for authors of clients."""
    _, _, section = (CHECKOUT / "docs" / "client.md").read_text().partition("## In ten lines")
    return section.split("```python\n")[1].split("```")[0]


def test_the_ten_lines_are_sufficient(connection, context):
    """S1, S2: after the documented lines, a client receives a cell from its first message."""
    for _ in range(5):
        session = Session(key=connection["key"].encode())
        names = {
            "context": context,
            "session": session,
            "iopub_url": endpoint(connection, "iopub"),
            "shell_url": endpoint(connection, "shell"),
        }
        exec("import zmq\n" + ten_lines(), names)
        assert names["reply"]["content"]["protocol_version"] == "5.6"
        request = session.send(names["shell"], "execute_request", {"code": "1", "silent": False})
        received = []
        while "idle" not in received:
            message = session.recv(names["iopub"], mode=0)[1]
            if message["parent_header"].get("msg_id") == request["header"]["msg_id"]:
                received.append(message["content"].get("execution_state") or message["msg_type"])
        assert received == ["busy", "execute_input", "stream", "idle"]
