"""Comm messages on the wire: requests in both directions, unknown comms, waiting cells (C5, C6)."""

from __future__ import annotations

import pytest
from support.comm_clients import CommClient, Observer, start_comm_kernel
from support.waits import read_when_written

from echokernel.conformance.raw_messages import build_message


@pytest.fixture
def connection(tmp_path, start):
    return start_comm_kernel(tmp_path, start)


@pytest.fixture
def client(context, connection):
    client = CommClient(context, connection)
    yield client
    client.close()


def rpc(id_, method, **more):
    return {"jsonrpc": "2.0", "id": id_, "method": method, **more}


# --- the targets of the echo kernel -------------------------------------------------------------


@pytest.mark.parametrize("target", ["echo", "echo.persistent"])
def test_data_without_json_rpc_is_echoed(target, client):
    """C6: the same data and buffers return on the comm's own topic."""
    client.open("one", target)
    content = {"comm_id": "one", "data": {"a": [1, None, "ü"]}}
    msg_id, frames = build_message("comm_msg", content, key=client.key, session=client.session)
    client.shell.send_multipart([*frames, b"\0raw", b""])
    _, echo, _ = client.idle(msg_id)
    assert (echo["msg_type"], echo["content"]) == ("comm_msg", content)
    assert echo["buffers"] == [b"\0raw", b""]
    assert echo["topics"] == [b"comm-one"]


def test_requests_in_both_directions_are_answered(client):
    """C6: the kernel returns the frontend's answer as the result of ``ask``."""
    client.open("one")
    assert client.result("one", "echo", 1, {"b": 2}) == [1, {"b": 2}]
    ask_id = client.call("one", "ask", 5)
    request = client.asked("one")
    assert (request["jsonrpc"], request["method"], request["params"]) == ("2.0", "answer", [5])
    assert client.result("one", "status") == {"pending": 1, "failed": []}
    client.answer("one", request["id"], {"the": "answer"})
    assert client.receive_response(ask_id)["result"] == {"the": "answer"}
    assert client.result("one", "status") == {"pending": 0, "failed": []}


def test_an_error_of_the_frontend_ends_the_request(client):
    """C6: also a malformed error; ``ask`` returns the error unchanged."""
    client.open("one")
    for error in ({"code": 7, "message": "no"}, {"code": 7, "message": "no", "data": [1]}):
        ask_id = client.call("one", "ask")
        client.send_data("one", {"jsonrpc": "2.0", "id": client.asked("one")["id"], "error": error})
        assert client.receive_response(ask_id)["error"] == error
    ask_id = client.call("one", "ask")
    client.send_data("one", {"jsonrpc": "2.0", "id": client.asked("one")["id"], "error": "odd"})
    assert client.receive_response(ask_id)["error"]["data"] == "odd"


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (rpc(1, "nothing"), -32601),
        ({"jsonrpc": "2.0", "id": 1}, -32600),
        ({"jsonrpc": "2.0", "id": 1, "method": 5}, -32600),
        ({"jsonrpc": "1.0", "id": 1, "method": "echo"}, -32600),
        (rpc(1, "echo", params="text"), -32602),
        (rpc(1, "status", params=["unwanted"]), -32602),
    ],
)
def test_an_invalid_request_is_answered_with_an_error(request_, code, client):
    """C6: the codes are those of JSON-RPC."""
    client.open("one")
    client.send_data("one", request_)
    assert client.receive_response(1)["error"]["code"] == code


def test_a_method_that_raises_is_an_internal_error(client):
    """C6: the message has one line."""
    client.open("one", "failing")
    error = client.receive_response(client.call("one", "raise"))["error"]
    assert error == {"code": -32603, "message": "ZeroDivisionError: division by zero"}


def test_notifications_are_not_answered(client):
    """C6: also if they fail."""
    client.open("one")
    for method in ("echo", "nothing"):
        msg_id = client.send_data("one", {"jsonrpc": "2.0", "method": method, "params": []})
        assert [message["msg_type"] for message in client.idle(msg_id)] == ["status", "status"]


def test_a_batch_is_answered_with_one_message(client):
    """C6: after the last result, and without a result for the notification."""
    client.open("one")
    notification = {"jsonrpc": "2.0", "method": "echo"}
    client.send_data("one", [rpc(1, "ask"), notification, rpc(2, "echo", params=[3]), 5])
    client.answer("one", client.asked("one")["id"], "later")
    batch = client.next(lambda m: isinstance(m["content"].get("data"), list))["content"]["data"]
    assert batch[:2] == [
        {"jsonrpc": "2.0", "id": 1, "result": "later"},
        {"jsonrpc": "2.0", "id": 2, "result": [3]},
    ]
    assert (batch[2]["id"], batch[2]["error"]["code"]) == (None, -32600)
    assert len(batch) == 3


def test_a_comm_open_with_a_used_id_ends_the_requests_of_the_old_comm(client):
    """C6."""
    client.open("one")
    ask_id = client.call("one", "ask")
    client.asked("one")
    client.open("one")
    assert "another comm" in client.receive_response(ask_id)["error"]["message"]
    assert client.result("one", "echo", 1) == [1]


# --- unknown and closed comms -------------------------------------------------------------------


def test_a_message_to_an_unknown_comm_is_answered_with_comm_close(client):
    """C5: also to a closed comm. A comm_close is not answered."""
    client.open("one")
    msg_id = client.send("comm_close", {"comm_id": "one", "data": {}})
    assert len(client.idle(msg_id)) == 2
    for comm_id in ("one", "never-opened", "ünknown"):
        messages = client.idle(client.send_data(comm_id, {}))
        kinds = [message["msg_type"] for message in messages]
        assert kinds == ["status", "comm_close", "status"]
        assert messages[1]["content"] == {"comm_id": comm_id, "data": {}}
    msg_id = client.send("comm_close", {"comm_id": "one", "data": {}})
    assert len(client.idle(msg_id)) == 2


@pytest.mark.parametrize("target", ["unknown", "raising"])
def test_a_comm_open_whose_target_is_unknown_or_fails_is_answered_with_comm_close(target, client):
    """C5."""
    msg_id = client.send("comm_open", {"comm_id": "one", "target_name": target, "data": {}})
    assert "comm_close" in [message["msg_type"] for message in client.idle(msg_id)]
    assert client.comms() == set()


@pytest.mark.parametrize(
    ("kind", "content"),
    [
        ("comm_open", {"comm_id": 5, "target_name": "echo", "data": {}}),
        ("comm_open", {"comm_id": "a"}),
        ("comm_msg", {}),
        ("comm_msg", {"comm_id": [1]}),
        ("comm_close", {"comm_id": {}}),
        ("comm_msg", {"comm_id": "one"}),
        ("comm_msg", {"comm_id": "one", "data": "text"}),
    ],
)
def test_malformed_comm_messages_do_not_disturb_other_comms(kind, content, client):
    """K4."""
    client.open("one")
    client.idle(client.send(kind, content))
    assert client.result("one", "echo", 1) == [1]
    assert client.comms() == {"one"}


def test_an_answer_without_a_pending_request_is_dropped(client):
    """C5: a repeated answer, or an answer with an unknown id."""
    client.open("one")
    ask_id = client.call("one", "ask")
    id_ = client.asked("one")["id"]
    for _ in range(2):
        client.answer("one", id_, "first")
    client.answer("one", "unknown", "x")
    assert client.receive_response(ask_id)["result"] == "first"
    assert client.result("one", "status") == {"pending": 0, "failed": []}


def test_a_comm_close_of_the_frontend_ends_the_request(client, tmp_path):
    """C6."""
    client.idle(client.execute("open one"))
    outcome = tmp_path / "outcome"
    client.execute(f"ask_until_the_end {outcome}")
    client.asked("one")
    client.send("comm_close", {"comm_id": "one", "data": {}})
    assert read_when_written(outcome) == "CommDisconnected: the frontend has closed the comm"


def test_shutdown_ends_requests(client, tmp_path):
    """C6: before the process exits."""
    client.idle(client.execute("open one"))
    outcome = tmp_path / "outcome"
    client.execute(f"ask_until_the_end {outcome}")
    client.asked("one")
    msg_id = client.send("shutdown_request", {"restart": False}, "control")
    client.idle(msg_id)
    assert read_when_written(outcome) == "CommDisconnected: the kernel shuts down"


# --- while a cell waits -------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["ask", "ask_in_an_async_cell"])
class TestCellThatWaits:
    """C6: `request` in an async cell, `request_blocking` in a plain cell."""

    @pytest.fixture
    def cell(self, how, client):
        """Execute the waiting cell; return its msg_id."""
        client.idle(client.execute("open one"))
        return client.execute(how)

    def test_the_cell_receives_the_answer(self, cell, client):
        request = client.asked("one")
        client.answer("one", request["id"], 6)
        text = "".join(message["content"].get("text", "") for message in client.idle(cell))
        assert "answered 6" in text

    def test_other_comms_are_served_and_execute_requests_keep_their_order(self, cell, client):
        request = client.asked("one")
        client.execute("say first")
        client.open("two")
        assert client.result("two", "echo", 1) == [1]
        client.execute("say second")
        client.answer("one", request["id"], 6)
        lines = []
        while len(lines) < 3:
            text = client.next(lambda m: m["msg_type"] == "stream")["content"]["text"]
            lines += [line for line in text.splitlines() if line != "asking"]
        assert lines == ["answered 6", "first", "second"]

    def test_output_after_a_comm_message_belongs_to_the_cell(self, cell, client):
        request = client.asked("one")
        client.open("two")
        client.answer("one", request["id"], 6)
        message = client.next(lambda m: "answered" in m["content"].get("text", ""))
        assert message["parent_header"]["msg_id"] == cell

    def test_the_request_fails_when_all_clients_disconnect(self, cell, client, context, connection):
        """C1: also while the cell blocks the main thread."""
        observer = Observer(context, connection)
        client.asked("one")
        client.iopub.close()
        client.receive_reply(cell)  # the cell has ended
        observer.sees()
        observer.close()

    def test_the_cell_can_be_interrupted(self, cell, client):
        """K8."""
        client.asked("one")
        client.send("interrupt_request", {}, "control")
        assert client.receive_reply(cell)["content"]["ename"] == "KeyboardInterrupt"


def test_a_request_ends_at_the_timeout_that_the_caller_chose(client):
    """C5, C6: an answer that arrives afterwards is dropped."""
    client.idle(client.execute("open one"))
    for how in ("ask", "ask_in_an_async_cell"):
        msg_id = client.execute(f"{how} 0.05")
        request = client.asked("one")
        text = "".join(message["content"].get("text", "") for message in client.idle(msg_id))
        assert "CommTimeout answer: no response on the comm one within 0.05 s" in text
        client.idle(client.answer("one", request["id"], 6))


def test_a_request_in_a_thread_does_not_block_the_kernel(client):
    """C6."""
    client.idle(client.execute("open one"))
    client.idle(client.execute("ask_in_a_thread"))
    client.answer("one", client.asked("one")["id"], 6)
    client.next(lambda m: m["content"].get("text") == "thread 6\n")


def test_a_request_without_a_subscriber_fails_immediately(context, tmp_path, start):
    """C1: a subscription to the comm's own topic is sufficient."""
    # The comm must outlive the time without a subscriber, also on a slow machine.
    connection = start_comm_kernel(tmp_path, start, "--comm-grace-period=1000")
    client = CommClient(context, connection)
    client.idle(client.execute("open one"))
    client.iopub.unsubscribe(b"")
    client.iopub.subscribe(b"stream")
    client.iopub.subscribe(b"session.x")
    client.next(lambda m: m["content"] == {"subscription": "session.x"})
    client.execute("ask")
    message = client.next(lambda m: "CommDisconnected" in m["content"].get("text", ""))
    assert "no subscriber" in message["content"]["text"]
    client.iopub.subscribe(b"comm-one")
    client.next(lambda m: m["content"] == {"subscription": "comm-one"})
    client.execute("ask")
    client.answer("one", client.asked("one")["id"], 6)
    client.next(lambda m: "answered 6" in m["content"].get("text", ""))
    client.close()
