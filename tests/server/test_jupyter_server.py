"""A real jupyter_server, by REST and websocket, on kernels that were started by a handshake.

Nothing of ours runs in the test: the server's process finds the provisioner in the kernelspec,
and the kernel's process is seen from outside.
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
    """L1, L5: by REST and websocket; after the end no process is left and no file."""
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


def test_restart(server, kernel, connect):
    """L6: a fresh handshake, the same ports; the websocket stays, hears the welcome, executes."""
    kernel_id = kernel("scripted")
    frontend, another = connect(kernel_id), connect(kernel_id)
    assert says(frontend, "before")
    another.comms()  # answered: it is subscribed
    for _ in range(2):
        old, ports = server.process(kernel_id), server.ports(kernel_id)
        old_file = old.cmdline()[-1]
        status, model = server.rest("POST", f"api/kernels/{kernel_id}/restart")
        assert (status, model["id"]) == (200, kernel_id)
        assert not old.is_running()
        assert server.process(kernel_id).cmdline()[-1] != old_file, "a file of its own"
        assert server.ports(kernel_id) == ports
        for each in (frontend, another):
            each.hear_welcome()
            assert says(each, "after")


def test_the_activity_monitor(server, kernel, connect):
    """L6: the server's own subscriber, which the culler relies on, lives on after a restart."""
    kernel_id = kernel("scripted")
    frontend, onlooker = connect(kernel_id), connect(kernel_id)
    onlooker.comms()  # answered: it is subscribed

    def model():
        return server.get(f"api/kernels/{kernel_id}")

    def is_seen(state):
        poll_until(lambda: model()["execution_state"] == state, f"{state} is seen")

    for restarts in range(2):
        if restarts:
            server.rest("POST", f"api/kernels/{kernel_id}/restart")
            frontend.hear_welcome()
            onlooker.hear_welcome()
            # Its socket reconnects in its own time, and its `idle` may be the old kernel's.
            heard = model()["last_activity"]
            poll_until(
                lambda: says(frontend, "on") and model()["last_activity"] > heard,  # noqa: B023
                "the monitor hears the new kernel",
            )
        is_seen("idle")
        before = model()["last_activity"]
        msg_id = frontend.execute("sleep 60")
        onlooker.hear_output(msg_id)
        is_seen("busy")
        assert server.rest("POST", f"api/kernels/{kernel_id}/interrupt") == (204, None)
        reply, published = frontend.answer(msg_id)
        assert reply["ename"] == "KeyboardInterrupt"
        assert [kind for kind, _ in published] == [
            "status", "execute_input", "stream", "error", "status",
        ]  # fmt: skip
        is_seen("idle")
        assert model()["last_activity"] > before


def test_autorestart(server, kernel, connect):
    """L6, L8: after SIGKILL the frontend hears `restarting`, and its websocket works again."""
    kernel_id = kernel("scripted")
    frontend = connect(kernel_id)
    assert says(frontend, "before")
    for _ in range(2):
        old, ports = server.process(kernel_id), server.ports(kernel_id)
        old.kill()
        frontend.hear_status("restarting")
        frontend.hear_welcome()
        assert says(frontend, "after")
        assert server.process(kernel_id) != old
        assert server.ports(kernel_id) == ports
        poll_until(lambda: seen_idle(server, kernel_id), "the server has heard it, too")


def test_a_cell_that_crashes_its_kernel(server, kernel, connect):
    """L6: the crash of a busy kernel; the next one is not busy for the activity monitor."""
    kernel_id = kernel("scripted")
    frontend = connect(kernel_id)
    frontend.execute("crash")
    frontend.hear_status("restarting")
    frontend.hear_welcome()
    assert frontend.run_cell("say again")[1:] == [("stream", {"name": "stdout", "text": "again\n"})]
    poll_until(lambda: seen_idle(server, kernel_id), "the server has heard it, too")


def seen_idle(server, kernel_id):
    """Tell whether the activity monitor knows: it has ears of its own, and may hear later."""
    return server.get(f"api/kernels/{kernel_id}")["execution_state"] == "idle"


def says(frontend, text):
    return frontend.run_cell(f"say {text}")[1:] == [
        ("stream", {"name": "stdout", "text": f"{text}\n"})
    ]


def stolen(server, kernel_id, ports):
    changed = {name for name, port in server.ports(kernel_id).items() if ports[name] != port}
    return changed == {"shell_port"}


def test_a_port_is_stolen_at_a_restart(server, kernel, connect):
    """L6: no failure; who connects now (JupyterLab does after a restart) works, and is watched."""
    kernel_id = kernel(server.scripted("robbed", THIEF, NO_GATE))
    assert says(connect(kernel_id), "before")
    ports = server.ports(kernel_id)
    assert server.rest("POST", f"api/kernels/{kernel_id}/restart")[0] == 200
    assert stolen(server, kernel_id, ports)
    frontend = connect(kernel_id)
    assert says(frontend, "after")
    onlooker = connect(kernel_id)
    onlooker.comms()  # answered: it is subscribed
    msg_id = frontend.execute("sleep 60")
    onlooker.hear_output(msg_id)
    poll_until(
        lambda: server.get(f"api/kernels/{kernel_id}")["execution_state"] == "busy", "busy is seen"
    )
    server.rest("POST", f"api/kernels/{kernel_id}/interrupt")
    frontend.answer(msg_id)


def test_a_port_is_stolen_at_an_autorestart(server, kernel, connect):
    """L6: no failure; the page that is open has to be reloaded, as its websocket stays where it
    was, and one that is opened now works."""
    kernel_id = kernel(server.scripted("robbed-and-killed", THIEF, NO_GATE))
    open_page = connect(kernel_id)
    assert says(open_page, "before")
    old, ports = server.process(kernel_id), server.ports(kernel_id)
    old.kill()
    open_page.hear_status("restarting")
    poll_until(lambda: stolen(server, kernel_id, ports), "the new kernel runs")
    assert says(connect(kernel_id), "after")


def test_connecting_while_a_restart_is_under_way(server, kernel, connect, tmp_path):
    """L6: who comes before the new kernel has its ports waits for them (LAUNCHER_NOTES 1)."""
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    kernel_id = kernel(server.scripted("robbed-and-late", THIEF, str(gate)))
    old, ports = server.process(kernel_id), server.ports(kernel_id)
    with ThreadPoolExecutor() as pool:
        restarted = pool.submit(server.rest, "POST", f"api/kernels/{kernel_id}/restart")
        poll_until(lambda: server.processes(kernel_id) not in ([], [old]), "the new process")
        connected = pool.submit(connect, kernel_id)
        wait([connected], timeout=0.5)  # time for a connection that is made too early
        open(gate, "w").close()
        assert restarted.result()[0] == 200
        assert stolen(server, kernel_id, ports)
        assert says(connected.result(), "after")


# --- kernels that die ---------------------------------------------------------------------------

LIVES_ONCE = """
import os, sys
path, how = sys.argv[1:3]
if os.path.exists(path):
    if how == "early":
        sys.exit("the cause")
    # Such a class is missed only when the ports are registered.
    sys.argv[-2:-2] = ["--kernel-class", "support.scripted_kernels:NoSuchKernel"]
open(path, "w").close()
os.execv(sys.executable, [sys.executable, *sys.argv[3:]])
"""


@pytest.fixture
def lives_once(server, tmp_path):
    """Make a kernelspec: ``lives_once(how)``; its kernels live again when the flag is gone."""

    def make(how):
        name = f"lives-once-{tmp_path.name}"
        return server.scripted(name, LIVES_ONCE, str(tmp_path / "flag"), how)

    return make


@pytest.mark.parametrize("how", ["early", "late"])
def test_supervision_gives_up(how, server, kernel, connect, lives_once):
    """L4, L8: a kernel that dies at each restart, before or after it has registered."""
    kernel_id = kernel(lives_once(how))
    frontend = connect(kernel_id)
    assert says(frontend, "hello")
    server.process(kernel_id).kill()
    heard = frontend.hear_status("dead", timeout=90)
    restarts = [m for m in heard if m["content"] == {"execution_state": "restarting"}]
    assert len(restarts) == 5, "the server's limit"
    poll_until(lambda: server.get("api/kernels") == [], "the server has forgotten it")
    assert server.rest("GET", f"api/kernels/{kernel_id}")[0] == 404


@pytest.fixture(scope="module")
def dying(server):
    return server.dying()


def open_notebook(server, kernel_name):
    """Ask for what JupyterLab asks for when a notebook is opened: a session, with a kernel."""
    path = {"path": "a.ipynb", "type": "notebook", "name": ""}
    return server.rest("POST", "api/sessions", {**path, "kernel": {"name": kernel_name}})


def test_a_session_whose_kernel_dies(server, dying):
    """L4: the cause is in the body; JupyterLab's dialog shows it."""
    status, body = open_notebook(server, dying)
    assert status == 500
    for word in CAUSE:
        assert word in body["message"]
    assert server.get("api/sessions") == server.get("api/kernels") == []
    assert server.files() == []


def test_a_session_whose_kernel_hangs(server):
    """L4: it is stopped at the deadline, and the body says what it has said last."""
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


def test_a_kernel_that_dies_at_its_start(server, dying):
    """L4: this request's body says nothing, whatever failed; the cause is in the server's log."""
    begin = len(server.log())
    status, body = server.rest("POST", "api/kernels", {"name": dying})
    assert status == 500
    assert body == {"message": "Unhandled error", "reason": None, "traceback": ""}
    for word in CAUSE:
        assert word in server.log()[begin:]
    assert server.get("api/kernels") == []
    assert server.files() == []


def test_a_kernel_that_dies_at_a_restart(server, kernel, connect, lives_once, tmp_path):
    """L4: the cause in the log; the restart can be tried again, and works when it can."""
    kernel_id = kernel(lives_once("early"))
    assert says(connect(kernel_id), "before")
    begin = len(server.log())
    for _ in range(2):
        status, body = server.rest("POST", f"api/kernels/{kernel_id}/restart")
        assert (status, body["message"]) == (500, "Exception restarting kernel")
        assert "the cause" in server.log()[begin:]
        begin = len(server.log())
    (tmp_path / "flag").unlink()
    assert server.rest("POST", f"api/kernels/{kernel_id}/restart")[0] == 200
    assert says(connect(kernel_id), "after")


def test_several_at_once(server, kernel, connect):
    """L2: one event loop starts and ends several kernels."""
    with ThreadPoolExecutor() as pool:
        ids = list(pool.map(kernel, ["echo-handshake"] * 4))
        for number, kernel_id in enumerate(ids):
            assert connect(kernel_id).run_cell(f"kernel {number}") == echoed(f"kernel {number}")
        list(pool.map(lambda kernel_id: server.rest("DELETE", f"api/kernels/{kernel_id}"), ids))
    assert server.processes() == []


def test_pending_kernels_and_a_server_that_is_killed(tmp_path):
    """L4: a start that nobody waited for tells its cause afterwards. H7: no orphan, no file."""
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
    """A server whose kernels are all started by our provisioner."""
    name = "handshake-provisioner"
    by_word = {"configuration": [f"--KernelProvisionerFactory.default_provisioner_name={name}"]}
    by_environment = {"environment": {"JUPYTER_DEFAULT_PROVISIONER_NAME": name}}
    started = Server(
        tmp_path_factory.mktemp("server"),
        "jupyter_server",
        *by_word.get(request.param, []),
        **by_environment.get(request.param, {}),
    )
    started.kernelspec("no-provisioner", **NO_PROVISIONER)
    yield started
    started.stop()


def test_a_kernelspec_that_names_no_provisioner(server_for_all):
    """L7: it says 5.6, so it is started by a handshake."""
    kernel_id = server_for_all.start_kernel("no-provisioner")
    assert server_for_all.process(kernel_id), "started by a registration file"
    frontend = Websocket(server_for_all, kernel_id)
    assert says(frontend, "hello")
    frontend.close()
    assert server_for_all.rest("DELETE", f"api/kernels/{kernel_id}")[0] == 204


def test_the_same_without_the_setting(server):
    """What the test above would see if the setting did nothing."""
    server.kernelspec("no-provisioner", **NO_PROVISIONER)
    kernel_id = server.start_kernel("no-provisioner")
    assert server.processes(kernel_id) == []
    assert server.rest("DELETE", f"api/kernels/{kernel_id}")[0] == 204


def test_python3_by_our_provisioner(server_for_all):
    """L7: unmodified ipykernel, whichever way it is started: restarts and supervision, too.

    Each time by a new websocket: the one that is open may have missed something, as always with
    kernels that welcome nobody.
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
