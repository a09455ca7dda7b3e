"""IPython's own kernel class under our app: an author's kernel that knows nothing of us."""

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
        # Else debugpy, which IPython's kernel imports, warns on stderr as soon as it is loaded.
        process.append(start(path, *words, PYDEVD_DISABLE_FILE_VALIDATION="1"))

    made = RawClient(context, start_classic(tmp_path, start_ipython))
    made.process = process[0]
    yield made
    made.close()


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
def test_cells(code, published, ipython):
    msg_id = ipython.execute(code)
    reply = ipython.receive_reply(msg_id)["content"]
    assert reply["status"] == ("error" if published == "error" else "ok")
    heard = ipython.receive_until_idle(msg_id)[2:-1]
    assert published in (heard[0], heard[0][0])
    assert len(heard) == 1
    ipython.expect_nothing_unread()


@pytest.mark.parametrize("code", ["import time; time.sleep(60)", "await asyncio.sleep(60)"])
def test_interrupt(code, ipython):
    msg_id = ipython.execute(f"import asyncio; print('asleep'); {code}")
    while ipython.receive_publication()["msg_type"] != "stream":
        pass
    os.killpg(ipython.process.pid, signal.SIGINT)
    reply = ipython.receive_reply(msg_id)["content"]
    assert reply["ename"] in ("KeyboardInterrupt", "CancelledError")
    assert ipython.receive_until_idle(msg_id)[-1] == IDLE
    ipython.expect_nothing_unread()


def test_input_and_comms(ipython):
    msg_id = ipython.execute("input('name? ')", allow_stdin=True)
    asked = ipython.receive_on("stdin")
    assert asked["content"]["prompt"] == "name? "
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


def test_the_features_are_those_of_the_app(ipython):
    """K2: whatever the class says of itself, here it has no debugger and no subshells."""
    assert ipython.request("kernel_info_request", {})["supported_features"] == ["iopub_welcome"]
    ipython.shut_down()
    assert ipython.process.wait_for_end()[0] == 0


def test_an_interrupt_hits_one_cell_only(ipython):
    """IPython has a handler of its own while a cell awaits: what it took is not sent again."""
    for _ in range(20):
        # The loop is awake: the cell ends before anybody could think that nobody has heard it.
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
