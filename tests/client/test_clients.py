"""Our clients (S1-S3): on kernels that run, start, restart, die, and on fake ones."""

import asyncio
import queue
import signal
import sys
import threading

import pytest
import zmq
from jupyter_client import AsyncKernelManager, KernelManager
from jupyter_client.asynchronous import AsyncKernelClient
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.channelsabc import HBChannelABC
from jupyter_client.threaded import ThreadedKernelClient, ThreadedZMQSocketChannel
from jupyter_core.utils import ensure_async
from support import KERNEL_PATH
from support.fake_kernel_thread import FakeKernel
from support.kernel_processes import start_classic
from support.kernelspecs import handshake_metadata
from support.ports import OWN_ADDRESS, free_range
from support.waits import DEADLINE
from traitlets import Type

from echokernel.client import (
    AsyncWelcomeClient,
    AsyncWelcomeKernelManager,
    BlockingWelcomeClient,
    ThreadedWelcomeClient,
    WelcomeKernelManager,
    presence_topic,
    with_welcome,
)
from echokernel.client import ready as client_wait
from echokernel.conformance.raw_client import SECOND, RawClient, receive_frames
from echokernel.conformance.raw_messages import CHANNELS, build_message
from echokernel.protocol import readiness
from echokernel.protocol.errors import KernelDied, NotReady

SCRIPTED = ["--kernel-class", "support.scripted_kernels:ScriptedKernel"]


@pytest.fixture
def attach():
    """Attach a client to a running kernel: ``attach(connection)``; it is stopped at the end."""
    attached = []

    def start_client(connection, kind=BlockingWelcomeClient):
        client = kind()
        client.load_connection_info(connection)
        client.start_channels()
        attached.append(client)
        return client

    yield start_client
    for client in attached:
        if client.channels_running:
            client.stop_channels()


@pytest.fixture
def manage():
    """Start a kernel by a manager of ours: ``manage(kernel_name=...)``."""
    managers = []

    def start_kernel(kernel_name="echo-handshake", **options):
        if kernel_name in ("python3", "xpython-raw"):
            # The classic way. Chosen by jupyter_client, a port may be another test's by the time
            # that the kernel binds it.
            low = free_range(5)
            ports = {f"{channel}_port": low + n for n, channel in enumerate(CHANNELS)}
            options = {"cache_ports": False, **ports, **options}
        manager = WelcomeKernelManager(kernel_name=kernel_name, **options)
        managers.append(manager)
        manager.start_kernel()
        return manager

    yield start_kernel
    for manager in managers:
        if manager.has_kernel:
            manager.shutdown_kernel(now=True)
        manager.cleanup_resources()
        manager.context.destroy(linger=0)


@pytest.fixture
def doing(tmp_path, start):
    """A running kernel that does what its cells say; (connection, process)."""
    started = []

    def start_and_note(*arguments):
        started.append(start(*arguments, **KERNEL_PATH))

    return start_classic(tmp_path, start_and_note, *SCRIPTED), started[0]


def heard(client):
    """Return what is there on IOPub: (msg_type, msg_id) in order."""
    messages = []
    while client.iopub_channel.msg_ready():
        message = client.get_iopub_msg(timeout=0)
        messages.append((message["msg_type"], message["header"]["msg_id"]))
    return messages


def run_cell(client, code="1"):
    """Execute; return the types of what was published for it, busy to idle."""
    published = []
    client.execute_interactive(
        code, timeout=DEADLINE, allow_stdin=False, output_hook=published.append
    )
    return [message["content"].get("execution_state", message["msg_type"]) for message in published]


def is_complete(published):
    return published[0] == "busy" and published[1] == "execute_input" and published[-1] == "idle"


# --- joining ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [BlockingWelcomeClient, AsyncWelcomeClient, ThreadedWelcomeClient])
async def test_it_subscribes_before_it_connects_and_once(kind, context, attach):
    """S1, C4: to everything and to its presence topic; each subscription arrives once."""
    with FakeKernel(context) as kernel:
        client = attach(kernel.connection, kind)
        expected = [b"\x01", b"\x01" + presence_topic(client.session.session)]
        assert [kernel.next_event() for _ in expected] == expected
        client.stop_channels()
        ends = [b"\x00" + event[1:] for event in expected]
        assert sorted(kernel.next_event() for _ in ends) == ends


def test_one_request_is_enough(context, attach, monkeypatch):
    """S2: the welcome proves the subscription; statuses of the request need not come."""
    for timeout in ("REPLY_TIMEOUT", "WELCOME_TIMEOUT"):  # no second one on a slow machine
        monkeypatch.setattr(readiness, timeout, DEADLINE)
    info = {"protocol_version": "5.6", "supported_features": ["iopub_welcome"]}
    with FakeKernel(context, info=info, silent_for=9) as kernel:
        client = attach(kernel.connection)
        client.wait_for_ready(timeout=DEADLINE)
        assert kernel.requests == 1
        assert {what for what, _ in heard(client)} == {"iopub_welcome"}


@pytest.mark.parametrize(
    ("publisher", "version"),
    [(zmq.PUB, "5.3"), (zmq.XPUB, "5.3"), (zmq.XPUB, "5.6")],
    ids=["PUB", "XPUB without a welcome", "a welcome that is promised and does not come"],
)
def test_the_known_loop(publisher, version, context, attach):
    """S2: messages published before we had joined never come: it asks until some do."""
    info = {"protocol_version": version}
    with FakeKernel(context, publisher, info, silent_for=3, welcomes=False) as kernel:
        client = attach(kernel.connection)
        client.wait_for_ready(timeout=DEADLINE)
        assert kernel.requests >= 4
        # The answers to those requests are nothing to whoever reads shell.
        assert not client.shell_channel.msg_ready()


def test_an_older_protocol_is_adapted_to(context, attach):
    """S3: as jupyter_client does."""
    with FakeKernel(context, info={"protocol_version": "4.1"}) as kernel:
        client = attach(kernel.connection)
        client.wait_for_ready(timeout=DEADLINE)
        assert client.session.adapt_version == 4


def test_a_reply_without_a_version(context, attach):
    with FakeKernel(context, info={"status": "error"}) as kernel:
        client = attach(kernel.connection)
        client.wait_for_ready(timeout=DEADLINE)
        assert client.session.adapt_version == 0


def test_a_message_that_is_not_genuine(context, attach, caplog):
    """S2: it is no proof, and it ends no wait."""
    with FakeKernel(context, zmq.PUB, forged=True) as kernel:
        client = attach(kernel.connection)
        client.wait_for_ready(timeout=DEADLINE)
        assert {what for what, _ in heard(client)} == {"status"}
    assert "dropped an invalid IOPub message" in caplog.text


def test_over_ipc(manage):  # a short name: a socket's path has at most 107 characters
    """S1: as jupyter_client connects; with CURVE, too."""
    for encryption in ("disabled", "required"):
        client = manage(transport="ipc", transport_encryption=encryption).client()
        client.start_channels()
        client.wait_for_ready(timeout=DEADLINE)
        assert is_complete(run_cell(client))
        client.stop_channels()


def test_encrypted(manage):
    """S1: CURVE, as jupyter_client has it; without keys the kernel is not heard."""
    manager = manage(transport_encryption="required")
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=DEADLINE)
    assert is_complete(run_cell(client))
    client.stop_channels()
    plain = manager.client(curve_publickey=None, curve_secretkey=None)
    plain.start_channels()
    with pytest.raises(NotReady, match="no reply"):
        plain.wait_for_ready(timeout=0.5)
    plain.stop_channels()


# --- nothing is lost ----------------------------------------------------------------------------


def between(mine, all_of_them):
    """Whether ``mine`` is what another client heard, from some message on, without a gap."""
    begin = all_of_them.index(mine[0])
    return all_of_them[begin : begin + len(mine)] == mine


def overhear(other, sentinel):
    """Return all that another client hears, up to the idle of its request ``sentinel``."""
    messages = []
    while True:
        got = other.receive_publication()
        messages.append((got["msg_type"], got["header"]["msg_id"]))
        if got["parent_header"].get("msg_id") == sentinel and (
            got["content"].get("execution_state") == "idle"
        ):
            return messages


def test_what_comes_during_the_wait_is_delivered(context, doing, attach):
    """S2: displays of another client's cell, statuses and welcomes, in order."""
    connection, _ = doing
    other = RawClient(context, connection)
    flood = other.execute("display_many 300")
    client = attach(connection)
    client.wait_for_ready(timeout=DEADLINE)
    sentinel = other.execute("say done")
    for request in (flood, sentinel):
        other.receive_reply(request)
    # By its reply everything was sent; a cell of its own brings in what is on its way.
    recorder = Recorder(client)
    assert is_complete(run_cell(recorder, "say mine"))
    theirs = overhear(other, sentinel)
    mine = [each for each in recorder.heard if each in theirs]
    assert mine
    assert between(mine, theirs)
    assert mine[-1] == theirs[-1]
    other.close()


class Recorder:
    """A client's ``execute_interactive``, which notes all that it reads."""

    def __init__(self, client):
        self._client = client
        self.heard = []
        read = client.iopub_channel.get_msg

        def get_msg(timeout=None):
            message = read(timeout)
            self.heard.append((message["msg_type"], message["header"]["msg_id"]))
            return message

        client.iopub_channel.get_msg = get_msg

    def execute_interactive(self, *arguments, **options):
        return self._client.execute_interactive(*arguments, **options)


def test_what_is_read_after_the_wait_begins_with_the_welcome(connection, attach):
    """S2: even that is not thrown away; a new kernel's first client hears it from the start."""
    client = attach(connection)
    client.wait_for_ready(timeout=DEADLINE)
    assert run_cell(client)[-1] == "idle"
    again = attach(connection)
    again.wait_for_ready(timeout=DEADLINE)
    while again.get_iopub_msg(timeout=DEADLINE)["msg_type"] != "iopub_welcome":
        pass


@pytest.mark.parametrize("kind", [BlockingWelcomeClient, AsyncWelcomeClient])
async def test_a_kernel_that_publishes_faster_than_it_is_read(kind, context, attach):
    """S2: the wait ends in time, and other tasks have their turns meanwhile."""
    sockets = {name: context.socket(zmq.ROUTER) for name in CHANNELS}  # nobody answers
    sockets["iopub"] = publisher = context.socket(zmq.XPUB)
    publisher.sndhwm = 0
    connection = {"transport": "tcp", "ip": "127.0.0.1", "key": "",
                  "signature_scheme": "hmac-sha256"}  # fmt: skip
    for name, each in sockets.items():
        connection[f"{name}_port"] = each.bind_to_random_port("tcp://127.0.0.1")
    client = attach(connection, kind)
    assert receive_frames(publisher) == [b"\x01"]
    frames = build_message("status", {"execution_state": "busy"}, key="")[1]
    for _ in range(50_000):
        publisher.send_multipart(frames)
    turns = []

    async def take_turns():
        while True:
            turns.append(await asyncio.sleep(0))

    others = asyncio.create_task(take_turns())
    await asyncio.sleep(0)
    turns.clear()
    with pytest.raises(NotReady):
        await ensure_async(client.wait_for_ready(timeout=0.5))
    assert await ensure_async(client.iopub_channel.socket.poll(DEADLINE * SECOND)), (
        "it has not read them all"
    )
    assert len(turns) > 1 or kind is BlockingWelcomeClient
    others.cancel()
    client.stop_channels()
    # libzmq 4.3.5 aborts the process (session_base.cpp:233) if a peer leaves while the socket that
    # has half a message for it is being closed with linger=0.
    while receive_frames(publisher)[0][:1] != b"\x00":
        pass
    for each in sockets.values():
        each.close(linger=0)


async def test_a_task_that_reads_meanwhile(connection, attach):
    """S2, S3: it goes on reading; the wait does not take its messages away."""
    client = attach(connection, AsyncWelcomeClient)
    read, arrived = [], asyncio.Event()

    async def read_all():
        while True:
            read.append(await client.get_iopub_msg(timeout=None))
            arrived.set()

    reader = asyncio.create_task(read_all())
    await asyncio.sleep(0)
    await client.wait_for_ready(timeout=DEADLINE)
    assert read
    msg_id = client.execute("hello")
    await client._recv_reply(msg_id, timeout=DEADLINE)

    def is_idle(message):
        return (
            message["parent_header"].get("msg_id") == msg_id
            and message["content"].get("execution_state") == "idle"
        )

    async def idle():
        while not any(map(is_idle, read)):
            arrived.clear()
            await arrived.wait()

    await asyncio.wait_for(idle(), DEADLINE)
    reader.cancel()
    assert not await client.iopub_channel.msg_ready()


async def test_async_client(connection, attach):
    """S2, S3: ready, then a cell from busy to idle."""
    client = attach(connection, AsyncWelcomeClient)
    assert isinstance(client, AsyncKernelClient)
    await client.wait_for_ready(timeout=DEADLINE)
    published = []
    await client.execute_interactive(
        "hello", timeout=DEADLINE, allow_stdin=False, output_hook=published.append
    )
    assert [m["msg_type"] for m in published] == ["status", "execute_input", "stream", "status"]


class Callbacks(ThreadedZMQSocketChannel):
    """What a console writes: a channel with callbacks."""

    def __init__(self, *arguments):
        self.got = queue.SimpleQueue()
        super().__init__(*arguments)

    def call_handlers(self, msg):
        self.got.put(msg)


class ConsoleClient(ThreadedKernelClient):
    iopub_channel_class = Type(Callbacks)
    shell_channel_class = Type(Callbacks)


def test_threaded_client(connection, attach):
    """S2, S3: a derived client keeps its channels; its callbacks get everything."""
    client = attach(connection, with_welcome(ConsoleClient))
    assert isinstance(client, ConsoleClient)
    assert isinstance(client.iopub_channel, Callbacks)
    client.wait_for_ready(timeout=DEADLINE)
    msg_id = client.execute("hello")
    types = []
    while True:
        message = client.iopub_channel.got.get(timeout=DEADLINE)
        types.append(message["msg_type"])
        if message["parent_header"].get("msg_id") == msg_id and (
            message["content"].get("execution_state") == "idle"
        ):
            break
    assert "iopub_welcome" in types
    assert types[-4:] == ["status", "execute_input", "stream", "status"]
    assert client.shell_channel.got.get(timeout=DEADLINE)["parent_header"]["msg_id"] == msg_id


def test_a_parent_header_that_is_null(manage, attach):
    """S2: xeus-python's welcome; it reaches the client with a dict in its place."""
    manager = manage(kernel_name="xpython-raw")
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=DEADLINE)
    parents = []
    while {} not in parents:
        parents.append(client.get_iopub_msg(timeout=DEADLINE)["parent_header"])
    assert None not in parents
    client.stop_channels()


@pytest.mark.parametrize("name", ["echo-handshake", "python3", "xpython-raw"])
def test_a_hundred_connects(name, manage):
    """S2, W6: each executes at once, and hears its cell from busy to idle."""
    manager = manage(kernel_name=name)
    incomplete = []
    for number in range(100):
        client = manager.client()
        client.start_channels(hb=False)
        client.wait_for_ready(timeout=DEADLINE)
        published = run_cell(client, f"{number}")
        if not is_complete(published):
            incomplete.append(published)
        client.stop_channels()
    assert incomplete == []


# --- restarts, ends -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["echo-handshake", "python3"])
def test_the_same_client_after_a_restart(name, manage):
    """S1, S2, L6: what the old kernel said is no proof that the new one is heard."""
    # Elsewhere than on 127.0.0.1 our provisioner alone starts kernels.
    where = {"ip": OWN_ADDRESS} if name == "echo-handshake" else {}
    manager = manage(kernel_name=name, **where)
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=DEADLINE)
    for _ in range(3):
        client.execute("1")  # nobody reads it
        manager.restart_kernel(now=True)
        client.wait_for_ready(timeout=DEADLINE)
        assert is_complete(run_cell(client))
    client.stop_channels()


def start_and_wait(manage, name):
    manager = manage(kernel_name=name)
    client = manager.client()
    client.start_channels()
    try:
        client.wait_for_ready()
    finally:
        client.stop_channels()


def test_a_kernel_that_ends_before_it_is_ready(kernelspecs, manage):
    """S2, L4: registered, then gone: at once, with exit status and what it wrote last."""
    argv = [sys.executable, "-m", "echokernel", "--kernel-class", "no_such_module:Kernel", "-f",
            "{connection_file}"]  # fmt: skip
    kernelspecs("ends", argv=argv, metadata=handshake_metadata(), kernel_protocol_version="5.6")
    with pytest.raises(KernelDied, match="no_such_module") as caught:
        start_and_wait(manage, "ends")
    assert caught.value.exit_status not in (0, None)


def test_a_kernel_of_another_provisioner_that_ends(kernelspecs, manage):
    """S2: jupyter_client's own provisioner knows the exit status, no more."""
    argv = [sys.executable, "-c", "raise SystemExit(7)", "{connection_file}"]
    kernelspecs("ends", argv=argv)
    with pytest.raises(RuntimeError, match=r"ended \(status 7\) before it was ready") as caught:
        start_and_wait(manage, "ends")
    assert isinstance(caught.value, KernelDied)
    assert caught.value.exit_status == 7


def test_a_kernel_that_was_shut_down(manage):
    manager = manage()
    client = manager.client()
    client.start_channels()
    manager.shutdown_kernel(now=True)
    with pytest.raises(KernelDied, match="no kernel is running"):
        client.wait_for_ready()
    client.stop_channels()


def test_the_kernel_of_somebody_else_dies(context, doing, attach, monkeypatch):
    """S2: there is its heartbeat alone to tell."""
    monkeypatch.setattr(client_wait, "HEARTBEAT_TIMEOUT", 1.5)
    connection, process = doing
    other = RawClient(context, connection)
    other.execute("sleep_in_one_call 60")
    assert [other.receive_publication()["msg_type"] for _ in range(2)] == [
        "status",
        "execute_input",
    ]
    client = attach(connection)
    assert client.iopub_channel.socket.poll(DEADLINE * SECOND), "it is not welcomed"
    killer = threading.Timer(0.5, process.popen.send_signal, [signal.SIGKILL])
    killer.start()
    with pytest.raises(KernelDied, match="no heartbeat"):
        client.wait_for_ready(timeout=DEADLINE)
    killer.join()
    other.close()


def test_nobody_is_there(attach):
    """S2: the time is over, with what was tried."""
    low = free_range(5)
    names = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")
    ports = {name: low + number for number, name in enumerate(names)}
    client = attach({"transport": "tcp", "ip": "127.0.0.1", "key": "k", **ports})
    with pytest.raises(NotReady, match=r"no reply to 1 kernel_info_request") as caught:
        client.wait_for_ready(timeout=0.3)
    assert caught.value.waited >= 0.3


def test_no_time_at_all(context, attach):
    """S3: one look, and no more."""
    with FakeKernel(context, zmq.PUB, silent_for=10**6) as kernel:
        client = attach(kernel.connection)
        with pytest.raises(NotReady):
            client.wait_for_ready(timeout=0)


def test_a_kernel_that_is_never_heard(context, attach):
    """S2: it says which of the two it was."""
    with FakeKernel(context, zmq.PUB, silent_for=10**6) as kernel:
        client = attach(kernel.connection)
        with pytest.raises(RuntimeError, match="none of its IOPub messages arrives"):
            client.wait_for_ready(timeout=8)
        assert kernel.requests > 1


@pytest.mark.parametrize(
    "kind", [BlockingWelcomeClient, ThreadedWelcomeClient], ids=["blocking", "threaded"]
)
def test_channels_that_are_stopped(kind, connection, attach):
    client = attach(connection, kind)
    client.stop_channels()  # at once, and no thread of its stays behind
    with pytest.raises(NotReady, match="make a new client"):
        client.wait_for_ready(timeout=DEADLINE)


# --- set by name --------------------------------------------------------------------------------


def test_each_client_of_a_manager_is_one_of_its_own():
    """C4: jupyter_client's have one session id for all, by which no kernel tells them apart."""
    manager = WelcomeKernelManager()
    ids = {manager.client().session.session for _ in range(3)} | {manager.session.session}
    assert len(ids) == 4
    given = manager.session.clone()
    assert manager.client(session=given).session.session == manager.session.session


def test_a_manager_keeps_the_client_that_was_configured():
    """S3: and extends it; ``jupyter console`` sets one by hand."""

    class Mine(BlockingKernelClient):
        pass

    manager = WelcomeKernelManager()
    manager.client_factory = Mine
    client = manager.client()
    assert isinstance(client, Mine)
    assert isinstance(client, BlockingWelcomeClient)
    assert type(manager.client()) is type(client)


@pytest.mark.parametrize(
    ("manager", "client"),
    [
        (WelcomeKernelManager, BlockingWelcomeClient),
        (AsyncWelcomeKernelManager, AsyncWelcomeClient),
    ],
)
def test_managers(manager, client):
    """S3: what they make without any configuration."""
    assert type(manager().client()) is client


@pytest.mark.parametrize(
    ("manager", "client"),
    [(KernelManager, BlockingWelcomeClient), (AsyncKernelManager, AsyncWelcomeClient)],
)
def test_client_class(manager, client):
    """S3: jupyter_client's own setting is enough."""
    made = manager(client_class=f"echokernel.client.{client.__name__}").client()
    assert type(made) is client


def test_what_cannot_be_extended():
    with pytest.raises(TypeError, match="object is not derived from jupyter_client's"):
        with_welcome(object)


def test_a_manager_of_a_kernel_that_somebody_else_started(context, doing, tmp_path):
    """S3: it has no process to look at, and a kernel that is busy is not dead."""
    connection, _ = doing
    busy = RawClient(context, connection)
    busy.execute("sleep_in_one_call 1.5")
    while busy.receive_publication()["msg_type"] != "stream":
        pass
    manager = WelcomeKernelManager(connection_file=str(tmp_path / "connection.json"))
    manager.load_connection_file()
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=DEADLINE)
    client.stop_channels()
    busy.close()
    manager.context.destroy(linger=0)


def test_a_manager_that_has_started_nothing(monkeypatch):
    """S3: as jupyter_client's, its client does not wait for ever."""
    monkeypatch.setattr(client_wait, "HEARTBEAT_TIMEOUT", 0.5)
    manager = WelcomeKernelManager()
    client = manager.client()
    client.start_channels()
    with pytest.raises(KernelDied, match="no kernel is running"):
        client.wait_for_ready()
    client.stop_channels()
    manager.context.destroy(linger=0)
    manager.cleanup_connection_file()


class Heart(HBChannelABC):
    """A heartbeat with nothing but what jupyter_client asks of one."""

    time_to_dead = 1.0

    def __init__(self, *_):
        pass

    def start(self):
        pass

    stop = pause = unpause = start

    def is_alive(self):
        return True

    is_beating = is_alive


class Overriding(BlockingKernelClient):
    """What users write: more of the same."""

    hb_channel_class = Type(Heart)
    called = ()

    def connect_iopub(self, identity=None):
        self.called += ("connect_iopub",)
        return super().connect_iopub(identity)

    def wait_for_ready(self, timeout=None):
        super().wait_for_ready(timeout)
        self.called += ("ready",)


def test_a_class_of_ones_own_that_overrides(connection, attach):
    """S3: it keeps what it overrides, its heartbeat too, and ours is its super()."""
    client = attach(connection, with_welcome(Overriding))
    client.wait_for_ready(timeout=DEADLINE)
    assert client.called == ("connect_iopub", "ready")
    while client.get_iopub_msg(timeout=DEADLINE)["msg_type"] != "iopub_welcome":
        pass
