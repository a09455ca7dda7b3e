"""Requests on shell, control and stdin: answered, bracketed, dropped where they are not genuine."""

import json
import os
import signal

import pytest
import zmq
from support import KERNEL_PATH
from support.cells import begin_cell, run_cell
from support.kernel_processes import KEY, start_classic

from echokernel.conformance.raw_client import RawClient, receive_frames
from echokernel.conformance.raw_messages import (
    BUSY,
    IDLE,
    build_message,
    endpoint,
    parse_message,
    sign_frames,
)


@pytest.fixture(params=["ScriptedKernel", "AsyncScriptedKernel"])
def doing(request, context, tmp_path, start):
    """A client of a kernel whose cells say what to do; ``do_execute`` plain and async."""
    process = []

    def start_doing(path, *arguments):
        options = ("--kernel-class", f"support.scripted_kernels:{request.param}")
        process.append(start(path, *options, *arguments, **KERNEL_PATH))

    made = RawClient(context, start_classic(tmp_path, start_doing))
    made.process = process[0]
    yield made
    made.close()


# --- what every kernel answers -----------------------------------------------------------


@pytest.mark.parametrize("channel", ["shell", "control"])
def test_kernel_info(channel, client):
    """K2, K3."""
    content = client.request("kernel_info_request", {}, channel)
    assert content["status"] == "ok"
    assert content["protocol_version"] == "5.6"
    assert content["supported_features"] == ["iopub_welcome"]
    assert content["implementation"] == "echokernel"
    assert content["language_info"]["name"] == "echo"
    assert content["language_info"]["file_extension"].startswith(".")


def test_the_echo_language(client):
    """What is said comes back, and can be found again."""
    assert run_cell(client, "hello world") == (
        {"status": "ok", "execution_count": 1, "payload": [], "user_expressions": {}},
        [("stream", {"name": "stdout", "text": "hello world"})],
    )
    reply, _ = run_cell(client, "hello again", user_expressions={"a": "me"})
    assert reply["user_expressions"]["a"]["data"] == {"text/plain": "me"}
    assert run_cell(client, "")[1] == []
    inspected = client.request("inspect_request", {"code": "x", "cursor_pos": 1, "detail_level": 0})
    assert (inspected["found"], inspected["data"]) == (True, {"text/plain": ""})
    completed = client.request("complete_request", {"code": "he", "cursor_pos": 2})
    assert completed["matches"] == ["hello"]
    assert (completed["cursor_start"], completed["cursor_end"]) == (0, 2)
    assert client.request("is_complete_request", {"code": "any"})["status"] == "complete"
    assert client.request("comm_info_request", {})["comms"] == {}

    def history(kind, **more):
        content = {"hist_access_type": kind, "output": False, "raw": True, **more}
        return [cell[1:] for cell in client.request("history_request", content)["history"]]

    cells = [[1, "hello world"], [2, "hello again"], [3, ""]]
    assert history("tail", n=2) == cells[1:]
    assert history("tail", n=10) == cells
    assert history("range", session=0, start=1, stop=3) == cells[:2]
    assert history("search", pattern="*world", n=1) == cells[:1]
    client.expect_nothing_unread()


def test_what_is_counted_and_what_is_published(client):
    """``silent`` publishes nothing; without ``store_history`` a cell is not counted."""
    msg_id = client.execute("quiet", silent=True)
    assert client.receive_until_idle(msg_id) == [BUSY, IDLE]
    assert client.receive_reply(msg_id)["content"]["execution_count"] == 0
    reply, published = run_cell(client, "not kept", store_history=False)
    assert (reply["execution_count"], len(published)) == (0, 1)
    assert run_cell(client, "kept")[0]["execution_count"] == 1
    kept = {"hist_access_type": "tail", "n": 9}
    assert client.request("history_request", kept)["history"] == [[0, 1, "kept"]]


@pytest.mark.parametrize("channel", ["shell", "control"])
def test_an_unknown_request(channel, client):
    """K4: bracketed by busy and idle like any other; no reply is made up."""
    msg_id = client.send("no_such_request", {}, channel)
    assert client.receive_until_idle(msg_id) == [BUSY, IDLE]
    client.expect_nothing_unread()


@pytest.mark.parametrize(
    ("msg_type", "content"),
    [
        ("execute_request", {}),
        ("execute_request", {"code": 5}),
        ("complete_request", {"code": "x"}),
        ("history_request", {}),
    ],
)
def test_a_request_that_lacks_something(msg_type, content, client):
    """K4: bracketed, and answered with an error: a client waits for a reply."""
    msg_id = client.send(msg_type, content)
    assert client.receive_until_idle(msg_id) == [BUSY, IDLE]
    reply = client.receive_reply(msg_id)
    assert reply["msg_type"] == msg_type.replace("request", "reply")
    assert reply["content"]["status"] == "error"
    client.expect_nothing_unread()


# --- what is dropped -----------------------------------------------------------------------


def not_genuine():
    """Yield (name, frames) that no kernel may act upon."""
    code = {"code": "forged", "silent": False}
    _, good = build_message("execute_request", code, key=KEY)
    yield "another key", build_message("execute_request", code, key="another key")[1]
    yield "no signature", [good[0], b"", *good[2:]]
    yield "upper-case signature", [good[0], good[1].upper(), *good[2:]]
    yield "changed content", [*good[:-1], good[-1].replace(b"forged", b"FORGED")]
    yield "no delimiter", good[1:]
    yield "no frames behind the delimiter", good[:1]
    yield "too few frames", good[:4]
    yield "an empty message", [b""]
    yield "garbage", [b"\xff\x00" * 500]
    for name, header in {
        "a lone surrogate": {"msg_id": "\ud800", "msg_type": "kernel_info_request"},
        "NaN in the header": {"msg_id": "x", "msg_type": "kernel_info_request", "n": float("nan")},
        "header is a list": [],
        "header is null": None,
        "header is empty": {},
        "msg_type is a list": {"msg_id": "x", "msg_type": []},
        "msg_id is a number": {"msg_id": 5, "msg_type": "execute_request"},
    }.items():
        yield name, signed(header, {}, {}, code)
    head = {"msg_id": "x", "msg_type": "execute_request", "session": "s", "version": "5.6"}
    yield "content is a list", signed(head, {}, {}, [])
    yield "content is a string", signed(head, {}, {}, "code")
    yield "metadata is null", signed(head, {}, None, code)
    yield "parent is a number", signed(head, 5, {}, code)
    parts = [b"{", b"{}", b"{}", b"{}"]
    yield "not JSON", sign_frames(KEY, *parts)
    parts = [b"[" * 100_000] * 4
    yield "nested too deeply", sign_frames(KEY, *parts)


def signed(*parts):
    return sign_frames(KEY, *(json.dumps(part).encode() for part in parts))


def test_messages_that_are_not_genuine(client):
    """K4: on every socket: dropped and logged, and nothing else happens."""
    for channel in ("shell", "control", "stdin"):
        for _, frames in not_genuine():
            getattr(client, channel).send_multipart(frames)
    # Nothing was published for any of them, not even busy: the next thing heard is genuine.
    assert run_cell(client, "genuine")[1] == [("stream", {"name": "stdout", "text": "genuine"})]
    client.expect_nothing_unread()


def test_replayed_messages(client):
    """K4: a message counts once, on whichever channel it comes again."""
    msg_id, frames = build_message("execute_request", {"code": "once", "silent": False}, key=KEY)
    client.shell.send_multipart(frames)
    assert len(client.receive_until_idle(msg_id)) == 4
    client.receive_reply(msg_id)
    for channel in (client.shell, client.control, client.shell):
        channel.send_multipart(frames)
    assert run_cell(client, "after")[0]["execution_count"] == 2
    client.expect_nothing_unread()


def test_what_is_dropped_is_logged_without_the_key(client, context, connection, start, tmp_path):
    """K4, F4."""
    (tmp_path / "other").mkdir()
    process = []
    other = start_classic(
        tmp_path / "other", lambda p, *a: process.append(start(p, "--log-level", "DEBUG", *a))
    )
    with_log = RawClient(context, other)
    for _, frames in not_genuine():
        with_log.shell.send_multipart(frames)
    with_log.expect_nothing_unread()
    with_log.shut_down()
    with_log.close()
    status, stderr = process[0].wait_for_end()
    assert status == 0
    assert stderr.count("dropped a message") == len(list(not_genuine()))
    assert "Traceback" not in stderr
    assert KEY not in stderr


@pytest.mark.parametrize("channel", ["shell", "control", "stdin", "hb"])
def test_other_kinds_of_sockets_and_odd_frames(channel, client, context, connection):
    """Strangers of every sort on every port; the kernel serves its clients."""
    for kind in (zmq.REQ, zmq.DEALER, zmq.ROUTER, zmq.SUB, zmq.PUSH):
        stranger = context.socket(kind)
        stranger.connect(endpoint(connection, channel))
        if kind in (zmq.REQ, zmq.DEALER):
            stranger.send_multipart([b"", b"x" * 100_000, b""])
    assert run_cell(client, "still here")[0]["status"] == "ok"
    heartbeat = client.connect("hb", zmq.REQ)
    heartbeat.send(b"ping")
    assert receive_frames(heartbeat) == [b"ping"]
    heartbeat.close()
    client.expect_nothing_unread()


# --- output, errors, interrupts ---------------------------------------------------------------


def test_what_is_printed_belongs_to_its_request(doing):
    for code, name in [
        ("say one", "stdout"),
        ("say_to_stderr one", "stderr"),
        ("say_in_a_thread one", "stdout"),
    ]:
        _, published = run_cell(doing, code)
        assert published == [("stream", {"name": name, "text": "one\n"})]


def test_much_output_keeps_its_order(doing):
    _, published = run_cell(doing, "say_many 2000")
    assert "".join(content["text"] for _, content in published) == "".join(
        f"{number}\n" for number in range(2000)
    )


@pytest.mark.parametrize(
    ("code", "name", "text"),
    [("fail no", "ValueError", "no"), ("return_text", "TypeError", "do_execute returned")],
)
def test_a_cell_that_raises(code, name, text, doing):
    """An author's exception is an error in the cell, never a request without a reply."""
    reply, published = run_cell(doing, code)
    assert (reply["status"], reply["ename"]) == ("error", name)
    assert text in reply["evalue"]
    [(kind, content)] = published
    assert (kind, content["ename"]) == ("error", name)
    assert run_cell(doing, "say on")[0]["status"] == "ok"


def test_a_cell_that_spoils_the_streams(doing):
    """User code can put anything into sys.stdout; that ends no kernel."""
    assert run_cell(doing, "break_stdout")[0]["status"] == "ok"
    assert run_cell(doing, "sleep 0")[0]["status"] == "error"  # it prints
    assert doing.request("kernel_info_request", {})["status"] == "ok"


def test_a_silent_cell_publishes_nothing_even_if_it_fails(doing):
    msg_id = doing.execute("fail quietly", silent=True)
    assert doing.receive_reply(msg_id)["content"]["evalue"] == "quietly"
    assert doing.receive_until_idle(msg_id) == [BUSY, IDLE]


def test_a_cell_that_cancels_itself(doing):
    reply, published = run_cell(doing, "cancel")
    assert reply["ename"] == published[0][1]["ename"] == "CancelledError"
    assert run_cell(doing, "say on")[0]["status"] == "ok"


def test_execute_is_for_shell(client):
    """User code runs on the main thread only; who asks on control is told so."""
    msg_id = client.send("execute_request", {"code": "x", "silent": False}, "control")
    assert client.receive_reply(msg_id, "control")["content"]["evalue"].endswith("shell channel")
    assert client.receive_until_idle(msg_id) == [BUSY, IDLE]


@pytest.mark.parametrize("msg_type", ["complete_request", "inspect_request", "is_complete_request"])
def test_interrupting_other_requests(msg_type, doing):
    """All that an author writes can be interrupted, and is answered once."""
    msg_id = doing.send(msg_type, {"code": "hang", "cursor_pos": 4})
    assert doing.receive_publication()["content"] == BUSY[1]
    assert doing.receive_publication()["content"]["text"] == "asleep\n"
    doing.send("interrupt_request", {}, "control")
    assert doing.receive_reply(msg_id)["content"]["ename"] == "KeyboardInterrupt"


@pytest.mark.parametrize("how", ["sleep", "sleep_in_one_call", "sleep_async", "child"])
@pytest.mark.parametrize("by", ["signal", "message"])
def test_interrupt(by, how, doing):
    """K1: by SIGINT as by message; the cell ends with KeyboardInterrupt, and is answered."""
    msg_id = begin_cell(doing, f"{how} 60")
    request = None
    if by == "signal":
        os.killpg(doing.process.pid, signal.SIGINT)
    else:
        request = doing.send("interrupt_request", {}, "control")
        assert doing.receive_reply(request, "control")["content"] == {"status": "ok"}
    assert doing.receive_reply(msg_id)["content"]["ename"] == "KeyboardInterrupt"
    published = until_idle(doing, {msg_id, request})
    assert [content["ename"] for kind, content in published if kind == "error"] == [
        "KeyboardInterrupt"
    ]
    assert run_cell(doing, "say on")[1] == [("stream", {"name": "stdout", "text": "on\n"})]


def until_idle(client, msg_ids):
    """Return what is published until each request has been told idle."""
    published = []
    waiting = msg_ids - {None}
    while waiting:
        got = client.receive_publication()
        published.append((got["msg_type"], got["content"]))
        if published[-1] == IDLE:
            waiting.discard(got["parent_header"]["msg_id"])
    return published


def test_an_interrupt_that_the_code_swallows(doing):
    msg_id = begin_cell(doing, "catch_interrupt 60")
    os.killpg(doing.process.pid, signal.SIGINT)
    assert doing.receive_reply(msg_id)["content"]["status"] == "ok"
    assert [kind for kind, _ in doing.receive_until_idle(msg_id)] == ["stream", "status"]


def test_an_interrupt_of_nothing(client, connection):
    """An idle kernel stays what it is."""
    for _ in range(5):
        assert client.request("interrupt_request", {}, "control") == {"status": "ok"}
    assert run_cell(client, "still here")[0]["status"] == "ok"


def test_control_answers_while_user_code_runs(doing):
    """K3."""
    msg_id = begin_cell(doing, "sleep_in_one_call 60")
    assert doing.request("kernel_info_request", {}, "control")["status"] == "ok"
    doing.send("interrupt_request", {}, "control")
    assert doing.receive_reply(msg_id)["content"]["status"] == "error"


def test_a_failed_cell_aborts_those_that_wait(doing, tmp_path):
    """``stop_on_error``: executes that have arrived are aborted, other requests answered."""
    go_on = tmp_path / "go on"
    first = begin_cell(doing, f"wait_for {go_on}")
    failing = doing.execute("error no")
    waiting = [doing.execute("say never") for _ in range(3)]
    info = doing.send("kernel_info_request", {})
    doing.request("kernel_info_request", {}, "control")  # by the same network thread: all are there
    go_on.touch()
    assert doing.receive_reply(first)["content"]["status"] == "ok"
    assert doing.receive_reply(failing)["content"]["status"] == "error"
    for msg_id in waiting:
        assert doing.receive_reply(msg_id)["content"]["status"] == "aborted"
    assert doing.receive_reply(info)["content"]["status"] == "ok"
    for msg_id in (first, failing, *waiting, info):
        assert doing.receive_until_idle(msg_id)[-1] == IDLE
    assert run_cell(doing, "say on")[0]["status"] == "ok"


def test_without_stop_on_error_the_next_cells_run(doing, tmp_path):
    go_on = tmp_path / "go on"
    first = begin_cell(doing, f"wait_for {go_on}")
    failing = doing.execute("error no", stop_on_error=False)
    waiting = doing.execute("say on")
    go_on.touch()
    statuses = [
        doing.receive_reply(each)["content"]["status"] for each in (first, failing, waiting)
    ]
    assert statuses == ["ok", "error", "ok"]


# --- input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "password"), [("ask name?", False), ("ask_password pin?", True)])
def test_input(code, password, doing, context):
    msg_id = doing.execute(code, allow_stdin=True)
    asked = doing.receive_on("stdin")
    assert asked["content"] == {"prompt": code.split()[1], "password": password}
    assert asked["parent_header"]["msg_id"] == msg_id
    for _, frames in not_genuine():  # K4: junk is no answer
        doing.stdin.send_multipart(frames)
    stranger = context.socket(zmq.DEALER)  # it has the key, but was not asked
    stranger.connect(endpoint(doing.connection, "stdin"))
    stranger.send_multipart(build_message("input_reply", {"value": "somebody else"}, key=KEY)[1])
    _, answer = build_message("input_reply", {"value": "me"}, session=doing.session, key=KEY)
    doing.stdin.send_multipart(answer)
    assert doing.receive_reply(msg_id)["content"]["status"] == "ok"
    assert ("stream", {"name": "stdout", "text": "'me'\n"}) in doing.receive_until_idle(msg_id)


def test_input_that_the_frontend_does_not_offer(doing):
    assert run_cell(doing, "ask name?")[0]["ename"] == "StdinNotImplementedError"


def test_input_from_a_client_that_is_gone(doing, context):
    """K5: fails at once, with a clear error in the cell, instead of waiting for ever."""
    gone = context.socket(zmq.DEALER)
    gone.identity = b"never opened a stdin channel"
    gone.connect(endpoint(doing.connection, "shell"))
    msg_id, frames = build_message(
        "execute_request", {"code": "ask name?", "silent": False, "allow_stdin": True}, key=KEY
    )
    gone.send_multipart(frames)
    reply = parse_message(receive_frames(gone), KEY)
    assert reply["parent_header"]["msg_id"] == msg_id
    assert reply["content"]["ename"] == "ConnectionError"
    assert "frontend" in reply["content"]["evalue"]


# --- the end ------------------------------------------------------------------------------------


@pytest.mark.parametrize("channel", ["shell", "control"])
@pytest.mark.parametrize("restart", [True, False, None])
def test_shutdown(channel, restart, client, connection):
    content = {} if restart is None else {"restart": restart}
    restart = bool(restart)
    msg_id = client.send("shutdown_request", content, channel)
    assert client.receive_reply(msg_id, channel)["content"] == {"status": "ok", "restart": restart}
    published = client.receive_until_idle(msg_id)
    assert published == [BUSY, ("shutdown_reply", {"status": "ok", "restart": restart}), IDLE]


def test_a_cell_that_ends_the_process(doing):
    doing.execute("exit 7")
    assert doing.process.wait_for_end()[0] == 7


def test_ending_during_a_cell(doing):
    """SIGTERM, as launchers send when a shutdown takes too long: no cell can swallow it."""
    begin_cell(doing, "catch_everything 60")
    os.kill(doing.process.pid, signal.SIGTERM)
    status, stderr = doing.process.wait_for_end()
    assert status == -signal.SIGTERM
    assert stderr == ""
