"""jupyter_server with echokernel's websocket connection and kernel manager, by configuration."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor, wait

import pytest
from support import optional
from support.kernelspecs import handshake_metadata
from support.servers import NO_GATE, SCRIPTED, THIEF, WELCOMING, Server
from support.waits import poll_until

from echokernel.conformance.raw_client import RawClient
from echokernel.conformance.raw_messages import IDLE

optional.module("jupyter_server")

RESTARTS = 20
CELLS = 5
SCRIPTED_KERNEL = [sys.executable, *SCRIPTED]
RAW_XEUS = [sys.executable, "-m", "xpython_launcher", "-f", "{connection_file}", "--raw"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    started = Server(
        tmp_path_factory.mktemp("server"),
        "jupyter_server",
        "--log-level=DEBUG",
        # Long enough for a slow machine.
        "--WelcomeWebsocketConnection.welcome_timeout=10",
        "--WelcomeWebsocketConnection.resume_timeout=60",
        *WELCOMING,
    )
    started.kernelspec(
        "scripted",
        argv=SCRIPTED_KERNEL,
        metadata=handshake_metadata(),
        kernel_protocol_version="5.6",
    )
    # xeus advertises a welcome (5.6 in its reply) and sends it without the topic.
    started.kernelspec("xeus", argv=RAW_XEUS)
    yield started
    started.stop()


def outputs(frontend, count=CELLS):
    """Send all cells without waiting; return the messages of each between its busy and its idle."""
    msg_ids = [frontend.execute(f"say cell {number}") for number in range(count)]
    published = {msg_id: [] for msg_id in msg_ids}

    def complete(message):
        parent = message["parent_header"].get("msg_id")
        if parent in published and message["channel"] == "iopub":
            published[parent].append((message["msg_type"], message["content"]))
        return published[msg_ids[-1]][-1:] == [IDLE]

    frontend.receive_until(complete)
    return [[kind for kind, _ in published[msg_id]] for msg_id in msg_ids]


def receive_until_idle(frontend, msg_id):
    """Return the messages up to the end of a request, of any client."""
    return frontend.receive_until(
        lambda message: (
            # xeus's welcome has a parent header that is null.
            (message["parent_header"] or {}).get("msg_id") == msg_id
            and (message["msg_type"], message["content"]) == IDLE
        )
    )


COMPLETE = ["status", "execute_input", "stream", "status"]


def test_configuration_is_sufficient(server, kernel, connect):
    """S3: the server uses the welcome connection, and the first cell is complete."""
    kernel_id = kernel("scripted")
    frontend = connect(kernel_id)
    assert outputs(frontend) == [COMPLETE] * CELLS
    assert f"Connecting to kernel {kernel_id}" in server.log()
    assert f"Nudge: attempt 1 on kernel {kernel_id}" not in server.log()


@pytest.mark.timeout(300)
def test_cells_right_after_a_restart_are_complete(server, kernel, connect):
    """S2, L6: restart by REST, connect again and send all cells, as JupyterLab does."""
    kernel_id = kernel("scripted")
    frontend = connect(kernel_id)
    for _ in range(RESTARTS):
        status, _ = server.rest("POST", f"api/kernels/{kernel_id}/restart")
        assert status == 200
        frontend.close()
        frontend = connect(kernel_id, frontend.session)
        assert outputs(frontend) == [COMPLETE] * CELLS


def test_a_tab_that_reconnects_during_its_cell_receives_the_reply(server, kernel, connect):
    """S3: the server keeps the tab's sockets, also while another tab is open."""
    kernel_id = kernel("scripted")
    tab, another = connect(kernel_id), connect(kernel_id)
    another.comms()  # the reply proves its subscription
    msg_id = tab.execute("sleep 60")
    another.receive_output(msg_id)
    tab.close()
    tab = connect(kernel_id, tab.session)
    assert server.rest("POST", f"api/kernels/{kernel_id}/interrupt") == (204, None)
    [*_, reply] = tab.receive_until(lambda message: message["channel"] == "shell")
    assert reply["parent_header"]["msg_id"] == msg_id
    assert reply["content"]["ename"] == "KeyboardInterrupt"


def test_a_tab_that_reconnects_after_its_cell_receives_the_reply(server, kernel, connect):
    """S3: a reply that arrives while the tab is disconnected is kept."""
    kernel_id = kernel("scripted")
    tab, another = connect(kernel_id), connect(kernel_id)
    another.comms()  # the reply proves its subscription
    msg_id = tab.execute("sleep 60")
    another.receive_output(msg_id)
    tab.close()
    poll_until(
        lambda: server.get(f"api/kernels/{kernel_id}")["connections"] == 1,
        "the tab is disconnected",
    )
    assert server.rest("POST", f"api/kernels/{kernel_id}/interrupt") == (204, None)
    receive_until_idle(another, msg_id)
    tab = connect(kernel_id, tab.session)
    [*_, reply] = tab.receive_until(lambda message: message["channel"] == "shell")
    assert reply["parent_header"]["msg_id"] == msg_id
    assert outputs(tab, 1) == [COMPLETE]


def test_a_tab_reconnects_before_the_server_sees_its_disconnection(server, kernel, connect):
    """S3: the server closes the old connection, and the tab keeps its sockets."""
    kernel_id = kernel("scripted")
    tab, another = connect(kernel_id), connect(kernel_id)
    assert outputs(tab, 1) == [COMPLETE]
    reconnected = connect(kernel_id, tab.session)
    assert outputs(reconnected, 1) == [COMPLETE]
    tab.close()
    poll_until(
        lambda: server.get(f"api/kernels/{kernel_id}")["connections"] == 2,
        "one connection has ended",
    )
    assert outputs(reconnected, 1) == [COMPLETE]
    assert outputs(another, 1) == [COMPLETE]


def test_a_tab_reconnects_after_its_newer_connection_ended_first(server, kernel, connect):
    """S3: the older connection, whose loss the server did not see, ends last.

    The sockets that the server keeps of it are not complete: the newer connection had taken some.
    """
    kernel_id = kernel("scripted")
    tab = connect(kernel_id)
    assert outputs(tab, 1) == [COMPLETE]
    reconnected = connect(kernel_id, tab.session)
    assert outputs(reconnected, 1) == [COMPLETE]
    reconnected.close()
    tab.cut()
    poll_until(
        lambda: server.get(f"api/kernels/{kernel_id}")["connections"] == 0,
        "both connections have ended",
    )
    reconnected = connect(kernel_id, tab.session)
    assert outputs(reconnected, 1) == [COMPLETE]


@pytest.mark.timeout(300)
def test_tabs_that_send_during_a_restart_receive_replies_afterwards(server, kernel, connect):
    """L6: each tab reconnects while its sockets reconnect to the kernel.

    jupyter_server by itself connects a second socket with the same identity. A fifth of these tabs
    then receives no further reply.
    """
    kernel_id = kernel("scripted")
    tabs = [connect(kernel_id) for _ in range(4)]
    connect(kernel_id)  # otherwise the server keeps the sockets of the last tab
    for _ in range(5):
        with ThreadPoolExecutor() as threads:
            restart = threads.submit(server.rest, "POST", f"api/kernels/{kernel_id}/restart")
            while not restart.done():
                for tab in tabs:
                    tab.send("comm_info_request", {})
                wait([restart], timeout=0.03)
            assert restart.result()[0] == 200
        for number, tab in enumerate(tabs):
            tab.close()
            tabs[number] = connect(kernel_id, tab.session)
        for tab in tabs:
            assert outputs(tab, 1) == [COMPLETE]


def test_tabs_reconnect_to_a_kernel_with_a_new_port(server, kernel, connect):
    """L6: the shell port was stolen; control and stdin have their old ports."""
    kernel_id = kernel(server.scripted("robbed", THIEF, NO_GATE))
    tabs = [connect(kernel_id) for _ in range(2)]
    assert [outputs(tab, 1) for tab in tabs] == [[COMPLETE]] * 2
    ports = server.ports(kernel_id)
    assert server.rest("POST", f"api/kernels/{kernel_id}/restart")[0] == 200
    changed = {name for name, port in server.ports(kernel_id).items() if port != ports[name]}
    assert changed == {"shell_port"}
    for tab in tabs:
        tab.close()
    for tab in [connect(kernel_id, tab.session) for tab in tabs]:
        assert outputs(tab, 1) == [COMPLETE]
        msg_id = tab.send("kernel_info_request", {}, "control")
        tab.receive_until(lambda message: message["parent_header"].get("msg_id") == msg_id)  # noqa: B023


def test_a_tab_that_connects_during_a_cell_is_subscribed(server, kernel, connect):
    """W2, S2: the tab receives the rest of the cell; jupyter_server by itself can lose it."""
    kernel_id = kernel("scripted")
    first = connect(kernel_id)
    msg_id = first.execute("sleep_in_one_call 60")
    first.receive_output(msg_id)
    second = connect(kernel_id)  # returns before the server has connected its sockets
    second.receive_until(lambda message: message["msg_type"] == "iopub_welcome")
    assert server.rest("POST", f"api/kernels/{kernel_id}/interrupt") == (204, None)
    receive_until_idle(second, msg_id)


def test_messages_of_a_disconnected_time_are_replayed(server, kernel, connect, context):
    """S2: such messages are replayed once, in order, before later messages."""
    kernel_id = kernel("scripted")
    frontend = connect(kernel_id)
    assert outputs(frontend, 1) == [COMPLETE]
    frontend.close()
    poll_until(
        lambda: server.get(f"api/kernels/{kernel_id}")["connections"] == 0,
        "the tab is disconnected",
    )
    connection = json.loads((server.runtime / f"kernel-{kernel_id}.json").read_text())
    other = RawClient(context, connection)
    msg_id = other.execute("display_many 50")
    other.receive_reply(msg_id)
    other.close()
    reconnected = connect(kernel_id, frontend.session)
    messages = receive_until_idle(reconnected, msg_id)
    numbers = [
        int(message["content"]["data"]["text/plain"].split()[0])
        for message in messages
        if message["msg_type"] == "display_data"
    ]
    assert numbers == list(range(50))
    assert outputs(reconnected, 1) == [COMPLETE]


@pytest.mark.parametrize("name", ["python3", "xeus"])
def test_kernels_without_a_correct_welcome_work(name, kernel, connect):
    """S2: the frontend is connected, and receives its output."""
    kernel_id = kernel(name)
    for _ in range(2):
        frontend = connect(kernel_id)
        msg_id = frontend.execute("print('hello')")
        messages = receive_until_idle(frontend, msg_id)
        assert "".join(message["content"].get("text", "") for message in messages) == "hello\n"
        frontend.close()
