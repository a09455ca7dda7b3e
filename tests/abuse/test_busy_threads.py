"""Threads of user code that never release the interpreter for long."""

import pytest

pytestmark = pytest.mark.timeout(120)

EXECUTES = 20


@pytest.mark.parametrize("kernel", [(), ("--switch-interval", "0.001")], indirect=True)
def test_shell_and_control_are_answered(kernel, client):
    """K3, K10: while three threads compute, every request is answered completely."""
    client.run({"do": "compute_in_threads", "threads": 3})
    for number in range(EXECUTES):
        kinds = [message.kind for message in client.run(f"cell {number}")]
        assert kinds == ["status", "execute_input", "stream", "status"]
        assert client.ask("kernel_info_request", "control")["status"] == "ok"
    endless = client.execute({"do": "compute", "seconds": 600})
    for message in client.published(endless):
        if message.kind == "execute_input":
            client.send("interrupt_request", {}, "control")
    assert client.reply(endless).content["ename"] == "KeyboardInterrupt"


@pytest.mark.parametrize("kernel", [("--switch-interval", "0.001")], indirect=True)
def test_the_switch_interval_is_set(client):
    """The option reaches the interpreter; Python's default is 0.005 s."""
    texts = [m.content["text"] for m in client.run({"do": "print_switch_interval"})
             if m.kind == "stream"]  # fmt: skip
    assert "".join(texts) == "0.001\n"
