"""IPython's kernel class on echokernel, as an example of a kernel that does not know echokernel."""

import os
import signal

import pytest
from support.kernel_processes import start_classic

from echokernel.conformance.raw_client import RawClient
from echokernel.conformance.raw_messages import IDLE


@pytest.fixture
def ipython(context, tmp_path, start):
    process = []

    def start_ipython(path, *arguments):
        words = ("--kernel-class", "ipykernel.ipkernel:IPythonKernel", *arguments)
        # Otherwise debugpy, which IPython's kernel imports, prints a warning on stderr.
        process.append(start(path, *words, PYDEVD_DISABLE_FILE_VALIDATION="1"))

    client = RawClient(context, start_classic(tmp_path, start_ipython))
    client.process = process[0]
    yield client
    client.close()


@pytest.mark.parametrize(
    ("code", "published"),
    [
        ("print('out')", ("stream", {"name": "stdout", "text": "out\n"})),
        ("import sys; print('e', file=sys.stderr)", ("stream", {"name": "stderr", "text": "e\n"})),
        ("import asyncio; await asyncio.sleep(0); 6 * 7", "execute_result"),
        ("from IPython.display import display, HTML; display(HTML('x'))", "display_data"),
        ("1/0", "error"),
        ("!echo from a child", ("stream", {"name": "stdout", "text": "from a child\r\n"})),
    ],
)
def test_a_cell_publishes_one_message(code, published, ipython):
    """K4: between the input and the idle status."""
    msg_id = ipython.execute(code)
    reply = ipython.receive_reply(msg_id)["content"]
    assert reply["status"] == ("error" if published == "error" else "ok")
    output = ipython.receive_until_idle(msg_id)[2:-1]
    assert published in (output[0], output[0][0])
    assert len(output) == 1
    ipython.expect_nothing_unread()


@pytest.mark.parametrize("code", ["import time; time.sleep(60)", "await asyncio.sleep(60)"])
def test_sigint_interrupts_a_cell(code, ipython):
    """K8."""
    msg_id = ipython.execute(f"import asyncio; print('asleep'); {code}")
    while ipython.receive_publication()["msg_type"] != "stream":
        pass
    os.killpg(ipython.process.pid, signal.SIGINT)
    reply = ipython.receive_reply(msg_id)["content"]
    assert reply["ename"] in ("KeyboardInterrupt", "CancelledError")
    assert ipython.receive_until_idle(msg_id)[-1] == IDLE
    ipython.expect_nothing_unread()


def test_input_and_comms_work(ipython):
    """A cell can request input; comm_info lists a comm that a cell opened."""
    msg_id = ipython.execute("input('name? ')", allow_stdin=True)
    input_request = ipython.receive_on("stdin")
    assert input_request["content"]["prompt"] == "name? "
    ipython.send("input_reply", {"value": "me"}, "stdin")
    assert ipython.receive_reply(msg_id)["content"]["status"] == "ok"
    assert ("text/plain", "'me'") in [
        item
        for _, content in ipython.receive_until_idle(msg_id)
        for item in content.get("data", {}).items()
    ]
    msg_id = ipython.execute("from comm import create_comm; c = create_comm(target_name='mine')")
    assert "comm_open" in [kind for kind, _ in ipython.receive_until_idle(msg_id)]
    ipython.receive_reply(msg_id)
    comms = ipython.request("comm_info_request", {"target_name": "mine"})["comms"]
    assert list(comms.values()) == [{"target_name": "mine"}]


def test_only_features_that_echokernel_has_are_advertised(ipython):
    """K2, K11: the kernel class has a debugger and subshells, but echokernel does not."""
    assert ipython.request("kernel_info_request", {})["supported_features"] == ["iopub_welcome"]
    ipython.shut_down()
    assert ipython.process.wait_for_end()[0] == 0


def test_an_interrupt_affects_one_cell_only(ipython):
    """K8: IPython installs its own handler while a cell awaits; the interrupt is not repeated."""
    for _ in range(20):
        # The event loop is busy, so the cell ends before the kernel could repeat the interrupt.
        endless = "import asyncio; print('awake')\nwhile True: await asyncio.sleep(0)"
        msg_id = ipython.execute(endless)
        while ipython.receive_publication()["msg_type"] != "stream":
            pass
        os.killpg(ipython.process.pid, signal.SIGINT)
        ipython.receive_reply(msg_id)
        ipython.receive_until_idle(msg_id)
        after = ipython.execute("import time; time.sleep(0.05)")
        assert ipython.receive_reply(after)["content"]["status"] == "ok"
        ipython.receive_until_idle(after)
