"""examples/*.py of clients, run as their reader would, and the ten lines of docs/client.md."""

import pytest
from jupyter_client.session import Session
from support import CHECKOUT
from support.programs import run_python

from echokernel.conformance.raw_messages import endpoint

EXAMPLES = CHECKOUT / "examples"


def output_of(name, *words):
    done = run_python(str(EXAMPLES / name), *words)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def heard_by(name, lines):
    return [line.rpartition(" ")[2] for line in lines if line.startswith(f"the {name} client")]


@pytest.mark.parametrize(
    ("kernel", "output"),
    [("echo-handshake", "stream"), ("python3", "execute_result"),
     ("xpython-raw", "execute_result")],
)  # fmt: skip
def test_two_clients(kernel, output):
    """W2, S2: the second client, which did not ask, hears the same as the first."""
    lines = output_of("two_clients.py", kernel)
    complete = ["busy", "execute_input", output, "idle"]
    assert heard_by("first", lines) == complete
    assert heard_by("second", lines) == complete


@pytest.mark.parametrize("kernel", ["echo-handshake", "python3"])
def test_restart_and_run(kernel):
    """S2, L6: after every restart each cell has all its messages, and its output."""
    lines = output_of("restart_and_run.py", kernel, "2")
    expected = [f"{cell}: 4 messages, {cell}" for cell in ("'one'", "'two'", "'three'")]
    assert lines == expected * 3


def ten_lines():
    """Return the block of docs/client.md that is for authors of clients."""
    _, _, section = (CHECKOUT / "docs" / "client.md").read_text().partition("## In ten lines")
    return section.split("```python\n")[1].split("```")[0]


def test_the_ten_lines(connection, context):
    """S1, S2: as they stand in the documentation; then a cell is heard from its first message."""
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
        heard = []
        while "idle" not in heard:
            message = session.recv(names["iopub"], mode=0)[1]
            if message["parent_header"].get("msg_id") == request["header"]["msg_id"]:
                heard.append(message["content"].get("execution_state") or message["msg_type"])
        assert heard == ["busy", "execute_input", "stream", "idle"]
