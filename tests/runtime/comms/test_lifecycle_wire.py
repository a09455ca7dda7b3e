"""Requests and comms after a subscriber disconnects, on the wire (C1-C4, C7)."""

from __future__ import annotations

import os
import signal

import pytest
from support.comm_clients import (
    ClientProcess,
    CommClient,
    Observer,
    TcpProxy,
    start_comm_kernel,
)
from support.waits import poll_until, read_when_written

from echokernel.conformance.raw_zmtp import ZmtpPeer

GRACE = "--comm-grace-period=0.3"
LONG_GRACE = "--comm-grace-period=8"
NEVER = "--comm-grace-period=1000"

GONE = "no subscriber receives comm messages any more"
SESSION_GONE = "the session that the comm belongs to has disconnected"


@pytest.fixture
def kernel(context, tmp_path, start):
    """Start a kernel with options; return its connection and an observer of its comms."""
    observers = []

    def start_one(*options):
        connection = start_comm_kernel(tmp_path, start, *options)
        observers.append(Observer(context, connection))
        return connection, observers[0]

    yield start_one
    for observer in observers:
        observer.close()


@pytest.fixture
def client_process(tmp_path):
    """Start clients in other processes: ``client_process(comm_id, target, *topics)``."""
    processes = []

    def start_one(*words):
        processes.append(ClientProcess(tmp_path / "connection.json", *words))
        return processes[-1]

    yield start_one
    for process in processes:
        process.end()


@pytest.fixture
def proxied_client(context):
    """A client whose IOPub goes through a proxy: ``proxied_client(connection)``."""
    opened = []

    def connect(connection):
        proxy = TcpProxy(connection["iopub_port"])
        client = CommClient(context, {**connection, "iopub_port": proxy.port})
        opened.extend((client, proxy))
        return client, proxy

    yield connect
    for resource in opened:
        resource.close()


def client_with_request(connection, context, comm_id, target="echo", topics=(b"",)):
    """Return a client over whose comm the kernel waits for a response."""
    client = CommClient(context, connection, topics)
    begin_request(client, comm_id, target)
    return client


def begin_request(client, comm_id, target="echo"):
    """Open a comm, and make the kernel wait for a response; return the id of its request."""
    client.send("comm_open", {"comm_id": comm_id, "target_name": target, "data": {}})
    client.call(comm_id, "ask")
    return client.asked(comm_id)["id"]


def failed_requests(connection, context, comm_id):
    """Wait, with a new client, until no request is pending over a comm; return the failed ones."""
    newcomer = CommClient(context, connection, (b"comm-",))

    def failed():
        status = newcomer.result(comm_id, "status")
        return None if status["pending"] else status["failed"]

    try:
        return poll_until(failed, "no request is pending")
    finally:
        newcomer.close()


# --- the last subscriber disconnects ------------------------------------------------------------


@pytest.mark.parametrize("topic", [b"", b"comm-"])
@pytest.mark.parametrize("how", ["unsubscribes", "closes"])
def test_requests_fail_when_the_last_subscriber_disconnects(how, topic, kernel, context, tmp_path):
    """C1, C2: requests fail immediately, and the comm stays for the grace period."""
    connection, observer = kernel(NEVER)
    client = CommClient(context, connection, (topic,))
    client.execute("open one")
    outcome = tmp_path / "outcome"
    client.execute(f"ask_until_the_end {outcome}")
    client.asked("one")
    if how == "closes":
        client.iopub.close()
    else:
        client.iopub.unsubscribe(topic)
    assert read_when_written(outcome) == f"CommDisconnected: {GONE}"
    assert observer.comms() == {"one"}
    client.close()


def test_the_comms_of_a_killed_client_close(kernel, client_process):
    """C1-C3: the comm of the killed process closes; its persistent comm stays."""
    _, observer = kernel(GRACE)
    first, second = client_process("one", "echo", ""), client_process("two", "echo.persistent", "")
    for process, comm_id in ((first, "one"), (second, "two")):
        process.line("answer")
        assert comm_id in observer.comms()
    first.end()
    second.end()
    observer.sees("two")


def test_requests_to_a_killed_client_fail(kernel, client_process, context):
    """C1, C3: also over a persistent comm, and before the grace period is over."""
    connection, _ = kernel(NEVER)
    client = client_process("one", "echo.persistent", "")
    client.line("answer")
    client.end()
    assert failed_requests(connection, context, "one") == [{"method": "answer", "reason": GONE}]


def test_requests_fail_although_another_subscriber_connects_at_the_same_time(
    kernel, client_process, context, tmp_path
):
    """C1: libzmq reports the new subscription before the end of the previous one."""
    connection, observer = kernel(NEVER)
    newcomer = ZmtpPeer(connection["iopub_port"])
    client = client_process("one", "echo.persistent", "")
    client.line("answer")
    observer.execute(f"note_pid {tmp_path / 'pid'}")
    pid = int(read_when_written(tmp_path / "pid"))
    os.kill(pid, signal.SIGSTOP)  # the kernel then finds both reports together
    client.end()
    newcomer.send(b"\1comm-")
    os.kill(pid, signal.SIGCONT)
    assert failed_requests(connection, context, "one") == [{"method": "answer", "reason": GONE}]
    newcomer.close()


def test_a_late_message_to_a_closed_comm_is_answered_with_comm_close(kernel, context):
    """C2, C5: the client reconnects after the grace period."""
    connection, observer = kernel(GRACE)
    client_with_request(connection, context, "one").close()
    observer.sees()
    late = CommClient(context, connection)
    late.send_data("one", {})
    late.closed("one")
    late.close()


@pytest.mark.parametrize("option", ["--no-comm-lifecycle", "--CommKernel.comm_lifecycle=False"])
def test_the_comm_lifecycle_can_be_switched_off(option, kernel, context, proxied_client):
    """C1, C2: no request fails then; a late answer of another client is accepted."""
    connection, _ = kernel(option)
    client, proxy = proxied_client(connection)
    id_ = begin_request(client, "one")
    proxy.cut(accept_new=False)
    newcomer = CommClient(context, connection)
    assert newcomer.result("one", "status") == {"pending": 1, "failed": []}
    newcomer.answer("one", id_, 1)
    assert newcomer.result("one", "status") == {"pending": 0, "failed": []}
    newcomer.close()


# --- a connection that is interrupted -----------------------------------------------------------


def test_a_comm_survives_a_reconnection_within_the_grace_period(kernel, context, proxied_client):
    """C2: an unsubscribe and a subscribe: requests fail, the comm stays open."""
    connection, _ = kernel(LONG_GRACE)
    client, proxy = proxied_client(connection)
    client.open("one")
    client.call("one", "ask")
    client.asked("one")
    proxy.cut(accept_new=True)
    client.next(lambda m: m["content"] == {"subscription": ""})  # reconnected
    # When the comm of a later disconnect closes, the first comm's grace period is over, too.
    later = CommClient(context, connection, (b"session.later", b"kernel."), "later")
    later.open("later")
    later.close()
    client.closed("later")
    assert client.comms() == {"one"}
    status = client.result("one", "status")
    assert status == {"pending": 0, "failed": [{"method": "answer", "reason": GONE}]}


def test_a_comm_closes_before_a_reconnection_after_the_grace_period(kernel, proxied_client):
    """C2, C5."""
    connection, observer = kernel(GRACE)
    client, proxy = proxied_client(connection)
    client.open("one")
    proxy.cut(accept_new=False)
    observer.sees()
    proxy.open()
    client.next(lambda m: m["content"] == {"subscription": ""})
    client.send_data("one", {})
    client.closed("one")


def test_a_stopped_client_keeps_its_comm_and_loses_nothing(kernel, client_process, context):
    """C1: it receives every message when it continues, and its comm is open."""
    connection, _ = kernel(GRACE, "--iopub-keepalive=1,1,1")
    client = client_process("one", "echo", "comm-", "session.stopped")
    client.line("answer")
    os.kill(client.pid, signal.SIGSTOP)
    other = CommClient(context, connection)
    for number in range(1, 501):
        other.send_data("one", {"number": number})
    other.next(lambda m: m["content"].get("data") == {"number": 500})
    # Longer than keepalive and grace period together, by the kernel's own clock.
    other.idle(other.execute("sleep 4"))
    os.kill(client.pid, signal.SIGCONT)
    assert client.line("500") == [str(number) for number in range(1, 500)]
    assert other.comms() == {"one"}
    assert other.result("one", "status") == {"pending": 1, "failed": []}
    other.close()


# --- one of two clients disconnects -------------------------------------------------------------


def test_a_client_without_a_presence_topic_keeps_its_comms(kernel, client_process, context):
    """C7: its disconnect changes nothing, for its own comms and for the comms of others."""
    connection, _ = kernel(GRACE)
    remaining = CommClient(context, connection)
    remaining.open("a")
    leaving = client_process("b", "echo", "")
    leaving.line("answer")
    present = client_process("present", "echo", "session.present", "comm-")
    present.line("answer")
    leaving.end()
    present.end()
    remaining.closed("present")  # it disconnected later, and its grace period is over
    assert remaining.comms() == {"a", "b"}
    assert remaining.result("b", "status") == {"pending": 1, "failed": []}
    remaining.close()


@pytest.mark.parametrize("others", ["stay", "are not there"])
def test_a_comm_open_that_is_handled_after_its_client_disconnected(
    others, kernel, context, tmp_path
):
    """C2, C4: the message waits behind a cell; the comm ends like an earlier comm of the client."""
    connection, observer = kernel(GRACE)
    remaining = CommClient(context, connection, (b"" if others == "stay" else b"stream",))
    leaving = CommClient(context, connection, (b"comm-", b"session.leaving"), session="leaving")
    gate = tmp_path / "gate"
    remaining.execute(f"wait_for {gate}")
    remaining.next(lambda message: message["content"].get("text") == "asleep\n")
    for name, target in (("late", "echo"), ("kept", "echo.persistent")):
        leaving.send("comm_open", {"comm_id": name, "target_name": target, "data": {}})
    leaving.iopub.close()
    # The kernel may handle the disconnect before or after the comm_open; mostly before.
    assert observer.comms() == set()
    gate.touch()
    poll_until(lambda: "kept" in observer.comms(), "both comms have been opened")
    observer.sees("kept")
    leaving.close()
    remaining.close()


@pytest.mark.parametrize("target", ["echo", "echo.persistent"])
def test_the_comms_of_a_session_close_when_it_disconnects(target, kernel, client_process, context):
    """C3, C4: exactly its requests fail, and comm_close is published; a persistent comm stays."""
    connection, _ = kernel("--comm-grace-period=10")
    remaining = CommClient(context, connection)
    remaining.open("a")
    remaining.call("a", "ask")
    remaining.asked("a")
    leaving = client_process("b", target, "", "session.leaving")
    leaving.line("answer")
    leaving.end()
    failed = {"method": "answer", "reason": SESSION_GONE}
    poll_until(lambda: remaining.result("b", "status")["failed"] == [failed], "the request failed")
    if target == "echo":
        closed = remaining.closed("b")
        assert closed["parent_header"] == {}, "the comm_close belongs to no request"
        assert closed["topics"] == [b"comm-b"]
        assert remaining.comms() == {"a"}
    else:
        assert remaining.comms() == {"a", "b"}
    assert remaining.result("a", "status") == {"pending": 1, "failed": []}
    remaining.close()


def test_a_comm_that_the_kernel_opens_belongs_to_the_session_of_the_request(kernel, context):
    """C4: it closes like the comms that the session opened itself."""
    connection, _ = kernel(GRACE)
    remaining = CommClient(context, connection)
    leaving = CommClient(context, connection, (b"session.leaving", b"kernel."), "leaving")
    for client, comm_id in ((leaving, "b"), (remaining, "a")):
        remaining.idle(client.execute(f"open {comm_id}"))
    leaving.close()
    remaining.closed("b")
    assert remaining.comms() == {"a"}
    remaining.close()


# --- unauthenticated peers ----------------------------------------------------------------------


def test_an_unauthenticated_peer_cannot_disconnect_others(kernel, context):
    """C1: libzmq reports its unsubscribe like the last one; the kernel ignores it."""
    connection, _ = kernel(GRACE)
    client = client_with_request(connection, context, "one", topics=(b"", b"session.mine"))
    raw = ZmtpPeer(connection["iopub_port"])
    for topic in (b"", b"session.mine"):
        raw.send(b"\0" + topic)
    raw.send(b"\1forged")
    client.next(lambda m: m["content"] == {"subscription": "forged"})  # after both unsubscribes
    assert client.result("one", "status") == {"pending": 1, "failed": []}
    raw.close()
    client.close()


# --- an answer that has arrived -----------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 1_000_000])
def test_an_answer_in_the_queue_is_delivered(size, kernel, context, tmp_path, proxied_client):
    """C1: an answer that arrived before the disconnect counts, even behind a long cell."""
    connection, observer = kernel(NEVER)
    client, proxy = proxied_client(connection)
    begin_request(client, "one", "echo.persistent")
    client.call("one", "ask")
    id_ = client.asked("one")["id"]
    go_on = tmp_path / "go on"
    client.execute(f"wait_for {go_on}")
    client.next(lambda m: m["content"].get("text") == "asleep\n")
    client.execute("say later")
    client.answer("one", id_, "x" * size)
    client.comms()  # the same network thread has sent the answer before
    proxy.cut(accept_new=False)
    observer.comms()
    go_on.touch()
    failed = failed_requests(connection, context, "one")
    assert failed == [{"method": "answer", "reason": GONE}], (
        "only the request without an answer must fail"
    )


# --- many comms, and handlers -------------------------------------------------------------------


def test_cells_run_while_ten_thousand_comms_close(kernel, context, tmp_path):
    """C2: all comms are closed, and a cell does not wait for the last of them."""
    connection, observer = kernel(GRACE)
    count, gate = 10_000, tmp_path / "gate"
    owner = CommClient(context, connection, (b"session.many", b"kernel."), "many")
    owner.idle(owner.execute(f"open_many {count} {gate}"), timeout=60)
    assert len(observer.comms()) == count
    client = CommClient(context, connection, (b"", b"kernel."))
    owner.close()
    client.closed("many-0")
    msg_id = client.execute("count_closed")
    client.comms()  # the same network thread has sent the execute before
    gate.touch()
    client.receive_reply(msg_id)
    text = client.next(lambda m: m["msg_type"] == "stream")["content"]["text"]
    assert int(text) < count, "the cell waited until all comms were closed"
    client.closed(f"many-{count - 1}")
    assert client.comms() == set()
    client.close()


def test_a_close_handler_that_raises_does_not_keep_other_comms_open(kernel, context):
    """C2: the error is logged, the other comms close, and the kernel keeps running."""
    connection, observer = kernel(GRACE)
    client = CommClient(context, connection)
    for comm_id, target in (("a", "failing"), ("b", "failing"), ("c", "echo")):
        client.open(comm_id, target)
    client.close()
    observer.sees()
    observer.idle(observer.execute("say alive"))


def test_a_subscriber_of_one_comm_keeps_only_that_comm_open(kernel, context):
    """C1, C2."""
    connection, observer = kernel(GRACE)
    client = CommClient(context, connection, (b"comm-",))
    narrow = CommClient(context, connection, (b"comm-kept",))
    for comm_id in ("kept", "other"):
        client.send("comm_open", {"comm_id": comm_id, "target_name": "echo", "data": {}})
        client.result(comm_id, "echo")
    client.close()
    observer.sees("kept")
    assert narrow.result("kept", "echo", 1) == [1]
    narrow.close()
    observer.sees()
