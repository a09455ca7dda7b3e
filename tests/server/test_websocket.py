"""jupyter_server with our websocket connection and kernel manager, set by its configuration."""

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
        # Nobody is late on a slow machine.
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
    # It promises a welcome (5.6 in its reply) and sends it without the topic.
    started.kernelspec("xeus", argv=RAW_XEUS)
    yield started
    started.stop()


def outputs(frontend, count=CELLS):
    """Send all cells at once; return what each had between its busy and its idle."""
    wanted = [frontend.execute(f"say cell {number}") for number in range(count)]
    published = {msg_id: [] for msg_id in wanted}

    def complete(message):
        parent = message["parent_header"].get("msg_id")
        if parent in published and message["channel"] == "iopub":
            published[parent].append((message["msg_type"], message["content"]))
        return published[wanted[-1]][-1:] == [IDLE]

    frontend.receive_until(complete)
    return [[what for what, _ in published[msg_id]] for msg_id in wanted]


def hear_idle_of(frontend, msg_id):
    """Return what comes until the end of a request, whoever sent it."""
    return frontend.receive_until(
        lambda message: (
            # xeus's welcome has a parent header that is null.
            (message["parent_header"] or {}).get("msg_id") == msg_id
            and (message["msg_type"], message["content"]) == IDLE
        )
    )


COMPLETE = ["status", "execute_input", "stream", "status"]


def test_it_is_configured(server, kernel, connect):
    """S3: by configuration alone; the frontend has its first cell whole."""
    kernel_id = kernel("scripted")
    frontend = connect(kernel_id)
    assert outputs(frontend) == [COMPLETE] * CELLS
    assert f"Connecting to kernel {kernel_id}" in server.log()
    assert f"Nudge: attempt 1 on kernel {kernel_id}" not in server.log()


@pytest.mark.timeout(300)
def test_restart_and_run_all(server, kernel, connect):
    """S2, L6: as JupyterLab does it: restart by REST, connect again, send all cells at once."""
    kernel_id = kernel("scripted")
    frontend = connect(kernel_id)
    for _ in range(RESTARTS):
        status, _ = server.rest("POST", f"api/kernels/{kernel_id}/restart")
        assert status == 200
        frontend.close()
        frontend = connect(kernel_id, frontend.session)
        assert outputs(frontend) == [COMPLETE] * CELLS


def test_a_page_that_comes_back_while_its_cell_runs(server, kernel, connect):
    """W6: with another tab open; it gets the reply to what it had sent."""
    kernel_id = kernel("scripted")
    page, another = connect(kernel_id), connect(kernel_id)
    another.comms()  # answered: it is subscribed
    msg_id = page.execute("sleep 60")
    another.hear_output(msg_id)
    page.close()
    page = connect(kernel_id, page.session)
    assert server.rest("POST", f"api/kernels/{kernel_id}/interrupt") == (204, None)
    [*_, reply] = page.receive_until(lambda message: message["channel"] == "shell")
    assert reply["parent_header"]["msg_id"] == msg_id
    assert reply["content"]["ename"] == "KeyboardInterrupt"


def test_a_page_that_comes_back_after_its_cell_has_run(server, kernel, connect):
    """W6: with another tab open; the reply has come for it while it was away."""
    kernel_id = kernel("scripted")
    page, another = connect(kernel_id), connect(kernel_id)
    another.comms()  # answered: it is subscribed
    msg_id = page.execute("sleep 60")
    another.hear_output(msg_id)
    page.close()
    poll_until(
        lambda: server.get(f"api/kernels/{kernel_id}")["connections"] == 1, "the page is gone"
    )
    assert server.rest("POST", f"api/kernels/{kernel_id}/interrupt") == (204, None)
    hear_idle_of(another, msg_id)
    page = connect(kernel_id, page.session)
    [*_, reply] = page.receive_until(lambda message: message["channel"] == "shell")
    assert reply["parent_header"]["msg_id"] == msg_id
    assert outputs(page, 1) == [COMPLETE]


def test_a_page_whose_connection_was_lost_unnoticed(server, kernel, connect):
    """W6: the server closes the old one when the page comes again; the page keeps its sockets."""
    kernel_id = kernel("scripted")
    page, another = connect(kernel_id), connect(kernel_id)
    assert outputs(page, 1) == [COMPLETE]
    again = connect(kernel_id, page.session)
    assert outputs(again, 1) == [COMPLETE]
    page.close()
    poll_until(
        lambda: server.get(f"api/kernels/{kernel_id}")["connections"] == 2, "one page is gone"
    )
    assert outputs(again, 1) == [COMPLETE]
    assert outputs(another, 1) == [COMPLETE]


def test_a_page_whose_newer_connection_leaves_first(server, kernel, connect):
    """W6: the older one, lost unnoticed, is the last then, and what the server keeps of it lacks
    what the newer one had taken."""
    kernel_id = kernel("scripted")
    page = connect(kernel_id)
    assert outputs(page, 1) == [COMPLETE]
    again = connect(kernel_id, page.session)
    assert outputs(again, 1) == [COMPLETE]
    again.close()
    page.cut()
    poll_until(lambda: server.get(f"api/kernels/{kernel_id}")["connections"] == 0, "both are gone")
    again = connect(kernel_id, page.session)
    assert outputs(again, 1) == [COMPLETE]


@pytest.mark.timeout(300)
def test_pages_that_had_more_to_say_when_their_kernel_restarted(server, kernel, connect):
    """L6: each is heard when it comes back, whose sockets are reconnecting then.

    jupyter_server alone connects a second one by the same identity, and of these pages a fifth is
    never heard again.
    """
    kernel_id = kernel("scripted")
    pages = [connect(kernel_id) for _ in range(4)]
    connect(kernel_id)  # stays, or the server would keep the sockets of who goes last
    for _ in range(5):
        with ThreadPoolExecutor() as threads:
            restart = threads.submit(server.rest, "POST", f"api/kernels/{kernel_id}/restart")
            while not restart.done():
                for page in pages:
                    page.send("comm_info_request", {})
                wait([restart], timeout=0.03)
            assert restart.result()[0] == 200
        for number, page in enumerate(pages):
            page.close()
            pages[number] = connect(kernel_id, page.session)
        for page in pages:
            assert outputs(page, 1) == [COMPLETE]


def test_pages_come_back_to_a_kernel_with_another_port(server, kernel, connect):
    """L6: somebody took its shell port; control and stdin are where they were."""
    kernel_id = kernel(server.scripted("robbed", THIEF, NO_GATE))
    pages = [connect(kernel_id) for _ in range(2)]
    assert [outputs(page, 1) for page in pages] == [[COMPLETE]] * 2
    ports = server.ports(kernel_id)
    assert server.rest("POST", f"api/kernels/{kernel_id}/restart")[0] == 200
    changed = {name for name, port in server.ports(kernel_id).items() if port != ports[name]}
    assert changed == {"shell_port"}
    for page in pages:
        page.close()
    for page in [connect(kernel_id, page.session) for page in pages]:
        assert outputs(page, 1) == [COMPLETE]
        asked = page.send("kernel_info_request", {}, "control")
        page.receive_until(lambda message: message["parent_header"].get("msg_id") == asked)  # noqa: B023


def test_a_page_that_comes_while_the_kernel_is_busy(server, kernel, connect):
    """W2, S2: it hears the rest of the cell; jupyter_server alone lets it in unheard."""
    kernel_id = kernel("scripted")
    first = connect(kernel_id)
    msg_id = first.execute("sleep_in_one_call 60")
    first.hear_output(msg_id)
    second = connect(kernel_id)  # which returns before the server has its sockets
    second.receive_until(lambda message: message["msg_type"] == "iopub_welcome")
    assert server.rest("POST", f"api/kernels/{kernel_id}/interrupt") == (204, None)
    hear_idle_of(second, msg_id)


def test_what_was_published_while_nobody_was_there(server, kernel, connect, context):
    """S2: replayed before what comes later, in order, and nothing twice."""
    kernel_id = kernel("scripted")
    frontend = connect(kernel_id)
    assert outputs(frontend, 1) == [COMPLETE]
    frontend.close()
    poll_until(
        lambda: server.get(f"api/kernels/{kernel_id}")["connections"] == 0, "the page is gone"
    )
    connection = json.loads((server.runtime / f"kernel-{kernel_id}.json").read_text())
    other = RawClient(context, connection)
    msg_id = other.execute("display_many 50")
    other.receive_reply(msg_id)
    other.close()
    again = connect(kernel_id, frontend.session)
    got = hear_idle_of(again, msg_id)
    numbers = [
        int(message["content"]["data"]["text/plain"].split()[0])
        for message in got
        if message["msg_type"] == "display_data"
    ]
    assert numbers == list(range(50))
    assert outputs(again, 1) == [COMPLETE]


@pytest.mark.parametrize("name", ["python3", "xeus"])
def test_other_kernels(name, kernel, connect):
    """S2: whatever they promise and keep, the frontend is let in and hears."""
    kernel_id = kernel(name)
    for _ in range(2):
        frontend = connect(kernel_id)
        msg_id = frontend.execute("print('hello')")
        got = hear_idle_of(frontend, msg_id)
        assert "".join(message["content"].get("text", "") for message in got) == "hello\n"
        frontend.close()
