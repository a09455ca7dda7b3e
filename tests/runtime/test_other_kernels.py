"""Kernels of other authors, as they are: by ipykernel's rules, metakernel's and bash_kernel's."""

import base64
import json
import os
import signal
import sys

import psutil
import pytest
from jupyter_client.manager import start_new_kernel
from support.cells import begin_cell, finish_cell, run_cell, start_kernel_class
from support.kernelspecs import handshake_metadata
from support.waits import DEADLINE, poll_until

from echokernel.conformance.raw_client import receive_frames
from echokernel.conformance.raw_messages import BUSY, DELIMITER, IDLE

BASH = "bash_kernel.kernel:BashKernel"
META_BASH = "metakernel.process_metakernel:BashKernel"


def stdout(text):
    return ("stream", {"name": "stdout", "text": text})


# --- by the rules ---------------------------------------------------------------------------


@pytest.fixture(params=["PlainKernel", "AsyncPlainKernel"])
def rules(request, context, tmp_path, start):
    """A kernel whose cells name what to do; ``do_execute`` plain and async."""
    return start_kernel_class(f"support.plain_kernels:{request.param}", context, tmp_path, start)


@pytest.fixture
def handling(context, tmp_path, start):
    return start_kernel_class("support.plain_kernels:OverridingKernel", context, tmp_path, start)


def test_all_ways_to_the_frontend(rules):
    """``send_response``, ``session.send``, ``print``: all belong to the cell."""
    for way in ("responding", "responding_from_a_thread", "sending"):
        assert run_cell(rules, f"{way} one").published == [stdout("one")]
    assert run_cell(rules, "printing one").text() == "one\n"
    assert run_cell(rules, "printing_to_stderr one").text("stderr") == "one\n"
    rules.expect_nothing_unread()


def test_a_message_made_by_hand(rules):
    """``session.msg`` first, ``session.send`` later; the buffers go with it."""
    msg_id = rules.execute("sending_a_message one")
    _busy, _input, display = (rules.receive_publication() for _ in range(3))
    assert display["parent_header"]["msg_id"] == msg_id
    assert display["content"]["data"] == {"text/plain": "one"}
    assert display["buffers"] == [b"\x00\xff"]
    assert rules.receive_until_idle(msg_id) == [IDLE]


def test_what_json_lacks(rules):
    """Cleaned as jupyter_client's Session does it; bash_kernel sends its images as bytes."""
    assert run_cell(rules, "sending_python_types").data("display_data") == [
        {
            "bytes": base64.b64encode(b"\x00\xff").decode(),
            "tuple": [1, 2],
            "range": [0, 1],
            "date": "2026-11-21T00:00:00Z",
        }
    ]


def test_the_displayhook_publishes_results(rules):
    """ipykernel's app puts its hook in place; wrappers of Python's ``code`` module live on it."""
    assert run_cell(rules, "displaying one").result == "'one'"


def test_a_stream_of_ones_own(rules):
    assert run_cell(rules, "streaming one").published == [stdout("one")]


def test_the_log_goes_to_stderr(rules):
    """``self.log`` is for who runs the kernel; the frontend hears nothing."""
    assert run_cell(rules, "logging something odd").published == []
    rules.shut_down()
    status, stderr = rules.process.wait_for_end()
    assert status == 0
    assert stderr.count("something odd") == 1


def test_an_exception(rules):
    ran = run_cell(rules, "failing here")
    assert (ran.reply["status"], ran.reply["ename"]) == ("error", "LookupError")
    assert ran.kinds == ["error"]
    assert run_cell(rules, "responding on").published == [stdout("on")]


def test_input(rules):
    assert run_cell(rules, "asking name?", ["me"]).published == [stdout("'me'")]
    assert run_cell(rules, "asking_secretly pin?", ["1234"]).published == [stdout("'1234'")]
    rules.expect_nothing_unread()


def test_the_loop(rules):
    """``io_loop``: what was scheduled comes after the cell's end, and belongs to it."""
    msg_id = rules.execute("scheduling later")
    assert rules.receive_reply(msg_id)["content"]["status"] == "ok"
    assert rules.receive_until_idle(msg_id)[-1] == IDLE
    later = rules.receive_publication()
    assert later["content"]["text"] == "later"
    assert later["parent_header"]["msg_id"] == msg_id


def test_what_a_kernel_knows(rules):
    code = "showing_the_parent please"
    assert run_cell(rules, code).published == [stdout(code)]
    ports = "control_port hb_port iopub_port shell_port stdin_port"
    assert run_cell(rules, "showing_the_ports").published == [stdout(ports)]
    answer = rules.request("connect_request", {})
    assert answer.pop("status") == "ok"
    assert answer == {k: v for k, v in rules.connection.items() if k.endswith("_port")}


def test_a_comm_that_the_kernel_opens(rules):
    [(kind, content)] = run_cell(rules, "opening view").published
    assert (kind, content["target_name"]) == ("comm_open", "view")
    assert content["data"] == {"from": "kernel"}
    comms = rules.request("comm_info_request", {"target_name": "view"})["comms"]
    assert list(comms) == [content["comm_id"]]


def test_a_comm_that_the_frontend_opens(rules):
    opening = {"comm_id": "one", "target_name": "echo", "data": {"a": 1}}
    msg_id = rules.send("comm_open", opening)
    assert (
        "comm_msg",
        {"comm_id": "one", "data": {"hello": {"a": 1}}},
    ) in rules.receive_until_idle(msg_id)
    msg_id = rules.send("comm_msg", {"comm_id": "one", "data": {"b": 2}})
    assert ("comm_msg", {"comm_id": "one", "data": {"echo": {"b": 2}}}) in rules.receive_until_idle(
        msg_id
    )
    msg_id = rules.send("comm_close", {"comm_id": "one", "data": {}})
    assert rules.receive_until_idle(msg_id) == [BUSY, IDLE]
    assert rules.request("comm_info_request", {"target_name": "echo"})["comms"] == {}


@pytest.mark.parametrize(
    "channel",
    ["shell", "control"],
)
def test_a_message_type_of_the_authors_own(channel, handling):
    assert handling.request("greet_request", {"name": "you"}, channel) == {"greeting": "hello you"}


def test_a_request_that_the_author_turns_away(handling):
    """K4: bracketed; ``should_handle`` says that nobody shall answer."""
    msg_id = handling.send("complete_request", {"code": "x", "cursor_pos": 1})
    assert handling.receive_until_idle(msg_id) == [BUSY, IDLE]
    handling.expect_nothing_unread()


def test_what_an_author_overrides(handling):
    assert handling.request("is_complete_request", {"code": "x"})["indent"] == "  "
    asked = {"type": "request", "command": "debugInfo", "seq": 1}
    assert handling.request("debug_request", asked, "control") == {"debugged": "debugInfo"}
    msg_id = handling.execute("responding one")
    frames = receive_frames(handling.shell)
    metadata = json.loads(frames[frames.index(DELIMITER) + 4])
    assert (metadata["author"], metadata["ended"]) == ("me", "ok")
    assert "started" in metadata  # ipykernel's own
    handling.receive_until_idle(msg_id)
    handling.shut_down()
    assert "shut down, restart=False" in handling.process.wait_for_end()[1]


def test_an_author_overrides_what_we_do(handling):
    """``start`` and ``kernel_info``, with ``super()`` as ever."""
    assert handling.request("kernel_info_request", {})["banner"] == "overridden"
    handling.shut_down()
    assert "WARNING started" in handling.process.wait_for_end()[1]


def test_a_debug_request_that_nobody_handles(rules):
    """K4: ipykernel's base class logs it, and the frontend waits for ever; here it is answered."""
    asked = {"type": "request", "command": "debugInfo", "seq": 1}
    assert rules.request("debug_request", asked, "control")["ename"] == "NotImplementedError"


# --- bash_kernel ----------------------------------------------------------------------------


@pytest.fixture
def bash(context, tmp_path, start):
    return start_kernel_class(BASH, context, tmp_path, start)


def test_bash_cells(bash):
    """One shell behind all cells; lines as they come, the exit status as the error."""
    assert run_cell(bash, "x=5; echo $x").published == [stdout("5\n")]
    assert run_cell(bash, "echo again $x >&2").text() == "again 5\n"
    assert run_cell(bash, "for i in 1 2 3; do echo $i; done").published == [
        stdout("1\n"),
        stdout("2\n"),
        stdout("3\n"),
    ]
    failed = run_cell(bash, "(exit 3)")
    assert (failed.reply["status"], failed.reply["evalue"]) == ("error", "3")
    assert failed.kinds == ["error"]
    assert run_cell(bash, "seq 1 2000 | tail -1").text() == "2000\n"
    bash.expect_nothing_unread()


def test_bash_displays(bash, tmp_path):
    """HTML as text, an image as base64; the kernel hands the latter over as bytes."""
    [html] = run_cell(bash, "echo '<b>x</b>' | displayHTML").data("display_data")
    assert html == {"text/html": "<b>x</b>\n"}
    png = b"\x89PNG\r\n\x1a\n" + bytes(32)
    (tmp_path / "dot.png").write_bytes(png)
    [image] = run_cell(bash, f"display < {tmp_path}/dot.png").data("display_data")
    assert base64.b64decode(image["image/png"]) == png


def test_bash_other_requests(bash):
    completed = bash.request("complete_request", {"code": "ls /et", "cursor_pos": 6})
    assert completed["matches"] == ["/etc/"]
    assert (completed["cursor_start"], completed["cursor_end"]) == (3, 6)
    inspected = bash.request("inspect_request", {"code": "ls", "cursor_pos": 2, "detail_level": 0})
    assert inspected["found"] is False
    assert bash.request("is_complete_request", {"code": "ls"})["status"] == "unknown"
    assert bash.request("history_request", {"hist_access_type": "tail", "n": 1, "output": False,
                                        "raw": True})["history"] == []  # fmt: skip
    assert bash.request("kernel_info_request", {})["implementation"] == "bash_kernel"


def test_interrupting_bash(bash):
    """It swallows the KeyboardInterrupt and sends ^C on; the shell and its variables survive."""
    run_cell(bash, "x=5")
    msg_id = begin_cell(bash, "echo asleep; sleep 60")

    def sleeping_process():
        started = psutil.Process(bash.process.pid).children(recursive=True)
        return next((process for process in started if process.name() == "sleep"), None)

    sleeping = poll_until(sleeping_process, "bash has started `sleep`")
    os.killpg(bash.process.pid, signal.SIGINT)
    assert finish_cell(bash, msg_id).reply["status"] == "abort"
    psutil.wait_procs([sleeping], timeout=DEADLINE)
    assert not sleeping.is_running()
    assert run_cell(bash, "echo $x").text() == "5\n"


def test_a_bash_that_ends_is_started_again(bash):
    assert run_cell(bash, "exit").text().endswith("Restarting Bash\n")
    assert run_cell(bash, "echo on").text() == "on\n"


# --- metakernel -----------------------------------------------------------------------------


@pytest.fixture
def meta(context, tmp_path, start):
    return start_kernel_class(META_BASH, context, tmp_path, start)


def test_metakernel_cells_and_magics(meta):
    assert run_cell(meta, "echo hello").text() == "hello\r\n"
    assert "%python" in run_cell(meta, "%lsmagic").text()
    assert run_cell(meta, "%python 6 * 7").result == "42"
    assert run_cell(meta, "!echo by the shell").text().strip() == "by the shell"
    [html] = run_cell(meta, "%%html\n<i>it</i>").data("display_data")
    assert html["text/html"] == "<i>it</i>"
    [page] = run_cell(meta, "%cd?").reply["payload"]
    assert page["source"] == "page"
    assert "change current directory" in page["data"]["text/plain"]
    meta.expect_nothing_unread()


def test_metakernel_python_cells(meta):
    """What runs as Python inside prints, displays and fails like a cell of its own."""
    ran = run_cell(meta, "%%python\nfrom IPython.display import HTML, display\n"
                    "print('printed')\ndisplay(HTML('<b>x</b>'))\n40 + 2")  # fmt: skip
    assert ran.text() == "printed\n"
    assert ran.data("display_data")[0]["text/html"] == "<b>x</b>"
    assert ran.result == "42"
    failed = run_cell(meta, "%%python\n1/0")
    assert failed.reply["ename"] == "ZeroDivisionError"
    assert failed.kinds == ["error"]
    assert run_cell(meta, "%python input('name? ')", ["me"]).result == "'me'"


def test_metakernel_from_a_thread(meta):
    """``schedule_display_output``: output in the background goes through ``io_loop``."""
    say = "lambda: kernel.Print('later')"
    msg_id = meta.execute(f"%%python\nimport threading\n"
                          f"threading.Thread(target=kernel.schedule_display_output,"
                          f" args=({say},)).start()")  # fmt: skip
    assert meta.receive_reply(msg_id)["content"]["status"] == "ok"
    heard = ""
    while "later\n" not in heard:
        heard += meta.receive_publication()["content"].get("text", "")


def test_metakernel_other_requests(meta):
    completed = meta.request("complete_request", {"code": "%pyth", "cursor_pos": 5})
    assert completed["matches"] == ["%python"]
    code = "%python impor"
    completed = meta.request("complete_request", {"code": code, "cursor_pos": len(code)})
    assert "import" in completed["matches"]
    inspected = meta.request("inspect_request", {"code": "%cd", "cursor_pos": 3, "detail_level": 0})
    assert "change current directory" in inspected["data"]["text/plain"]
    assert meta.request("is_complete_request", {"code": "echo"})["status"] == "incomplete"
    assert meta.request("is_complete_request", {"code": "echo\n"})["status"] == "complete"


def test_metakernel_keeps_its_history_at_the_end(meta, context, tmp_path, start):
    """``do_shutdown`` is the author's chance to save."""
    run_cell(meta, "echo remember me")
    meta.shut_down()
    assert meta.process.wait_for_end()[0] == 0
    again = start_kernel_class(META_BASH, context, tmp_path, start)
    tail = {"hist_access_type": "tail", "n": 9, "output": False, "raw": True}
    assert again.request("history_request", tail)["history"] == [[None, None, "echo remember me"]]


def test_metakernel_widgets(meta):
    """ipywidgets: opened by a cell, moved by the frontend, heard by the next cell."""
    ran = run_cell(meta, "%%python\nimport ipywidgets\nslider = ipywidgets.IntSlider()\nslider")
    opened = {c["data"]["state"]["_model_name"]: c["comm_id"]
              for kind, c in ran.published if kind == "comm_open"}  # fmt: skip
    assert set(opened) == {"IntSliderModel", "LayoutModel", "SliderStyleModel"}
    [view] = ran.data("display_data")
    assert view["application/vnd.jupyter.widget-view+json"]["model_id"] == opened["IntSliderModel"]
    moved = {"method": "update", "state": {"value": 7}, "buffer_paths": []}
    msg_id = meta.send("comm_msg", {"comm_id": opened["IntSliderModel"], "data": moved})
    assert meta.receive_until_idle(msg_id)[-1] == IDLE
    assert run_cell(meta, "%python slider.value").result == "7"


@pytest.mark.parametrize(
    "code", ["echo asleep; sleep 60", "%%python\nimport time\nprint('asleep')\ntime.sleep(60)"]
)
def test_interrupting_metakernel(code, meta):
    """In its subprocess, whose output it keeps, and in Python (unanswered on ipykernel's app)."""
    msg_id = begin_cell(meta, code)
    os.killpg(meta.process.pid, signal.SIGINT)
    reply = finish_cell(meta, msg_id).reply
    assert reply.get("ename", reply["status"]) in ("ok", "KeyboardInterrupt")
    assert run_cell(meta, "echo on").text() == "on\r\n"


def test_metakernel_connect_info(meta):
    """Authors look for the connection file in the config, where ipykernel's app has it."""
    said = run_cell(meta, "%connect_info").text()
    assert str(meta.connection["shell_port"]) in said


# --- started by Jupyter -------------------------------------------------------------------------


@pytest.mark.parametrize("kernel_class", [BASH, META_BASH])
def test_restart_and_shutdown(kernel_class, kernelspecs):
    """L1, L6: by the handshake; what an author's kernel has started ends with it."""
    argv = [sys.executable, "-m", "echokernel", "--kernel-class", kernel_class]
    spec = {"argv": [*argv, "-f", "{connection_file}"], "language": "bash"}
    metadata = handshake_metadata(handshake="signed-frame")
    name = kernelspecs("other", **spec, metadata=metadata)
    manager, client = start_new_kernel(kernel_name=name)
    heard = []

    def execute(code):
        heard.clear()
        reply = client.execute_interactive(code, timeout=DEADLINE, output_hook=heard.append)
        assert reply["content"]["status"] == "ok"
        said = "".join(m["content"]["text"] for m in heard if m["msg_type"] == "stream")
        return said.replace("\r", "")

    assert execute("x=5; echo $x") == "5\n"
    before = psutil.Process(manager.provisioner.pid).children(recursive=True)
    assert [process.name() for process in before] == ["bash"]
    manager.restart_kernel()
    client.wait_for_ready(timeout=DEADLINE)
    assert execute("echo [$x]") == "[]\n"
    after = psutil.Process(manager.provisioner.pid).children(recursive=True)
    client.stop_channels()
    manager.shutdown_kernel()
    manager.context.destroy(linger=0)
    gone, alive = psutil.wait_procs(before + after, timeout=DEADLINE)
    assert (len(gone), alive) == (2, [])
