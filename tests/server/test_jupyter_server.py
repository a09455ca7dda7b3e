"""A real jupyter_server, by REST and websocket, on kernels that were started by a handshake.

The tests run no code of the launcher: the server's process finds the provisioner in the kernelspec,
and the tests observe the kernel's process from outside.
"""

import os
import sys
from concurrent.futures import ThreadPoolExecutor, wait

import psutil
import pytest
from support.kernelspecs import handshake_metadata
from support.servers import (
    CAUSE,
    NO_GATE,
    SCRIPTED,
    SPEAKS_5_6,
    THIEF,
    Server,
    Websocket,
    websocket,
)
from support.waits import DEADLINE, poll_until


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    started = Server(tmp_path_factory.mktemp("server"), "jupyter_server")
    started.scripted()
    yield started
    started.stop()


def echoed(text):
    return [
        ("execute_input", {"code": text, "execution_count": 1}),
        ("stream", {"name": "stdout", "text": text}),
    ]


def test_start_execute_and_shut_down(server, kernel, connect):
    """L1, L5: REST and a websocket are sufficient; no process and no file remains."""
    kernel_id = kernel()
    process = server.process(kernel_id)
    assert not os.path.exists(process.cmdline()[-1]), "removed after the receipt"
    assert server.files() == [f"kernel-{kernel_id}.json"]
    frontend = connect(kernel_id)
    assert frontend.run_cell("hello") == echoed("hello")
    assert server.rest("DELETE", f"api/kernels/{kernel_id}") == (204, None)
    assert not process.is_running()
    assert server.files() == []
    assert server.get("api/kernels") == []


# --- restarts -----------------------------------------------------------------------------------


def test_websockets_stay_connected_after_a_restart(server, kernel, connect):
    """L6: a restart is a new handshake with the same ports; both websockets are welcomed again."""
    kernel_id = kernel("scripted")
    frontend, another = connect(kernel_id), connect(kernel_id)
    assert echoes_line(frontend, "before")
    another.comms()  # the reply proves its subscription
    for _ in range(2):
        old, ports = server.process(kernel_id), server.ports(kernel_id)
        old_file = old.cmdline()[-1]
        status, model = server.rest("POST", f"api/kernels/{kernel_id}/restart")
        assert (status, model["id"]) == (200, kernel_id)
        assert not old.is_running()
        assert server.process(kernel_id).cmdline()[-1] != old_file, "a new startup file"
        assert server.ports(kernel_id) == ports
        for connected in (frontend, another):
            connected.receive_welcome()
            assert echoes_line(connected, "after")


def test_the_activity_monitor_follows_a_restart(server, kernel, connect):
    """L6: the culler relies on the server's own subscriber, which works after a restart, too."""
    kernel_id = kernel("scripted")
    frontend, observer = connect(kernel_id), connect(kernel_id)
    observer.comms()  # the reply proves its subscription

    def model():
        return server.get(f"api/kernels/{kernel_id}")

    def wait_for_state(state):
        poll_until(lambda: model()["execution_state"] == state, f"the monitor reports {state}")

    for restarts in range(2):
        if restarts:
            server.rest("POST", f"api/kernels/{kernel_id}/restart")
            frontend.receive_welcome()
            observer.receive_welcome()
            # The monitor's socket reconnects later, and an `idle` may be the old kernel's.
            last = model()["last_activity"]
            poll_until(
                lambda: echoes_line(frontend, "on") and model()["last_activity"] > last,  # noqa: B023
                "the monitor receives the new kernel's messages",
            )
        wait_for_state("idle")
        before = model()["last_activity"]
        msg_id = frontend.execute("sleep 60")
        observer.receive_output(msg_id)
        wait_for_state("busy")
        assert server.rest("POST", f"api/kernels/{kernel_id}/interrupt") == (204, None)
        reply, published = frontend.receive_answer(msg_id)
        assert reply["ename"] == "KeyboardInterrupt"
        assert [kind for kind, _ in published] == [
            "status", "execute_input", "stream", "error", "status",
        ]  # fmt: skip
        wait_for_state("idle")
        assert model()["last_activity"] > before


def test_a_websocket_works_after_an_autorestart(server, kernel, connect):
    """L6, L8: after SIGKILL the frontend receives `restarting` and the welcome."""
    kernel_id = kernel("scripted")
    frontend = connect(kernel_id)
    assert echoes_line(frontend, "before")
    for _ in range(2):
        old, ports = server.process(kernel_id), server.ports(kernel_id)
        old.kill()
        frontend.receive_status("restarting")
        frontend.receive_welcome()
        assert echoes_line(frontend, "after")
        assert server.process(kernel_id) != old
        assert server.ports(kernel_id) == ports
        poll_until(lambda: is_idle(server, kernel_id), "the activity monitor reports idle")


def test_a_busy_kernel_that_crashes_is_idle_after_its_restart(server, kernel, connect):
    """L6: the activity monitor does not count the new kernel as busy."""
    kernel_id = kernel("scripted")
    frontend = connect(kernel_id)
    frontend.execute("crash")
    frontend.receive_status("restarting")
    frontend.receive_welcome()
    assert frontend.run_cell("say again")[1:] == [("stream", {"name": "stdout", "text": "again\n"})]
    poll_until(lambda: is_idle(server, kernel_id), "the activity monitor reports idle")


def is_idle(server, kernel_id):
    """Return True if the activity monitor, which has its own subscription, reports idle."""
    return server.get(f"api/kernels/{kernel_id}")["execution_state"] == "idle"


def echoes_line(frontend, text):
    return frontend.run_cell(f"say {text}")[1:] == [
        ("stream", {"name": "stdout", "text": f"{text}\n"})
    ]


def has_new_shell_port(server, kernel_id, ports):
    changed = {name for name, port in server.ports(kernel_id).items() if ports[name] != port}
    return changed == {"shell_port"}


def test_a_restart_replaces_a_stolen_port(server, kernel, connect):
    """L6: a frontend that connects afterwards, as JupyterLab does, executes and is monitored."""
    kernel_id = kernel(server.scripted("robbed", THIEF, NO_GATE))
    assert echoes_line(connect(kernel_id), "before")
    ports = server.ports(kernel_id)
    assert server.rest("POST", f"api/kernels/{kernel_id}/restart")[0] == 200
    assert has_new_shell_port(server, kernel_id, ports)
    frontend = connect(kernel_id)
    assert echoes_line(frontend, "after")
    observer = connect(kernel_id)
    observer.comms()  # the reply proves its subscription
    msg_id = frontend.execute("sleep 60")
    observer.receive_output(msg_id)
    poll_until(
        lambda: server.get(f"api/kernels/{kernel_id}")["execution_state"] == "busy",
        "the monitor reports busy",
    )
    server.rest("POST", f"api/kernels/{kernel_id}/interrupt")
    frontend.receive_answer(msg_id)


def test_an_autorestart_replaces_a_stolen_port(server, kernel, connect):
    """L6: a new websocket works.

    An open one keeps its old address, so that its browser tab must be reloaded.
    """
    kernel_id = kernel(server.scripted("robbed-and-killed", THIEF, NO_GATE))
    open_tab = connect(kernel_id)
    assert echoes_line(open_tab, "before")
    old, ports = server.process(kernel_id), server.ports(kernel_id)
    old.kill()
    open_tab.receive_status("restarting")
    poll_until(lambda: has_new_shell_port(server, kernel_id, ports), "the new kernel runs")
    assert echoes_line(connect(kernel_id), "after")


def test_a_websocket_that_opens_during_a_restart_waits(server, kernel, connect, tmp_path):
    """L6: until the new kernel has its ports, the server does not connect to the old ones."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    kernel_id = kernel(server.scripted("robbed-and-late", THIEF, str(gate)))
    old, ports = server.process(kernel_id), server.ports(kernel_id)
    with ThreadPoolExecutor() as pool:
        restarted = pool.submit(server.rest, "POST", f"api/kernels/{kernel_id}/restart")
        poll_until(lambda: server.processes(kernel_id) not in ([], [old]), "the new process")
        connected = pool.submit(connect, kernel_id)
        wait([connected], timeout=0.5)  # time for a connection to the old ports
        open(gate, "w").close()
        assert restarted.result()[0] == 200
        assert has_new_shell_port(server, kernel_id, ports)
        assert echoes_line(connected.result(), "after")


# --- kernels that die ---------------------------------------------------------------------------

LIVES_ONCE = """
import os, sys
path, how = sys.argv[1:3]
if os.path.exists(path):
    if how == "early":
        sys.exit("the cause")
    # The kernel imports its class after the registration.
    sys.argv[-2:-2] = ["--kernel-class", "support.scripted_kernels:NoSuchKernel"]
open(path, "w").close()
os.execv(sys.executable, [sys.executable, *sys.argv[3:]])
"""


@pytest.fixture
def lives_once(server, tmp_path):
    """Write a kernelspec: ``lives_once(how)``; further kernels live if the flag file is removed."""

    def write(how):
        name = f"lives-once-{tmp_path.name}"
        return server.scripted(name, LIVES_ONCE, str(tmp_path / "flag"), how)

    return write


@pytest.mark.parametrize("how", ["early", "late"])
def test_supervision_ends_with_dead(how, server, kernel, connect, lives_once):
    """L4, L8: a kernel that dies at each restart is given up, before or after its registration."""
    kernel_id = kernel(lives_once(how))
    frontend = connect(kernel_id)
    assert echoes_line(frontend, "hello")
    server.process(kernel_id).kill()
    messages = frontend.receive_status("dead", timeout=90)
    restarts = [m for m in messages if m["content"] == {"execution_state": "restarting"}]
    assert len(restarts) == 5, "the server's limit"
    poll_until(lambda: server.get("api/kernels") == [], "the server has removed the kernel")
    assert server.rest("GET", f"api/kernels/{kernel_id}")[0] == 404


@pytest.fixture(scope="module")
def dying(server):
    return server.dying()


def open_notebook(server, kernel_name):
    """Send JupyterLab's request for an opened notebook: a session with a kernel."""
    path = {"path": "a.ipynb", "type": "notebook", "name": ""}
    return server.rest("POST", "api/sessions", {**path, "kernel": {"name": kernel_name}})


def test_the_reply_for_a_session_reports_why_its_kernel_died(server, dying):
    """L4: the body contains the cause, which JupyterLab's dialog shows."""
    status, body = open_notebook(server, dying)
    assert status == 500
    for word in CAUSE:
        assert word in body["message"]
    assert server.get("api/sessions") == server.get("api/kernels") == []
    assert server.files() == []


def test_the_reply_for_a_session_contains_a_hanging_kernels_stderr(server):
    """L4: the kernel is stopped at the deadline."""
    hangs = "import sys, time; print('waiting for a licence', file=sys.stderr); time.sleep(600)"
    name = server.kernelspec(
        "hanging",
        argv=[sys.executable, "-c", hangs, "{connection_file}"],
        metadata=handshake_metadata(handshake="signed-frame", launch_timeout=5),
    )
    status, body = open_notebook(server, name)
    assert status == 500
    assert "did not register its ports within 5 s" in body["message"]
    assert "waiting for a licence" in body["message"]
    assert server.get("api/sessions") == server.get("api/kernels") == server.processes() == []
    assert server.files() == []


def test_the_log_reports_why_a_kernel_died_at_its_start(server, dying):
    """L4: this request's body is the same for any failure, so the log contains the cause."""
    begin = len(server.log())
    status, body = server.rest("POST", "api/kernels", {"name": dying})
    assert status == 500
    assert body == {"message": "Unhandled error", "reason": None, "traceback": ""}
    for word in CAUSE:
        assert word in server.log()[begin:]
    assert server.get("api/kernels") == []
    assert server.files() == []


def test_the_log_reports_why_a_kernel_died_at_a_restart(
    server, kernel, connect, lives_once, tmp_path
):
    """L4: the restart can be repeated, and succeeds when the cause is removed."""
    kernel_id = kernel(lives_once("early"))
    assert echoes_line(connect(kernel_id), "before")
    begin = len(server.log())
    for _ in range(2):
        status, body = server.rest("POST", f"api/kernels/{kernel_id}/restart")
        assert (status, body["message"]) == (500, "Exception restarting kernel")
        assert "the cause" in server.log()[begin:]
        begin = len(server.log())
    (tmp_path / "flag").unlink()
    assert server.rest("POST", f"api/kernels/{kernel_id}/restart")[0] == 200
    assert echoes_line(connect(kernel_id), "after")


def test_kernels_start_and_end_concurrently(server, kernel, connect):
    """L2: one event loop starts and ends several kernels."""
    with ThreadPoolExecutor() as pool:
        ids = list(pool.map(kernel, ["echo-handshake"] * 4))
        for number, kernel_id in enumerate(ids):
            assert connect(kernel_id).run_cell(f"kernel {number}") == echoed(f"kernel {number}")
        list(pool.map(lambda kernel_id: server.rest("DELETE", f"api/kernels/{kernel_id}"), ids))
    assert server.processes() == []


def test_a_pending_kernel_reports_why_it_died(tmp_path):
    """L4: a pending start reports the cause when a websocket connects, and in the kernel's model.

    H7: if the server is killed, no kernel and no file remains.
    """
    pending = "--AsyncMappingKernelManager.use_pending_kernels=True"
    server = Server(tmp_path / "server", "jupyter_server", pending)
    try:
        server.dying()
        kernel_id = server.start_kernel("dying")
        with pytest.raises(websocket.WebSocketBadStatusException) as refused:
            Websocket(server, kernel_id)
        assert refused.value.status_code == 500
        model = server.get(f"api/kernels/{kernel_id}")
        assert model["execution_state"] == "dead"
        for word in CAUSE:
            assert word in model["reason"]

        Websocket(server, server.start_kernel()).close()
        kernels = server.processes()
        assert len(kernels) == 1
    finally:
        server.kill()
    assert psutil.wait_procs(kernels, timeout=DEADLINE)[1] == []
    assert server.files() == []


# --- one setting for every kernel: docs/recipes.md -----------------------------------------------

NO_PROVISIONER = {"argv": [sys.executable, *SCRIPTED], **SPEAKS_5_6}


@pytest.fixture(scope="module", params=["environment", "configuration"])
def server_for_all(request, tmp_path_factory):
    """A server whose default provisioner is echokernel's."""
    name = "handshake-provisioner"
    by_argument = {"configuration": [f"--KernelProvisionerFactory.default_provisioner_name={name}"]}
    by_environment = {"environment": {"JUPYTER_DEFAULT_PROVISIONER_NAME": name}}
    started = Server(
        tmp_path_factory.mktemp("server"),
        "jupyter_server",
        *by_argument.get(request.param, []),
        **by_environment.get(request.param, {}),
    )
    started.kernelspec("no-provisioner", **NO_PROVISIONER)
    yield started
    started.stop()


def test_a_kernelspec_without_a_provisioner_uses_a_handshake(server_for_all):
    """L7: the kernelspec advertises 5.6."""
    kernel_id = server_for_all.start_kernel("no-provisioner")
    assert server_for_all.process(kernel_id), "started by a registration file"
    frontend = Websocket(server_for_all, kernel_id)
    assert echoes_line(frontend, "hello")
    frontend.close()
    assert server_for_all.rest("DELETE", f"api/kernels/{kernel_id}")[0] == 204


def test_without_the_setting_the_kernel_does_not_register(server):
    """L7: jupyter_client's own provisioner starts the kernelspec of the test above."""
    server.kernelspec("no-provisioner", **NO_PROVISIONER)
    kernel_id = server.start_kernel("no-provisioner")
    assert server.processes(kernel_id) == []
    assert server.rest("DELETE", f"api/kernels/{kernel_id}")[0] == 204


def test_python3_is_restarted_and_supervised(server_for_all):
    """L7: unmodified ipykernel works with echokernel's provisioner, in any start mode.

    Each cell has a new websocket: an open one can lose messages after a restart, as with any kernel
    that sends no welcome.
    """
    kernel_id = server_for_all.start_kernel("python3")

    def pid():
        frontend = Websocket(server_for_all, kernel_id)
        published = frontend.run_cell("import os; print(os.getpid())")
        frontend.close()
        return int("".join(content["text"] for kind, content in published if kind == "stream"))

    def kernels():
        return {child.pid for child in psutil.Process(server_for_all.popen.pid).children()}

    first = pid()
    assert server_for_all.rest("POST", f"api/kernels/{kernel_id}/restart")[0] == 200
    second = pid()
    psutil.Process(second).kill()
    poll_until(lambda: kernels() - {second}, "supervision starts another")
    assert pid() not in (first, second)
    assert server_for_all.rest("DELETE", f"api/kernels/{kernel_id}")[0] == 204
    assert server_for_all.files() == []
