"""Requests on shell, control and stdin: replies, busy and idle, and messages that are dropped."""

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
def scripted(request, context, tmp_path, start):
    """A client of a kernel whose cells are instructions; ``do_execute`` plain and async."""
    process = []

    def start_scripted(path, *arguments):
        options = ("--kernel-class", f"support.scripted_kernels:{request.param}")
        process.append(start(path, *options, *arguments, **KERNEL_PATH))

    client = RawClient(context, start_classic(tmp_path, start_scripted))
    client.process = process[0]
    yield client
    client.close()


# --- requests that every kernel answers --------------------------------------------------


@pytest.mark.parametrize("channel", ["shell", "control"])
def test_kernel_info_is_answered(channel, client):
    """K2, K3."""
    content = client.request("kernel_info_request", {}, channel)
    assert content["status"] == "ok"
    assert content["protocol_version"] == "5.6"
    assert content["supported_features"] == ["iopub_welcome"]
    assert content["implementation"] == "echokernel"
    assert content["language_info"]["name"] == "echo"
    assert content["language_info"]["file_extension"].startswith(".")


def test_the_echo_language_supports_every_request(client):
    """K4: execute, expressions, inspect, complete, is_complete, comm_info and history."""
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


def test_silent_and_unstored_cells_are_not_counted(client):
    """K4: ``silent`` publishes nothing; without ``store_history`` a cell is not counted."""
    msg_id = client.execute("quiet", silent=True)
    assert client.receive_until_idle(msg_id) == [BUSY, IDLE]
    assert client.receive_reply(msg_id)["content"]["execution_count"] == 0
    reply, published = run_cell(client, "not kept", store_history=False)
    assert (reply["execution_count"], len(published)) == (0, 1)
    assert run_cell(client, "kept")[0]["execution_count"] == 1
    kept = {"hist_access_type": "tail", "n": 9}
    assert client.request("history_request", kept)["history"] == [[0, 1, "kept"]]


@pytest.mark.parametrize("channel", ["shell", "control"])
def test_an_unknown_request_gets_busy_and_idle_only(channel, client):
    """K4: there is no reply, because its type is unknown."""
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
def test_an_incomplete_request_is_answered_with_an_error(msg_type, content, client):
    """K4, K6: between busy and idle; the client waits for a reply."""
    msg_id = client.send(msg_type, content)
    assert client.receive_until_idle(msg_id) == [BUSY, IDLE]
    reply = client.receive_reply(msg_id)
    assert reply["msg_type"] == msg_type.replace("request", "reply")
    assert reply["content"]["status"] == "error"
    client.expect_nothing_unread()


# --- messages that are dropped -------------------------------------------------------------


def invalid_messages():
    """Yield (name, frames) of messages that a kernel must drop."""
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


def test_invalid_messages_are_dropped(client):
    """K4: on every socket, without other effect."""
    for channel in ("shell", "control", "stdin"):
        for _, frames in invalid_messages():
            getattr(client, channel).send_multipart(frames)
    # Not even busy was published for them: the next message belongs to the valid request.
    assert run_cell(client, "valid")[1] == [("stream", {"name": "stdout", "text": "valid"})]
    client.expect_nothing_unread()


def test_replayed_messages_are_dropped(client):
    """K4: a message counts once, on all channels together."""
    msg_id, frames = build_message("execute_request", {"code": "once", "silent": False}, key=KEY)
    client.shell.send_multipart(frames)
    assert len(client.receive_until_idle(msg_id)) == 4
    client.receive_reply(msg_id)
    for channel in (client.shell, client.control, client.shell):
        channel.send_multipart(frames)
    assert run_cell(client, "after")[0]["execution_count"] == 2
    client.expect_nothing_unread()


def test_dropped_messages_are_logged_without_the_key(client, context, connection, start, tmp_path):
    """F4, K4."""
    (tmp_path / "other").mkdir()
    process = []
    other = start_classic(
        tmp_path / "other", lambda p, *a: process.append(start(p, "--log-level", "DEBUG", *a))
    )
    with_log = RawClient(context, other)
    for _, frames in invalid_messages():
        with_log.shell.send_multipart(frames)
    with_log.expect_nothing_unread()
    with_log.shut_down()
    with_log.close()
    status, stderr = process[0].wait_for_end()
    assert status == 0
    assert stderr.count("dropped a message") == len(list(invalid_messages()))
    assert "Traceback" not in stderr
    assert KEY not in stderr


@pytest.mark.parametrize("channel", ["shell", "control", "stdin", "hb"])
def test_sockets_of_a_wrong_type_do_not_disturb_clients(channel, client, context, connection):
    """K4: unauthenticated peers with sockets of every type, some of which send junk."""
    for kind in (zmq.REQ, zmq.DEALER, zmq.ROUTER, zmq.SUB, zmq.PUSH):
        peer = context.socket(kind)
        peer.connect(endpoint(connection, channel))
        if kind in (zmq.REQ, zmq.DEALER):
            peer.send_multipart([b"", b"x" * 100_000, b""])
    assert run_cell(client, "still here")[0]["status"] == "ok"
    heartbeat = client.connect("hb", zmq.REQ)
    heartbeat.send(b"ping")
    assert receive_frames(heartbeat) == [b"ping"]
    heartbeat.close()
    client.expect_nothing_unread()


# --- output, errors, interrupts ---------------------------------------------------------------


def test_printed_text_belongs_to_its_request(scripted):
    """K4."""
    for code, name in [
        ("say one", "stdout"),
        ("say_to_stderr one", "stderr"),
        ("say_in_a_thread one", "stdout"),
    ]:
        _, published = run_cell(scripted, code)
        assert published == [("stream", {"name": name, "text": "one\n"})]


def test_much_output_keeps_its_order(scripted):
    """W6."""
    _, published = run_cell(scripted, "say_many 2000")
    assert "".join(content["text"] for _, content in published) == "".join(
        f"{number}\n" for number in range(2000)
    )


@pytest.mark.parametrize(
    ("code", "name", "text"),
    [("fail no", "ValueError", "no"), ("return_text", "TypeError", "do_execute returned")],
)
def test_an_exception_of_do_execute_is_an_error_of_the_cell(code, name, text, scripted):
    """K6: the request is answered; the kernel continues."""
    reply, published = run_cell(scripted, code)
    assert (reply["status"], reply["ename"]) == ("error", name)
    assert text in reply["evalue"]
    [(kind, content)] = published
    assert (kind, content["ename"]) == ("error", name)
    assert run_cell(scripted, "say on")[0]["status"] == "ok"


def test_a_cell_that_replaces_stdout_does_not_end_the_kernel(scripted):
    """K6."""
    assert run_cell(scripted, "break_stdout")[0]["status"] == "ok"
    assert run_cell(scripted, "sleep 0")[0]["status"] == "error"  # it prints
    assert scripted.request("kernel_info_request", {})["status"] == "ok"


def test_a_silent_cell_publishes_nothing_even_if_it_fails(scripted):
    """K4."""
    msg_id = scripted.execute("fail quietly", silent=True)
    assert scripted.receive_reply(msg_id)["content"]["evalue"] == "quietly"
    assert scripted.receive_until_idle(msg_id) == [BUSY, IDLE]


def test_a_cancelled_cell_is_answered(scripted):
    """K6."""
    reply, published = run_cell(scripted, "cancel")
    assert reply["ename"] == published[0][1]["ename"] == "CancelledError"
    assert run_cell(scripted, "say on")[0]["status"] == "ok"


def test_an_execute_request_on_control_is_refused(client):
    """K4: user code runs on the main thread only; the error names the shell channel."""
    msg_id = client.send("execute_request", {"code": "x", "silent": False}, "control")
    assert client.receive_reply(msg_id, "control")["content"]["evalue"].endswith("shell channel")
    assert client.receive_until_idle(msg_id) == [BUSY, IDLE]


@pytest.mark.parametrize("msg_type", ["complete_request", "inspect_request", "is_complete_request"])
def test_an_interrupt_ends_other_requests(msg_type, scripted):
    """K8: the request is answered once."""
    msg_id = scripted.send(msg_type, {"code": "hang", "cursor_pos": 4})
    assert scripted.receive_publication()["content"] == BUSY[1]
    assert scripted.receive_publication()["content"]["text"] == "asleep\n"
    scripted.send("interrupt_request", {}, "control")
    assert scripted.receive_reply(msg_id)["content"]["ename"] == "KeyboardInterrupt"


@pytest.mark.parametrize("how", ["sleep", "sleep_in_one_call", "sleep_async", "child"])
@pytest.mark.parametrize("by", ["signal", "message"])
def test_an_interrupt_ends_a_cell(by, how, scripted):
    """K8: SIGINT and interrupt_request end the cell with KeyboardInterrupt, which is answered."""
    msg_id = begin_cell(scripted, f"{how} 60")
    request = None
    if by == "signal":
        os.killpg(scripted.process.pid, signal.SIGINT)
    else:
        request = scripted.send("interrupt_request", {}, "control")
        assert scripted.receive_reply(request, "control")["content"] == {"status": "ok"}
    assert scripted.receive_reply(msg_id)["content"]["ename"] == "KeyboardInterrupt"
    published = until_idle(scripted, {msg_id, request})
    assert [content["ename"] for kind, content in published if kind == "error"] == [
        "KeyboardInterrupt"
    ]
    assert run_cell(scripted, "say on")[1] == [("stream", {"name": "stdout", "text": "on\n"})]


def until_idle(client, msg_ids):
    """Return the messages that are published until each request is idle."""
    published = []
    waiting = msg_ids - {None}
    while waiting:
        message = client.receive_publication()
        published.append((message["msg_type"], message["content"]))
        if published[-1] == IDLE:
            waiting.discard(message["parent_header"]["msg_id"])
    return published


def test_a_cell_can_catch_an_interrupt(scripted):
    """K8."""
    msg_id = begin_cell(scripted, "catch_interrupt 60")
    os.killpg(scripted.process.pid, signal.SIGINT)
    assert scripted.receive_reply(msg_id)["content"]["status"] == "ok"
    assert [kind for kind, _ in scripted.receive_until_idle(msg_id)] == ["stream", "status"]


def test_an_interrupt_of_an_idle_kernel_has_no_effect(client, connection):
    """K8."""
    for _ in range(5):
        assert client.request("interrupt_request", {}, "control") == {"status": "ok"}
    assert run_cell(client, "still here")[0]["status"] == "ok"


def test_control_answers_while_user_code_runs(scripted):
    """K3."""
    msg_id = begin_cell(scripted, "sleep_in_one_call 60")
    assert scripted.request("kernel_info_request", {}, "control")["status"] == "ok"
    scripted.send("interrupt_request", {}, "control")
    assert scripted.receive_reply(msg_id)["content"]["status"] == "error"


def test_a_failed_cell_aborts_the_cells_that_wait(scripted, tmp_path):
    """K4: ``stop_on_error`` aborts the executes in the queue; other requests are answered."""
    go_on = tmp_path / "go on"
    first = begin_cell(scripted, f"wait_for {go_on}")
    failing = scripted.execute("error no")
    waiting = [scripted.execute("say never") for _ in range(3)]
    info = scripted.send("kernel_info_request", {})
    # The same network thread of the client has sent all earlier requests.
    scripted.request("kernel_info_request", {}, "control")
    go_on.touch()
    assert scripted.receive_reply(first)["content"]["status"] == "ok"
    assert scripted.receive_reply(failing)["content"]["status"] == "error"
    for msg_id in waiting:
        assert scripted.receive_reply(msg_id)["content"]["status"] == "aborted"
    assert scripted.receive_reply(info)["content"]["status"] == "ok"
    for msg_id in (first, failing, *waiting, info):
        assert scripted.receive_until_idle(msg_id)[-1] == IDLE
    assert run_cell(scripted, "say on")[0]["status"] == "ok"


def test_without_stop_on_error_the_next_cells_run(scripted, tmp_path):
    """K4."""
    go_on = tmp_path / "go on"
    first = begin_cell(scripted, f"wait_for {go_on}")
    failing = scripted.execute("error no", stop_on_error=False)
    waiting = scripted.execute("say on")
    go_on.touch()
    replies = [scripted.receive_reply(msg_id) for msg_id in (first, failing, waiting)]
    assert [reply["content"]["status"] for reply in replies] == ["ok", "error", "ok"]


# --- input -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("code", "password"), [("ask name?", False), ("ask_password pin?", True)])
def test_only_the_client_of_the_request_answers_an_input_request(code, password, scripted, context):
    """K4: invalid messages, and the valid reply of another client, are not an answer."""
    msg_id = scripted.execute(code, allow_stdin=True)
    input_request = scripted.receive_on("stdin")
    assert input_request["content"] == {"prompt": code.split()[1], "password": password}
    assert input_request["parent_header"]["msg_id"] == msg_id
    for _, frames in invalid_messages():
        scripted.stdin.send_multipart(frames)
    other_client = context.socket(zmq.DEALER)
    other_client.connect(endpoint(scripted.connection, "stdin"))
    other_client.send_multipart(build_message("input_reply", {"value": "other"}, key=KEY)[1])
    _, answer = build_message("input_reply", {"value": "me"}, session=scripted.session, key=KEY)
    scripted.stdin.send_multipart(answer)
    assert scripted.receive_reply(msg_id)["content"]["status"] == "ok"
    assert ("stream", {"name": "stdout", "text": "'me'\n"}) in scripted.receive_until_idle(msg_id)


def test_input_is_an_error_if_the_frontend_does_not_support_it(scripted):
    """K5."""
    assert run_cell(scripted, "ask name?")[0]["ename"] == "StdinNotImplementedError"


def test_input_from_a_client_without_a_stdin_channel_fails_immediately(scripted, context):
    """K5: with a clear error in the cell, instead of waiting forever."""
    client = context.socket(zmq.DEALER)
    client.identity = b"never opened a stdin channel"
    client.connect(endpoint(scripted.connection, "shell"))
    msg_id, frames = build_message(
        "execute_request", {"code": "ask name?", "silent": False, "allow_stdin": True}, key=KEY
    )
    client.send_multipart(frames)
    reply = parse_message(receive_frames(client), KEY)
    assert reply["parent_header"]["msg_id"] == msg_id
    assert reply["content"]["ename"] == "ConnectionError"
    assert "frontend" in reply["content"]["evalue"]


# --- shutdown and exit --------------------------------------------------------------------------


@pytest.mark.parametrize("channel", ["shell", "control"])
@pytest.mark.parametrize("restart", [True, False, None])
def test_a_shutdown_request_is_answered_on_its_channel_and_on_iopub(
    channel, restart, client, connection
):
    """K4."""
    content = {} if restart is None else {"restart": restart}
    restart = bool(restart)
    msg_id = client.send("shutdown_request", content, channel)
    assert client.receive_reply(msg_id, channel)["content"] == {"status": "ok", "restart": restart}
    published = client.receive_until_idle(msg_id)
    assert published == [BUSY, ("shutdown_reply", {"status": "ok", "restart": restart}), IDLE]


def test_the_exit_status_of_a_cell_is_that_of_the_process(scripted):
    """K6."""
    scripted.execute("exit 7")
    assert scripted.process.wait_for_end()[0] == 7


def test_sigterm_ends_the_kernel_during_a_cell(scripted):
    """K8: a launcher sends it when a shutdown takes too long; no cell can catch it."""
    begin_cell(scripted, "catch_everything 60")
    os.kill(scripted.process.pid, signal.SIGTERM)
    status, stderr = scripted.process.wait_for_end()
    assert status == -signal.SIGTERM
    assert stderr == ""
