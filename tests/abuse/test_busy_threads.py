"""Threads of user code that never release the interpreter for long."""

import pytest

pytestmark = pytest.mark.timeout(120)

EXECUTES = 20


@pytest.mark.parametrize("kernel", [(), ("--switch-interval", "0.001")], indirect=True)
def test_shell_and_control_answer_while_threads_compute(kernel, client):
    """K3, K10: while three threads compute, every request is answered completely."""
    client.run({"do": "compute_in_threads", "threads": 3})
    for number in range(EXECUTES):
        kinds = [kind for kind, _ in client.run(f"cell {number}")]
        assert kinds == ["status", "execute_input", "stream", "status"]
        assert client.request("kernel_info_request", {}, "control")["status"] == "ok"
    endless = client.execute({"do": "compute", "seconds": 600})
    for kind, _ in client.publications(endless):
        if kind == "execute_input":
            client.send("interrupt_request", {}, "control")
    assert client.receive_reply(endless)["content"]["ename"] == "KeyboardInterrupt"


@pytest.mark.parametrize("kernel", [("--switch-interval", "0.001")], indirect=True)
def test_the_switch_interval_is_set(client):
    """The option reaches the interpreter; Python's default is 0.005 s."""
    published = client.run({"do": "print_switch_interval"})
    texts = [content["text"] for kind, content in published if kind == "stream"]
    assert "".join(texts) == "0.001\n"
