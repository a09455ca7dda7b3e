"""Kernels of other authors, unchanged: a plain ipykernel subclass, bash_kernel and metakernel."""

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


# --- a plain subclass of ipykernel's Kernel ---------------------------------------------------


@pytest.fixture(params=["PlainKernel", "AsyncPlainKernel"])
def plain(request, context, tmp_path, start):
    """A kernel whose cells are instructions; ``do_execute`` plain and async."""
    return start_kernel_class(f"support.plain_kernels:{request.param}", context, tmp_path, start)


@pytest.fixture
def overriding(context, tmp_path, start):
    return start_kernel_class("support.plain_kernels:OverridingKernel", context, tmp_path, start)


def test_output_of_every_interface_belongs_to_the_cell(plain):
    """``send_response``, ``session.send``, ``print``."""
    for method in ("responding", "responding_from_a_thread", "sending"):
        assert run_cell(plain, f"{method} one").published == [stdout("one")]
    assert run_cell(plain, "printing one").text() == "one\n"
    assert run_cell(plain, "printing_to_stderr one").text("stderr") == "one\n"
    plain.expect_nothing_unread()


def test_a_message_of_session_msg_is_sent_with_buffers(plain):
    """``session.msg`` first, ``session.send`` later."""
    msg_id = plain.execute("sending_a_message one")
    _busy, _input, display = (plain.receive_publication() for _ in range(3))
    assert display["parent_header"]["msg_id"] == msg_id
    assert display["content"]["data"] == {"text/plain": "one"}
    assert display["buffers"] == [b"\x00\xff"]
    assert plain.receive_until_idle(msg_id) == [IDLE]


def test_python_types_are_converted_to_json(plain):
    """As jupyter_client's Session converts them; bash_kernel sends its images as bytes."""
    assert run_cell(plain, "sending_python_types").data("display_data") == [
        {
            "bytes": base64.b64encode(b"\x00\xff").decode(),
            "tuple": [1, 2],
            "range": [0, 1],
            "date": "2026-11-21T00:00:00Z",
        }
    ]


def test_the_displayhook_publishes_results(plain):
    """ipykernel's app installs a hook, which wrappers of Python's ``code`` module need."""
    assert run_cell(plain, "displaying one").result == "'one'"


def test_the_output_of_an_authors_own_stream_is_published(plain):
    assert run_cell(plain, "streaming one").published == [stdout("one")]


def test_the_log_goes_to_stderr(plain):
    """The frontend receives nothing."""
    assert run_cell(plain, "logging something odd").published == []
    plain.shut_down()
    status, stderr = plain.process.wait_for_end()
    assert status == 0
    assert stderr.count("something odd") == 1


def test_an_exception_is_an_error_of_the_cell(plain):
    """K6."""
    cell = run_cell(plain, "failing here")
    assert (cell.reply["status"], cell.reply["ename"]) == ("error", "LookupError")
    assert cell.kinds == ["error"]
    assert run_cell(plain, "responding on").published == [stdout("on")]


def test_a_cell_can_request_input(plain):
    assert run_cell(plain, "asking name?", ["me"]).published == [stdout("'me'")]
    assert run_cell(plain, "asking_secretly pin?", ["1234"]).published == [stdout("'1234'")]
    plain.expect_nothing_unread()


def test_a_callback_of_io_loop_runs_after_the_cell(plain):
    """Its output belongs to the cell that scheduled it."""
    msg_id = plain.execute("scheduling later")
    assert plain.receive_reply(msg_id)["content"]["status"] == "ok"
    assert plain.receive_until_idle(msg_id)[-1] == IDLE
    later = plain.receive_publication()
    assert later["content"]["text"] == "later"
    assert later["parent_header"]["msg_id"] == msg_id


def test_a_kernel_has_its_parent_and_its_ports(plain):
    """``get_parent``, ``_recorded_ports`` and connect_request."""
    code = "showing_the_parent please"
    assert run_cell(plain, code).published == [stdout(code)]
    ports = "control_port hb_port iopub_port shell_port stdin_port"
    assert run_cell(plain, "showing_the_ports").published == [stdout(ports)]
    reply = plain.request("connect_request", {})
    assert reply.pop("status") == "ok"
    assert reply == {k: v for k, v in plain.connection.items() if k.endswith("_port")}


def test_the_kernel_can_open_a_comm(plain):
    [(kind, content)] = run_cell(plain, "opening view").published
    assert (kind, content["target_name"]) == ("comm_open", "view")
    assert content["data"] == {"from": "kernel"}
    comms = plain.request("comm_info_request", {"target_name": "view"})["comms"]
    assert list(comms) == [content["comm_id"]]


def test_the_frontend_can_open_a_comm(plain):
    opening = {"comm_id": "one", "target_name": "echo", "data": {"a": 1}}
    msg_id = plain.send("comm_open", opening)
    assert (
        "comm_msg",
        {"comm_id": "one", "data": {"hello": {"a": 1}}},
    ) in plain.receive_until_idle(msg_id)
    msg_id = plain.send("comm_msg", {"comm_id": "one", "data": {"b": 2}})
    assert ("comm_msg", {"comm_id": "one", "data": {"echo": {"b": 2}}}) in plain.receive_until_idle(
        msg_id
    )
    msg_id = plain.send("comm_close", {"comm_id": "one", "data": {}})
    assert plain.receive_until_idle(msg_id) == [BUSY, IDLE]
    assert plain.request("comm_info_request", {"target_name": "echo"})["comms"] == {}


@pytest.mark.parametrize(
    "channel",
    ["shell", "control"],
)
def test_an_author_can_add_a_message_type(channel, overriding):
    assert overriding.request("greet_request", {"name": "you"}, channel) == {
        "greeting": "hello you"
    }


def test_a_request_that_should_handle_refuses_gets_busy_and_idle_only(overriding):
    """K4: ``should_handle`` is a method of ipykernel's base class."""
    msg_id = overriding.send("complete_request", {"code": "x", "cursor_pos": 1})
    assert overriding.receive_until_idle(msg_id) == [BUSY, IDLE]
    overriding.expect_nothing_unread()


def test_an_author_can_override_handlers_and_metadata(overriding):
    assert overriding.request("is_complete_request", {"code": "x"})["indent"] == "  "
    content = {"type": "request", "command": "debugInfo", "seq": 1}
    assert overriding.request("debug_request", content, "control") == {"debugged": "debugInfo"}
    msg_id = overriding.execute("responding one")
    frames = receive_frames(overriding.shell)
    metadata = json.loads(frames[frames.index(DELIMITER) + 4])
    assert (metadata["author"], metadata["ended"]) == ("me", "ok")
    assert "started" in metadata  # ipykernel's own
    overriding.receive_until_idle(msg_id)
    overriding.shut_down()
    assert "shut down, restart=False" in overriding.process.wait_for_end()[1]


def test_an_author_can_override_methods_of_echokernel(overriding):
    """``start`` and ``kernel_info``, which call ``super()``."""
    assert overriding.request("kernel_info_request", {})["banner"] == "overridden"
    overriding.shut_down()
    assert "WARNING started" in overriding.process.wait_for_end()[1]


def test_an_unsupported_debug_request_is_answered_with_an_error(plain):
    """K4, K11: ipykernel's base class only logs it, and the frontend waits forever."""
    content = {"type": "request", "command": "debugInfo", "seq": 1}
    assert plain.request("debug_request", content, "control")["ename"] == "NotImplementedError"


# --- bash_kernel ----------------------------------------------------------------------------


@pytest.fixture
def bash(context, tmp_path, start):
    return start_kernel_class(BASH, context, tmp_path, start)


def test_bash_cells_share_a_shell(bash):
    """Each line is published immediately; the exit status is the error."""
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


def test_bash_displays_html_and_images(bash, tmp_path):
    """HTML as text, an image as base64; the kernel sends the image as bytes."""
    [html] = run_cell(bash, "echo '<b>x</b>' | displayHTML").data("display_data")
    assert html == {"text/html": "<b>x</b>\n"}
    png = b"\x89PNG\r\n\x1a\n" + bytes(32)
    (tmp_path / "dot.png").write_bytes(png)
    [image] = run_cell(bash, f"display < {tmp_path}/dot.png").data("display_data")
    assert base64.b64decode(image["image/png"]) == png


def test_bash_answers_other_requests(bash):
    completed = bash.request("complete_request", {"code": "ls /et", "cursor_pos": 6})
    assert completed["matches"] == ["/etc/"]
    assert (completed["cursor_start"], completed["cursor_end"]) == (3, 6)
    inspected = bash.request("inspect_request", {"code": "ls", "cursor_pos": 2, "detail_level": 0})
    assert inspected["found"] is False
    assert bash.request("is_complete_request", {"code": "ls"})["status"] == "unknown"
    assert bash.request("history_request", {"hist_access_type": "tail", "n": 1, "output": False,
                                        "raw": True})["history"] == []  # fmt: skip
    assert bash.request("kernel_info_request", {})["implementation"] == "bash_kernel"


def test_an_interrupt_of_bash_keeps_the_shell(bash):
    """K8: bash_kernel catches the KeyboardInterrupt and sends ^C to bash; variables stay."""
    run_cell(bash, "x=5")
    msg_id = begin_cell(bash, "echo asleep; sleep 60")

    def sleeping_process():
        children = psutil.Process(bash.process.pid).children(recursive=True)
        return next((process for process in children if process.name() == "sleep"), None)

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


def test_metakernel_runs_cells_and_magics(meta):
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


def test_metakernel_runs_python_cells(meta):
    """The Python code can print, display, fail and request input."""
    cell = run_cell(meta, "%%python\nfrom IPython.display import HTML, display\n"
                    "print('printed')\ndisplay(HTML('<b>x</b>'))\n40 + 2")  # fmt: skip
    assert cell.text() == "printed\n"
    assert cell.data("display_data")[0]["text/html"] == "<b>x</b>"
    assert cell.result == "42"
    failed = run_cell(meta, "%%python\n1/0")
    assert failed.reply["ename"] == "ZeroDivisionError"
    assert failed.kinds == ["error"]
    assert run_cell(meta, "%python input('name? ')", ["me"]).result == "'me'"


def test_metakernel_publishes_output_of_a_thread(meta):
    """``schedule_display_output`` uses ``io_loop``."""
    say = "lambda: kernel.Print('later')"
    msg_id = meta.execute(f"%%python\nimport threading\n"
                          f"threading.Thread(target=kernel.schedule_display_output,"
                          f" args=({say},)).start()")  # fmt: skip
    assert meta.receive_reply(msg_id)["content"]["status"] == "ok"
    text = ""
    while "later\n" not in text:
        text += meta.receive_publication()["content"].get("text", "")


def test_metakernel_answers_other_requests(meta):
    completed = meta.request("complete_request", {"code": "%pyth", "cursor_pos": 5})
    assert completed["matches"] == ["%python"]
    code = "%python impor"
    completed = meta.request("complete_request", {"code": code, "cursor_pos": len(code)})
    assert "import" in completed["matches"]
    inspected = meta.request("inspect_request", {"code": "%cd", "cursor_pos": 3, "detail_level": 0})
    assert "change current directory" in inspected["data"]["text/plain"]
    assert meta.request("is_complete_request", {"code": "echo"})["status"] == "incomplete"
    assert meta.request("is_complete_request", {"code": "echo\n"})["status"] == "complete"


def test_metakernel_saves_its_history_at_shutdown(meta, context, tmp_path, start):
    """In ``do_shutdown``."""
    run_cell(meta, "echo remember me")
    meta.shut_down()
    assert meta.process.wait_for_end()[0] == 0
    again = start_kernel_class(META_BASH, context, tmp_path, start)
    tail = {"hist_access_type": "tail", "n": 9, "output": False, "raw": True}
    assert again.request("history_request", tail)["history"] == [[None, None, "echo remember me"]]


def test_metakernel_supports_widgets(meta):
    """ipywidgets: a cell opens it, and the next cell has the value that the frontend sent."""
    cell = run_cell(meta, "%%python\nimport ipywidgets\nslider = ipywidgets.IntSlider()\nslider")
    opened = {c["data"]["state"]["_model_name"]: c["comm_id"]
              for kind, c in cell.published if kind == "comm_open"}  # fmt: skip
    assert set(opened) == {"IntSliderModel", "LayoutModel", "SliderStyleModel"}
    [view] = cell.data("display_data")
    assert view["application/vnd.jupyter.widget-view+json"]["model_id"] == opened["IntSliderModel"]
    moved = {"method": "update", "state": {"value": 7}, "buffer_paths": []}
    msg_id = meta.send("comm_msg", {"comm_id": opened["IntSliderModel"], "data": moved})
    assert meta.receive_until_idle(msg_id)[-1] == IDLE
    assert run_cell(meta, "%python slider.value").result == "7"


@pytest.mark.parametrize(
    "code", ["echo asleep; sleep 60", "%%python\nimport time\nprint('asleep')\ntime.sleep(60)"]
)
def test_an_interrupt_ends_a_cell_of_metakernel(code, meta):
    """K8: in its subprocess and in Python, where ipykernel's app does not answer the cell."""
    msg_id = begin_cell(meta, code)
    os.killpg(meta.process.pid, signal.SIGINT)
    reply = finish_cell(meta, msg_id).reply
    assert reply.get("ename", reply["status"]) in ("ok", "KeyboardInterrupt")
    assert run_cell(meta, "echo on").text() == "on\r\n"


def test_metakernel_shows_the_connection(meta):
    """``%connect_info`` reads the connection file's path from the config, as ipykernel's app."""
    text = run_cell(meta, "%connect_info").text()
    assert str(meta.connection["shell_port"]) in text


# --- started by Jupyter -------------------------------------------------------------------------


@pytest.mark.parametrize("kernel_class", [BASH, META_BASH])
def test_the_children_of_a_kernel_end_with_it(kernel_class, kernelspecs):
    """L1, L6: at a restart and at shutdown, started by handshake."""
    argv = [sys.executable, "-m", "echokernel", "--kernel-class", kernel_class]
    spec = {"argv": [*argv, "-f", "{connection_file}"], "language": "bash"}
    metadata = handshake_metadata(handshake="signed-frame")
    name = kernelspecs("other", **spec, metadata=metadata)
    manager, client = start_new_kernel(kernel_name=name)
    messages = []

    def execute(code):
        messages.clear()
        reply = client.execute_interactive(code, timeout=DEADLINE, output_hook=messages.append)
        assert reply["content"]["status"] == "ok"
        text = "".join(m["content"]["text"] for m in messages if m["msg_type"] == "stream")
        return text.replace("\r", "")

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
    exited, alive = psutil.wait_procs(before + after, timeout=DEADLINE)
    assert (len(exited), alive) == (2, [])
