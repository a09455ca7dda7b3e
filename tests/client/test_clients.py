"""The welcome clients, on running, starting, restarting and dying kernels and on fakes (S1-S3)."""

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
    """Start a kernel by a WelcomeKernelManager: ``manage(kernel_name=...)``."""
    managers = []

    def start_kernel(kernel_name="echo-handshake", **options):
        if kernel_name in ("python3", "xpython-raw"):
            # Classic starts. If jupyter_client chooses a port, another test can bind it before the
            # kernel does.
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
def scripted(tmp_path, start):
    """A running kernel whose cells are commands; (connection, process)."""
    started = []

    def start_and_note(*arguments):
        started.append(start(*arguments, **KERNEL_PATH))

    return start_classic(tmp_path, start_and_note, *SCRIPTED), started[0]


def arrived_on_iopub(client):
    """Return the messages that have arrived on IOPub: (msg_type, msg_id), in order."""
    arrived = []
    while client.iopub_channel.msg_ready():
        message = client.get_iopub_msg(timeout=0)
        arrived.append((message["msg_type"], message["header"]["msg_id"]))
    return arrived


def run_cell(client, code="1"):
    """Execute; return the types of the publications for the cell, busy to idle."""
    published = []
    client.execute_interactive(
        code, timeout=DEADLINE, allow_stdin=False, output_hook=published.append
    )
    return [message["content"].get("execution_state", message["msg_type"]) for message in published]


def is_complete(published):
    return published[0] == "busy" and published[1] == "execute_input" and published[-1] == "idle"


# --- joining ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [BlockingWelcomeClient, AsyncWelcomeClient, ThreadedWelcomeClient])
async def test_a_client_subscribes_once_before_it_connects(kind, context, attach):
    """S1, C4: it subscribes to all topics and to its presence topic; each arrives once."""
    with FakeKernel(context) as kernel:
        client = attach(kernel.connection, kind)
        expected = [b"\x01", b"\x01" + presence_topic(client.session.session)]
        assert [kernel.next_event() for _ in expected] == expected
        client.stop_channels()
        ends = [b"\x00" + event[1:] for event in expected]
        assert sorted(kernel.next_event() for _ in ends) == ends


def test_one_request_is_sufficient(context, attach, monkeypatch):
    """S2: the welcome proves the subscription; the request's status messages need not arrive."""
    for limit in ("REPLY_TIMEOUT", "WELCOME_TIMEOUT"):  # no second request on a slow machine
        monkeypatch.setattr(readiness, limit, DEADLINE)
    info = {"protocol_version": "5.6", "supported_features": ["iopub_welcome"]}
    with FakeKernel(context, info=info, silent_for=9) as kernel:
        client = attach(kernel.connection)
        client.wait_for_ready(timeout=DEADLINE)
        assert kernel.requests == 1
        assert {kind for kind, _ in arrived_on_iopub(client)} == {"iopub_welcome"}


@pytest.mark.parametrize(
    ("publisher", "version"),
    [(zmq.PUB, "5.3"), (zmq.XPUB, "5.3"), (zmq.XPUB, "5.6")],
    ids=["PUB", "XPUB without a welcome", "an advertised welcome that is not sent"],
)
def test_requests_are_repeated_without_a_welcome(publisher, version, context, attach):
    """S2: earlier publications never arrive, so the client repeats its request until one does."""
    info = {"protocol_version": version}
    with FakeKernel(context, publisher, info, silent_for=3, welcomes=False) as kernel:
        client = attach(kernel.connection)
        client.wait_for_ready(timeout=DEADLINE)
        assert kernel.requests >= 4
        # The replies to these requests are not left on the shell channel.
        assert not client.shell_channel.msg_ready()


def test_the_session_adapts_to_an_older_protocol(context, attach):
    """S3: the client adapts as jupyter_client's client does."""
    with FakeKernel(context, info={"protocol_version": "4.1"}) as kernel:
        client = attach(kernel.connection)
        client.wait_for_ready(timeout=DEADLINE)
        assert client.session.adapt_version == 4


def test_a_reply_without_a_version_ends_the_wait(context, attach):
    """S3: the session does not adapt then."""
    with FakeKernel(context, info={"status": "error"}) as kernel:
        client = attach(kernel.connection)
        client.wait_for_ready(timeout=DEADLINE)
        assert client.session.adapt_version == 0


def test_a_message_with_a_wrong_signature_is_not_a_proof(context, attach, caplog):
    """S2: a message with a wrong signature is dropped, and the wait continues."""
    with FakeKernel(context, zmq.PUB, forged=True) as kernel:
        client = attach(kernel.connection)
        client.wait_for_ready(timeout=DEADLINE)
        assert {kind for kind, _ in arrived_on_iopub(client)} == {"status"}
    assert "dropped an invalid IOPub message" in caplog.text


def test_over_ipc(manage):  # a short name: the path of a socket has at most 107 characters
    """S1: the client connects over ipc as jupyter_client does, also with CURVE."""
    for encryption in ("disabled", "required"):
        client = manage(transport="ipc", transport_encryption=encryption).client()
        client.start_channels()
        client.wait_for_ready(timeout=DEADLINE)
        assert is_complete(run_cell(client))
        client.stop_channels()


def test_a_client_uses_the_curve_keys(manage):
    """S1: a client without the keys receives nothing from an encrypted kernel."""
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


def is_contiguous_in(part, whole):
    """Return True if ``part`` is a slice of ``whole``."""
    begin = whole.index(part[0])
    return whole[begin : begin + len(part)] == part


def messages_until_idle(other, sentinel):
    """Return what another client receives, up to the idle of its request ``sentinel``."""
    messages = []
    while True:
        message = other.receive_publication()
        messages.append((message["msg_type"], message["header"]["msg_id"]))
        if message["parent_header"].get("msg_id") == sentinel and (
            message["content"].get("execution_state") == "idle"
        ):
            return messages


def test_messages_that_arrive_during_the_wait_are_delivered(context, scripted, attach):
    """S2: displays of another client's cell, status messages and welcomes arrive in order."""
    connection, _ = scripted
    other = RawClient(context, connection)
    flood = other.execute("display_many 300")
    client = attach(connection)
    client.wait_for_ready(timeout=DEADLINE)
    sentinel = other.execute("say done")
    for request in (flood, sentinel):
        other.receive_reply(request)
    # After the replies everything is sent; a cell of this client collects what is in transit.
    recorder = Recorder(client)
    assert is_complete(run_cell(recorder, "say mine"))
    published = messages_until_idle(other, sentinel)
    delivered = [message for message in recorder.messages if message in published]
    assert delivered
    assert is_contiguous_in(delivered, published)
    assert delivered[-1] == published[-1]
    other.close()


class Recorder:
    """A client's ``execute_interactive``, which records every message that it reads."""

    def __init__(self, client):
        self._client = client
        self.messages = []
        read = client.iopub_channel.get_msg

        def get_msg(timeout=None):
            message = read(timeout)
            self.messages.append((message["msg_type"], message["header"]["msg_id"]))
            return message

        client.iopub_channel.get_msg = get_msg

    def execute_interactive(self, *arguments, **options):
        return self._client.execute_interactive(*arguments, **options)


def test_the_welcome_can_be_read_after_the_wait(connection, attach):
    """S2: the welcome is not discarded; another client receives its welcome, too."""
    client = attach(connection)
    client.wait_for_ready(timeout=DEADLINE)
    assert run_cell(client)[-1] == "idle"
    another = attach(connection)
    another.wait_for_ready(timeout=DEADLINE)
    while another.get_iopub_msg(timeout=DEADLINE)["msg_type"] != "iopub_welcome":
        pass


@pytest.mark.parametrize("kind", [BlockingWelcomeClient, AsyncWelcomeClient])
async def test_a_flood_of_publications_does_not_prolong_the_wait(kind, context, attach):
    """S2: the wait ends at its deadline, and other tasks run meanwhile."""
    sockets = {name: context.socket(zmq.ROUTER) for name in CHANNELS}  # no socket answers
    sockets["iopub"] = publisher = context.socket(zmq.XPUB)
    publisher.sndhwm = 0
    connection = {"transport": "tcp", "ip": "127.0.0.1", "key": "",
                  "signature_scheme": "hmac-sha256"}  # fmt: skip
    for name, sock in sockets.items():
        connection[f"{name}_port"] = sock.bind_to_random_port("tcp://127.0.0.1")
    client = attach(connection, kind)
    assert receive_frames(publisher) == [b"\x01"]
    frames = build_message("status", {"execution_state": "busy"}, key="")[1]
    for _ in range(50_000):
        publisher.send_multipart(frames)
    turns = []

    async def count_turns():
        while True:
            turns.append(await asyncio.sleep(0))

    other_task = asyncio.create_task(count_turns())
    await asyncio.sleep(0)
    turns.clear()
    with pytest.raises(NotReady):
        await ensure_async(client.wait_for_ready(timeout=0.5))
    assert await ensure_async(client.iopub_channel.socket.poll(DEADLINE * SECOND)), (
        "no message is left, so the wait has not ended early"
    )
    assert len(turns) > 1 or kind is BlockingWelcomeClient
    other_task.cancel()
    client.stop_channels()
    # libzmq 4.3.5 aborts the process (session_base.cpp:233) if a peer disconnects while a socket
    # with a partly sent message for that peer is closed with linger=0.
    while receive_frames(publisher)[0][:1] != b"\x00":
        pass
    for sock in sockets.values():
        sock.close(linger=0)


async def test_a_concurrent_reader_keeps_its_messages(connection, attach):
    """S2, S3: the wait does not take messages from a task that reads."""
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


async def test_the_asyncio_client(connection, attach):
    """S2, S3: the client is ready, and then receives a cell from busy to idle."""
    client = attach(connection, AsyncWelcomeClient)
    assert isinstance(client, AsyncKernelClient)
    await client.wait_for_ready(timeout=DEADLINE)
    published = []
    await client.execute_interactive(
        "hello", timeout=DEADLINE, allow_stdin=False, output_hook=published.append
    )
    assert [m["msg_type"] for m in published] == ["status", "execute_input", "stream", "status"]


class Callbacks(ThreadedZMQSocketChannel):
    """A channel with callbacks, such as a console defines."""

    def __init__(self, *arguments):
        self.messages = queue.SimpleQueue()
        super().__init__(*arguments)

    def call_handlers(self, msg):
        self.messages.put(msg)


class ConsoleClient(ThreadedKernelClient):
    iopub_channel_class = Type(Callbacks)
    shell_channel_class = Type(Callbacks)


def test_the_threaded_client_keeps_its_channels(connection, attach):
    """S2, S3: a derived client keeps its channels; their callbacks receive every message."""
    client = attach(connection, with_welcome(ConsoleClient))
    assert isinstance(client, ConsoleClient)
    assert isinstance(client.iopub_channel, Callbacks)
    client.wait_for_ready(timeout=DEADLINE)
    msg_id = client.execute("hello")
    types = []
    while True:
        message = client.iopub_channel.messages.get(timeout=DEADLINE)
        types.append(message["msg_type"])
        if message["parent_header"].get("msg_id") == msg_id and (
            message["content"].get("execution_state") == "idle"
        ):
            break
    assert "iopub_welcome" in types
    assert types[-4:] == ["status", "execute_input", "stream", "status"]
    assert client.shell_channel.messages.get(timeout=DEADLINE)["parent_header"]["msg_id"] == msg_id


def test_a_null_parent_header_becomes_a_dict(manage, attach):
    """S2: xeus-python's welcome has such a parent header."""
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
def test_a_hundred_clients_receive_complete_cells(name, manage):
    """S2, W6: each client executes immediately, and receives its cell from busy to idle."""
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
def test_a_client_can_wait_again_after_a_restart(name, manage):
    """S1, S2, L6: messages of the old kernel do not prove that the new kernel's messages arrive."""
    # jupyter_client's own provisioner does not start kernels on another loopback address.
    where = {"ip": OWN_ADDRESS} if name == "echo-handshake" else {}
    manager = manage(kernel_name=name, **where)
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=DEADLINE)
    for _ in range(3):
        client.execute("1")  # its messages are not read
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


def test_a_kernel_that_dies_after_its_registration(kernelspecs, manage):
    """S2, L4: the wait ends immediately, with the exit status and the last lines of stderr."""
    argv = [sys.executable, "-m", "echokernel", "--kernel-class", "no_such_module:Kernel", "-f",
            "{connection_file}"]  # fmt: skip
    kernelspecs("ends", argv=argv, metadata=handshake_metadata(), kernel_protocol_version="5.6")
    with pytest.raises(KernelDied, match="no_such_module") as caught:
        start_and_wait(manage, "ends")
    assert caught.value.exit_status not in (0, None)


def test_a_kernel_of_another_provisioner_that_dies(kernelspecs, manage):
    """S2: jupyter_client's own provisioner provides only the exit status."""
    argv = [sys.executable, "-c", "raise SystemExit(7)", "{connection_file}"]
    kernelspecs("ends", argv=argv)
    with pytest.raises(RuntimeError, match=r"ended \(status 7\) before it was ready") as caught:
        start_and_wait(manage, "ends")
    assert isinstance(caught.value, KernelDied)
    assert caught.value.exit_status == 7


def test_a_kernel_that_was_shut_down_ends_the_wait(manage):
    """S2: the manager knows that no kernel is running."""
    manager = manage()
    client = manager.client()
    client.start_channels()
    manager.shutdown_kernel(now=True)
    with pytest.raises(KernelDied, match="no kernel is running"):
        client.wait_for_ready()
    client.stop_channels()


def test_the_heartbeat_reports_that_a_foreign_kernel_died(context, scripted, attach, monkeypatch):
    """S2: without a manager, only the heartbeat shows that a kernel died."""
    monkeypatch.setattr(client_wait, "HEARTBEAT_TIMEOUT", 1.5)
    connection, process = scripted
    other = RawClient(context, connection)
    other.execute("sleep_in_one_call 60")
    assert [other.receive_publication()["msg_type"] for _ in range(2)] == [
        "status",
        "execute_input",
    ]
    client = attach(connection)
    assert client.iopub_channel.socket.poll(DEADLINE * SECOND), "no welcome arrives"
    killer = threading.Timer(0.5, process.popen.send_signal, [signal.SIGKILL])
    killer.start()
    with pytest.raises(KernelDied, match="no heartbeat"):
        client.wait_for_ready(timeout=DEADLINE)
    killer.join()
    other.close()


def test_the_wait_ends_without_a_kernel(attach):
    """S2: after the timeout, the error reports what was tried."""
    low = free_range(5)
    names = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")
    ports = {name: low + number for number, name in enumerate(names)}
    client = attach({"transport": "tcp", "ip": "127.0.0.1", "key": "k", **ports})
    with pytest.raises(NotReady, match=r"no reply to 1 kernel_info_request") as caught:
        client.wait_for_ready(timeout=0.3)
    assert caught.value.waited >= 0.3


def test_a_timeout_of_zero_polls_once(context, attach):
    """S3: as with jupyter_client, the wait then ends immediately."""
    with FakeKernel(context, zmq.PUB, silent_for=10**6) as kernel:
        client = attach(kernel.connection)
        with pytest.raises(NotReady):
            client.wait_for_ready(timeout=0)


def test_the_error_reports_that_iopub_is_silent(context, attach):
    """S2: the error states whether the reply or the IOPub messages are missing."""
    with FakeKernel(context, zmq.PUB, silent_for=10**6) as kernel:
        client = attach(kernel.connection)
        with pytest.raises(RuntimeError, match="none of its IOPub messages arrives"):
            client.wait_for_ready(timeout=8)
        assert kernel.requests > 1


@pytest.mark.parametrize(
    "kind", [BlockingWelcomeClient, ThreadedWelcomeClient], ids=["blocking", "threaded"]
)
def test_stopped_channels_end_the_wait(kind, connection, attach):
    """S3: a client without channels asks for a new client."""
    client = attach(connection, kind)
    client.stop_channels()  # immediately; no thread of the client remains
    with pytest.raises(NotReady, match="make a new client"):
        client.wait_for_ready(timeout=DEADLINE)


# --- set by name --------------------------------------------------------------------------------


def test_each_client_of_a_manager_has_its_own_session():
    """C4: jupyter_client's clients share a session id, so that a kernel cannot distinguish them."""
    manager = WelcomeKernelManager()
    ids = {manager.client().session.session for _ in range(3)} | {manager.session.session}
    assert len(ids) == 4
    session = manager.session.clone()
    assert manager.client(session=session).session.session == manager.session.session


def test_a_manager_extends_the_configured_client():
    """S3: ``jupyter console`` sets such a client."""

    class Configured(BlockingKernelClient):
        pass

    manager = WelcomeKernelManager()
    manager.client_factory = Configured
    client = manager.client()
    assert isinstance(client, Configured)
    assert isinstance(client, BlockingWelcomeClient)
    assert type(manager.client()) is type(client)


@pytest.mark.parametrize(
    ("manager", "client"),
    [
        (WelcomeKernelManager, BlockingWelcomeClient),
        (AsyncWelcomeKernelManager, AsyncWelcomeClient),
    ],
)
def test_managers_make_welcome_clients(manager, client):
    """S3: no configuration is necessary."""
    assert type(manager().client()) is client


@pytest.mark.parametrize(
    ("manager", "client"),
    [(KernelManager, BlockingWelcomeClient), (AsyncKernelManager, AsyncWelcomeClient)],
)
def test_client_class_is_sufficient(manager, client):
    """S3: jupyter_client's own setting is sufficient."""
    configured = manager(client_class=f"echokernel.client.{client.__name__}").client()
    assert type(configured) is client


def test_other_classes_cannot_be_extended():
    with pytest.raises(TypeError, match="object is not derived from jupyter_client's"):
        with_welcome(object)


def test_a_manager_of_a_foreign_kernel_waits_while_it_is_busy(context, scripted, tmp_path):
    """S3: the manager has no process to check, and a busy kernel is not a dead kernel."""
    connection, _ = scripted
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


def test_a_manager_without_a_kernel_ends_the_wait(monkeypatch):
    """S3: like jupyter_client's client, this client does not wait forever."""
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
    """A heartbeat with only the members that jupyter_client requires."""

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
    """A user's client that overrides methods."""

    hb_channel_class = Type(Heart)
    called = ()

    def connect_iopub(self, identity=None):
        self.called += ("connect_iopub",)
        return super().connect_iopub(identity)

    def wait_for_ready(self, timeout=None):
        super().wait_for_ready(timeout)
        self.called += ("ready",)


def test_a_derived_client_keeps_its_overrides(connection, attach):
    """S3: its heartbeat class remains, too, and its ``super()`` is the welcome client."""
    client = attach(connection, with_welcome(Overriding))
    client.wait_for_ready(timeout=DEADLINE)
    assert client.called == ("connect_iopub", "ready")
    while client.get_iopub_msg(timeout=DEADLINE)["msg_type"] != "iopub_welcome":
        pass
