"""What ends when a subscriber leaves, on the wire (C1-C4, C7)."""

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
    """Start a kernel with options; return how to connect, and who looks on."""
    made = []

    def start_one(*options):
        connection = start_comm_kernel(tmp_path, start, *options)
        made.append(Observer(context, connection))
        return connection, made[0]

    yield start_one
    for each in made:
        each.close()


@pytest.fixture
def apart(tmp_path):
    """Start clients in other processes: ``apart(comm_id, target, *topics)``."""
    made = []

    def start_one(*words):
        made.append(ClientProcess(tmp_path / "connection.json", *words))
        return made[-1]

    yield start_one
    for each in made:
        each.end()


@pytest.fixture
def dropping(context):
    """A client whose IOPub goes through a proxy: ``dropping(connection)``."""
    made = []

    def connect(connection):
        proxy = TcpProxy(connection["iopub_port"])
        client = CommClient(context, {**connection, "iopub_port": proxy.port})
        made.extend((client, proxy))
        return client, proxy

    yield connect
    for each in made:
        each.close()


def ready_to_fail(connection, context, comm_id, target="echo", topics=(b"",)):
    """Return a client over whose comm the kernel waits for an answer."""
    client = CommClient(context, connection, topics)
    begin_to_ask(client, comm_id, target)
    return client


def begin_to_ask(client, comm_id, target="echo"):
    """Open a comm, and let the kernel wait for an answer; return the id of its request."""
    client.send("comm_open", {"comm_id": comm_id, "target_name": target, "data": {}})
    client.call(comm_id, "ask")
    return client.asked(comm_id)["id"]


def failed_requests(connection, context, comm_id):
    """Wait, as a newcomer, until no request is pending over a comm; return those that failed."""
    newcomer = CommClient(context, connection, (b"comm-",))

    def failed():
        status = newcomer.result(comm_id, "status")
        return None if status["pending"] else status["failed"]

    try:
        return poll_until(failed, "the requests have ended")
    finally:
        newcomer.close()


# --- the last one leaves ------------------------------------------------------------------------


@pytest.mark.parametrize("topic", [b"", b"comm-"])
@pytest.mark.parametrize("how", ["unsubscribes", "closes"])
def test_politely(how, topic, kernel, context, tmp_path):
    """C1, C2: requests fail at once, though the comm stays for the grace period."""
    connection, onlooker = kernel(NEVER)
    client = CommClient(context, connection, (topic,))
    client.execute("open one")
    noted = tmp_path / "noted"
    client.execute(f"ask_until_the_end {noted}")
    client.asked("one")
    if how == "closes":
        client.iopub.close()
    else:
        client.iopub.unsubscribe(topic)
    assert read_when_written(noted) == f"CommDisconnected: {GONE}"
    assert onlooker.comms() == {"one"}
    client.close()


def test_by_being_killed(kernel, apart):
    """C1, C2: a process that is gone; its comm closes, the persistent one stays (C3)."""
    _, onlooker = kernel(GRACE)
    first, second = apart("one", "echo", ""), apart("two", "echo.persistent", "")
    for each, comm_id in ((first, "one"), (second, "two")):
        each.line("answer")
        assert comm_id in onlooker.comms()
    first.end()
    second.end()
    onlooker.sees("two")


def test_requests_of_a_killed_process_fail(kernel, apart, context):
    """C1, C3: also over a persistent comm, and without a grace period."""
    connection, _ = kernel(NEVER)
    client = apart("one", "echo.persistent", "")
    client.line("answer")
    client.end()
    assert failed_requests(connection, context, "one") == [{"method": "answer", "reason": GONE}]


def test_who_comes_in_the_moment_in_which_the_last_one_goes(kernel, apart, context, tmp_path):
    """C1: libzmq reports the newcomer first; yet nobody had been left."""
    connection, onlooker = kernel(NEVER)
    newcomer = ZmtpPeer(connection["iopub_port"])
    client = apart("one", "echo.persistent", "")
    client.line("answer")
    onlooker.execute(f"note_pid {tmp_path / 'pid'}")
    pid = int(read_when_written(tmp_path / "pid"))
    os.kill(pid, signal.SIGSTOP)  # so it finds both at once
    client.end()
    newcomer.send(b"\1comm-")
    os.kill(pid, signal.SIGCONT)
    assert failed_requests(connection, context, "one") == [{"method": "answer", "reason": GONE}]
    newcomer.close()


def test_a_comm_that_is_closed_is_gone(kernel, context):
    """C2, C5: who comes back late, and uses it, is told."""
    connection, onlooker = kernel(GRACE)
    ready_to_fail(connection, context, "one").close()
    onlooker.sees()
    late = CommClient(context, connection)
    late.tell("one", {})
    late.closed("one")
    late.close()


@pytest.mark.parametrize("option", ["--no-comm-lifecycle", "--CommKernel.comm_lifecycle=False"])
def test_the_policy_can_be_switched_off(option, kernel, context, dropping):
    """C1, C2: then nothing fails; an answer that comes later, from another, is still taken."""
    connection, _ = kernel(option)
    client, proxy = dropping(connection)
    id_ = begin_to_ask(client, "one")
    proxy.cut(let_in=False)
    newcomer = CommClient(context, connection)
    assert newcomer.result("one", "status") == {"pending": 1, "failed": []}
    newcomer.answer("one", id_, 1)
    assert newcomer.result("one", "status") == {"pending": 0, "failed": []}
    newcomer.close()


# --- a connection that drops --------------------------------------------------------------------


def test_it_comes_back_within_the_grace_period(kernel, context, dropping):
    """C2: a leave and a join: requests fail, the comm stays open beyond the grace period."""
    connection, _ = kernel(LONG_GRACE)
    client, proxy = dropping(connection)
    client.open("one")
    client.call("one", "ask")
    client.asked("one")
    proxy.cut(let_in=True)
    client.next(lambda m: m["content"] == {"subscription": ""})  # it is back
    # Another comm, left later, closes: then the first one's grace period is over, too.
    later = CommClient(context, connection, (b"session.later", b"kernel."), "later")
    later.open("later")
    later.close()
    client.closed("later")
    assert client.comms() == {"one"}
    status = client.result("one", "status")
    assert status == {"pending": 0, "failed": [{"method": "answer", "reason": GONE}]}


def test_it_comes_back_after_the_grace_period(kernel, dropping):
    """C2, C5."""
    connection, onlooker = kernel(GRACE)
    client, proxy = dropping(connection)
    client.open("one")
    proxy.cut(let_in=False)
    onlooker.sees()
    proxy.open()
    client.next(lambda m: m["content"] == {"subscription": ""})
    client.tell("one", {})
    client.closed("one")


def test_a_client_that_is_stopped_for_a_while(kernel, apart, context):
    """C1: it hears everything when it goes on, and its comm is there."""
    connection, _ = kernel(GRACE, "--iopub-keepalive=1,1,1")
    client = apart("one", "echo", "comm-", "session.stopped")
    client.line("answer")
    os.kill(client.pid, signal.SIGSTOP)
    other = CommClient(context, connection)
    for number in range(1, 501):
        other.tell("one", {"number": number})
    other.next(lambda m: m["content"].get("data") == {"number": 500})
    # Longer than the keepalive and the grace period take, by the kernel's own clock.
    other.idle(other.execute("sleep 4"))
    os.kill(client.pid, signal.SIGCONT)
    assert client.line("500") == [str(number) for number in range(1, 500)]
    assert other.comms() == {"one"}
    assert other.result("one", "status") == {"pending": 1, "failed": []}
    other.close()


# --- one of two ---------------------------------------------------------------------------------


def test_one_of_two_without_a_presence_topic(kernel, apart, context):
    """C7: nothing changes, neither for its own comms nor for the others'."""
    connection, _ = kernel(GRACE)
    stays = CommClient(context, connection)
    stays.open("mine")
    leaves = apart("theirs", "echo", "")
    leaves.line("answer")
    present = apart("present", "echo", "session.present", "comm-")
    present.line("answer")
    leaves.end()
    present.end()
    stays.closed("present")  # it left later, and its grace period is over
    assert stays.comms() == {"mine", "theirs"}
    assert stays.result("theirs", "status") == {"pending": 1, "failed": []}
    stays.close()


@pytest.mark.parametrize("others", ["stay", "are not there"])
def test_a_comm_open_that_is_handled_after_its_client_has_left(others, kernel, context, tmp_path):
    """C2, C4: it waited behind a cell; the comm ends as if it had been there before."""
    connection, onlooker = kernel(GRACE)
    stays = CommClient(context, connection, (b"" if others == "stay" else b"stream",))
    leaves = CommClient(context, connection, (b"comm-", b"session.them"), session="them")
    gate = tmp_path / "gate"
    stays.execute(f"wait_for {gate}")
    stays.next(lambda message: message["content"].get("text") == "asleep\n")
    for name, target in (("late", "echo"), ("kept", "echo.persistent")):
        leaves.send("comm_open", {"comm_id": name, "target_name": target, "data": {}})
    leaves.iopub.close()
    # The kernel may act upon the leave first or last; here it mostly is first.
    assert onlooker.comms() == set()
    gate.touch()
    poll_until(lambda: "kept" in onlooker.comms(), "both have been opened")
    onlooker.sees("kept")
    leaves.close()
    stays.close()


@pytest.mark.parametrize("target", ["echo", "echo.persistent"])
def test_one_of_two_with_a_presence_topic(target, kernel, apart, context):
    """C4: exactly its comms: requests fail, comm_close is published; others keep theirs."""
    connection, _ = kernel("--comm-grace-period=10")
    stays = CommClient(context, connection)
    stays.open("mine")
    stays.call("mine", "ask")
    stays.asked("mine")
    leaves = apart("theirs", target, "", "session.them")
    leaves.line("answer")
    leaves.end()
    failed = {"method": "answer", "reason": SESSION_GONE}
    poll_until(lambda: stays.result("theirs", "status")["failed"] == [failed], "it has failed")
    if target == "echo":
        closed = stays.closed("theirs")
        assert closed["parent_header"] == {}, "it belongs to no request"
        assert closed["topics"] == [b"comm-theirs"]
        assert stays.comms() == {"mine"}
    else:
        assert stays.comms() == {"mine", "theirs"}  # C3
    assert stays.result("mine", "status") == {"pending": 1, "failed": []}
    stays.close()


def test_a_comm_that_the_kernel_opened_in_a_sessions_request(kernel, context):
    """C4: it belongs to that session, as the one that it opened itself."""
    connection, _ = kernel(GRACE)
    stays = CommClient(context, connection)
    leaves = CommClient(context, connection, (b"session.them", b"kernel."), "them")
    for client, comm_id in ((leaves, "theirs"), (stays, "mine")):
        stays.idle(client.execute(f"open {comm_id}"))
    leaves.close()
    stays.closed("theirs")
    assert stays.comms() == {"mine"}
    stays.close()


# --- strangers ----------------------------------------------------------------------------------


def test_a_stranger_cannot_send_others_away(kernel, context):
    """C1: libzmq reports its unsubscription as the last one; it counts for nobody."""
    connection, _ = kernel(GRACE)
    client = ready_to_fail(connection, context, "one", topics=(b"", b"session.mine"))
    raw = ZmtpPeer(connection["iopub_port"])
    for topic in (b"", b"session.mine"):
        raw.send(b"\0" + topic)
    raw.send(b"\1forged")
    client.next(lambda m: m["content"] == {"subscription": "forged"})  # they have come before it
    assert client.result("one", "status") == {"pending": 1, "failed": []}
    raw.close()
    client.close()


# --- the answer that is already there -----------------------------------------------------------


@pytest.mark.parametrize("size", [1, 1_000_000])
def test_an_answer_in_the_queue_is_delivered(size, kernel, context, tmp_path, dropping):
    """C1: the request whose answer came before the leave does not fail, behind a long cell too."""
    connection, onlooker = kernel(NEVER)
    client, proxy = dropping(connection)
    begin_to_ask(client, "one", "echo.persistent")
    client.call("one", "ask")
    id_ = client.asked("one")["id"]
    go_on = tmp_path / "go on"
    client.execute(f"wait_for {go_on}")
    client.next(lambda m: m["content"].get("text") == "asleep\n")
    client.execute("say later")
    client.answer("one", id_, "x" * size)
    client.comms()  # by the same network thread: the answer is on its way
    proxy.cut(let_in=False)
    onlooker.comms()
    go_on.touch()
    failed = failed_requests(connection, context, "one")
    assert failed == [{"method": "answer", "reason": GONE}], "the other one, without an answer"


# --- many, and handlers -------------------------------------------------------------------------


def test_ten_thousand_at_once(kernel, context, tmp_path):
    """C2: all are closed, and executes are served meanwhile."""
    connection, onlooker = kernel(GRACE)
    count, gate = 10_000, tmp_path / "gate"
    owner = CommClient(context, connection, (b"session.many", b"kernel."), "many")
    owner.idle(owner.execute(f"open_many {count} {gate}"), timeout=60)
    assert len(onlooker.comms()) == count
    client = CommClient(context, connection, (b"", b"kernel."))
    owner.close()
    client.closed("many-0")
    msg_id = client.execute("count_closed")
    client.comms()  # by the same network thread: the execute is on its way
    gate.touch()
    client.receive_reply(msg_id)
    text = client.next(lambda m: m["msg_type"] == "stream")["content"]["text"]
    assert int(text) < count, "the cell did not wait for the last of them"
    client.closed(f"many-{count - 1}")
    assert client.comms() == set()
    client.close()


def test_a_close_handler_that_raises(kernel, context):
    """C2: logged, and the others are closed; the kernel lives."""
    connection, onlooker = kernel(GRACE)
    client = CommClient(context, connection)
    for comm_id, target in (("a", "failing"), ("b", "failing"), ("c", "echo")):
        client.open(comm_id, target)
    client.close()
    onlooker.sees()
    onlooker.idle(onlooker.execute("say alive"))


def test_the_topics_of_one_comm(kernel, context):
    """C1: who listens to one comm alone does not keep the others."""
    connection, onlooker = kernel(GRACE)
    client = CommClient(context, connection, (b"comm-",))
    narrow = CommClient(context, connection, (b"comm-kept",))
    for comm_id in ("kept", "other"):
        client.send("comm_open", {"comm_id": comm_id, "target_name": "echo", "data": {}})
        client.result(comm_id, "echo")
    client.close()
    onlooker.sees("kept")
    assert narrow.result("kept", "echo", 1) == [1]
    narrow.close()
    onlooker.sees()
