"""Messages over comms on the wire: both ways, to nobody, and while a cell waits (C5, C6)."""

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
    made = CommClient(context, connection)
    yield made
    made.close()


def rpc(id_, method, **more):
    return {"jsonrpc": "2.0", "id": id_, "method": method, **more}


# --- what the echo kernel's targets do ----------------------------------------------------------


@pytest.mark.parametrize("target", ["echo", "echo.persistent"])
def test_what_is_no_json_rpc_comes_back(target, client):
    """The same data and buffers, on the comm's own topic."""
    client.open("one", target)
    content = {"comm_id": "one", "data": {"a": [1, None, "ü"]}}
    msg_id, frames = build_message("comm_msg", content, key=client.key, session=client.session)
    client.shell.send_multipart([*frames, b"\0raw", b""])
    _, back, _ = client.idle(msg_id)
    assert (back["msg_type"], back["content"]) == ("comm_msg", content)
    assert back["buffers"] == [b"\0raw", b""]
    assert back["topics"] == [b"comm-one"]


def test_requests_both_ways(client):
    """C6: echo and ask; what the frontend answers is what it gets."""
    client.open("one")
    assert client.result("one", "echo", 1, {"b": 2}) == [1, {"b": 2}]
    asking = client.call("one", "ask", 5)
    asked = client.asked("one")
    assert (asked["jsonrpc"], asked["method"], asked["params"]) == ("2.0", "answer", [5])
    assert client.result("one", "status") == {"pending": 1, "failed": []}
    client.answer("one", asked["id"], {"the": "answer"})
    assert client.answer_to(asking)["result"] == {"the": "answer"}
    assert client.result("one", "status") == {"pending": 0, "failed": []}


def test_an_error_of_the_frontend_ends_the_request(client):
    """C6: whatever is wrong with the error itself; here it is handed on as it is."""
    client.open("one")
    for error in ({"code": 7, "message": "no"}, {"code": 7, "message": "no", "data": [1]}):
        asking = client.call("one", "ask")
        client.tell("one", {"jsonrpc": "2.0", "id": client.asked("one")["id"], "error": error})
        assert client.answer_to(asking)["error"] == error
    asking = client.call("one", "ask")
    client.tell("one", {"jsonrpc": "2.0", "id": client.asked("one")["id"], "error": "odd"})
    assert client.answer_to(asking)["error"]["data"] == "odd"


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
def test_requests_that_fail(request_, code, client):
    """C6: with JSON-RPC's codes."""
    client.open("one")
    client.tell("one", request_)
    assert client.answer_to(1)["error"]["code"] == code


def test_a_method_that_raises(client):
    """C6: an internal error, in one line."""
    client.open("one", "failing")
    error = client.answer_to(client.call("one", "raise"))["error"]
    assert error == {"code": -32603, "message": "ZeroDivisionError: division by zero"}


def test_notifications_are_not_answered(client):
    """C6: also those that fail."""
    client.open("one")
    for method in ("echo", "nothing"):
        msg_id = client.tell("one", {"jsonrpc": "2.0", "method": method, "params": []})
        assert [got["msg_type"] for got in client.idle(msg_id)] == ["status", "status"]


def test_a_batch(client):
    """C6: one message answers it, without the notification, when all are done."""
    client.open("one")
    notification = {"jsonrpc": "2.0", "method": "echo"}
    client.tell("one", [rpc(1, "ask"), notification, rpc(2, "echo", params=[3]), 5])
    client.answer("one", client.asked("one")["id"], "later")
    got = client.next(lambda m: isinstance(m["content"].get("data"), list))["content"]["data"]
    assert got[:2] == [
        {"jsonrpc": "2.0", "id": 1, "result": "later"},
        {"jsonrpc": "2.0", "id": 2, "result": [3]},
    ]
    assert (got[2]["id"], got[2]["error"]["code"]) == (None, -32600)
    assert len(got) == 3


def test_an_id_that_is_used_again(client):
    """C6: the requests over the comm that was there before end."""
    client.open("one")
    asking = client.call("one", "ask")
    client.asked("one")
    client.open("one")
    assert "another comm" in client.answer_to(asking)["error"]["message"]
    assert client.result("one", "echo", 1) == [1]


# --- comms that are not there -------------------------------------------------------------------


def test_a_message_to_no_comm(client):
    """C5: unknown or closed: comm_close says so. A comm_close is not answered."""
    client.open("one")
    msg_id = client.send("comm_close", {"comm_id": "one", "data": {}})
    assert len(client.idle(msg_id)) == 2
    for comm_id in ("one", "never-opened", "ünknown"):
        said = client.idle(client.tell(comm_id, {}))
        assert [got["msg_type"] for got in said] == ["status", "comm_close", "status"]
        assert said[1]["content"] == {"comm_id": comm_id, "data": {}}
    msg_id = client.send("comm_close", {"comm_id": "one", "data": {}})
    assert len(client.idle(msg_id)) == 2


@pytest.mark.parametrize("target", ["unknown", "raising"])
def test_a_target_that_is_unknown_or_fails(target, client):
    """C5."""
    msg_id = client.send("comm_open", {"comm_id": "one", "target_name": target, "data": {}})
    assert "comm_close" in [got["msg_type"] for got in client.idle(msg_id)]
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
def test_malformed_messages(kind, content, client):
    """K4: they disturb nobody."""
    client.open("one")
    client.idle(client.send(kind, content))
    assert client.result("one", "echo", 1) == [1]
    assert client.comms() == {"one"}


def test_an_answer_that_nobody_waits_for(client):
    """C5: late, a second one, or to nothing: dropped, and others are still answered."""
    client.open("one")
    asking = client.call("one", "ask")
    id_ = client.asked("one")["id"]
    for _ in range(2):
        client.answer("one", id_, "first")
    client.answer("one", "unheard-of", "x")
    assert client.answer_to(asking)["result"] == "first"
    assert client.result("one", "status") == {"pending": 0, "failed": []}


def test_the_frontend_closes_a_comm_that_is_asked_over(client, tmp_path):
    """C6: the request ends."""
    client.idle(client.execute("open one"))
    noted = tmp_path / "noted"
    client.execute(f"ask_until_the_end {noted}")
    client.asked("one")
    client.send("comm_close", {"comm_id": "one", "data": {}})
    assert read_when_written(noted) == "CommDisconnected: the frontend has closed the comm"


def test_shutdown_ends_requests(client, tmp_path):
    """C6: before the process ends."""
    client.idle(client.execute("open one"))
    noted = tmp_path / "noted"
    client.execute(f"ask_until_the_end {noted}")
    client.asked("one")
    msg_id = client.send("shutdown_request", {"restart": False}, "control")
    client.idle(msg_id)
    assert read_when_written(noted) == "CommDisconnected: the kernel shuts down"


# --- while a cell waits -------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["ask", "ask_in_an_async_cell"])
class TestACellThatAsks:
    """C6: `request` in an async cell, `request_blocking` in a plain one."""

    @pytest.fixture
    def asking(self, how, client):
        client.idle(client.execute("open one"))
        return client.execute(how)

    @staticmethod
    def said(client, msg_id):
        return "".join(got["content"].get("text", "") for got in client.idle(msg_id))

    def test_is_answered(self, asking, client):
        asked = client.asked("one")
        client.answer("one", asked["id"], 6)
        assert "answered 6" in self.said(client, asking)

    def test_other_comms_are_served_meanwhile_and_requests_keep_their_order(self, asking, client):
        asked = client.asked("one")
        client.execute("say first")
        client.open("two")
        assert client.result("two", "echo", 1) == [1]
        client.execute("say second")
        client.answer("one", asked["id"], 6)
        heard = []
        while len(heard) < 3:
            got = client.next(lambda m: m["msg_type"] == "stream")
            heard += [line for line in got["content"]["text"].splitlines() if line != "asking"]
        assert heard == ["answered 6", "first", "second"]

    def test_output_belongs_to_the_cell_after_a_comm_message(self, asking, client):
        asked = client.asked("one")
        client.open("two")
        client.answer("one", asked["id"], 6)
        got = client.next(lambda m: "answered" in m["content"].get("text", ""))
        assert got["parent_header"]["msg_id"] == asking

    def test_is_disconnected_when_everyone_leaves(self, asking, client, context, connection):
        """C1: also while the cell blocks the main thread."""
        onlooker = Observer(context, connection)
        client.asked("one")
        client.iopub.close()
        client.receive_reply(asking)  # the cell has ended
        onlooker.sees()
        onlooker.close()

    def test_is_interrupted(self, asking, client):
        client.asked("one")
        client.send("interrupt_request", {}, "control")
        assert client.receive_reply(asking)["content"]["ename"] == "KeyboardInterrupt"


def test_a_timeout_that_the_caller_chose(client):
    """C6: and the answer that comes afterwards is dropped (C5)."""
    client.idle(client.execute("open one"))
    for how in ("ask", "ask_in_an_async_cell"):
        msg_id = client.execute(f"{how} 0.05")
        asked = client.asked("one")
        text = "".join(got["content"].get("text", "") for got in client.idle(msg_id))
        assert "CommTimeout answer: no response on the comm one within 0.05 s" in text
        client.idle(client.answer("one", asked["id"], 6))


def test_a_request_in_a_thread(client):
    """C6: the thread waits, the kernel does not."""
    client.idle(client.execute("open one"))
    client.idle(client.execute("ask_in_a_thread"))
    client.answer("one", client.asked("one")["id"], 6)
    client.next(lambda m: m["content"].get("text") == "thread 6\n")


def test_a_request_that_nobody_can_hear(client, context, connection):
    """C1: it fails at once; who listens to the comm's own topic would hear it."""
    client.idle(client.execute("open one"))
    client.iopub.unsubscribe(b"")
    client.iopub.subscribe(b"stream")
    client.iopub.subscribe(b"session.x")
    client.next(lambda m: m["content"] == {"subscription": "session.x"})
    client.execute("ask")
    got = client.next(lambda m: "CommDisconnected" in m["content"].get("text", ""))
    assert "no subscriber" in got["content"]["text"]
    client.iopub.subscribe(b"comm-one")
    client.next(lambda m: m["content"] == {"subscription": "comm-one"})
    client.execute("ask")
    client.answer("one", client.asked("one")["id"], 6)
    client.next(lambda m: "answered 6" in m["content"].get("text", ""))
