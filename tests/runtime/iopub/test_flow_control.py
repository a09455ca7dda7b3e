"""P3: a subscriber that does not read: its losses, and the effect on other subscribers."""

import collections
import threading

import psutil
import pytest
import zmq
from support import KERNEL_PATH
from support.kernel_processes import start_classic

from echokernel.conformance.raw_client import RawClient, receive_frames
from echokernel.conformance.raw_messages import IDLE, endpoint, parse_message
from echokernel.protocol.flow_control import FlowLimits
from echokernel.runtime.iopub.flow_control import slow_readers
from echokernel.runtime.iopub.flow_control.missed import Missed

MISSED = FlowLimits().held_messages

FLOOD_TIMEOUT = 300
"""Seconds; the tests publish and read several 100,000 messages, and the machine may be slow."""

pytestmark = pytest.mark.timeout(3 * FLOOD_TIMEOUT)

MORE_THAN_THE_BOUND = 160_000
MB = 1_000_000


@pytest.fixture
def kernel(context, tmp_path, start, request):
    """A client without IOPub subscriptions, of a kernel that can publish floods.

    The fixture's parameter is a list of further arguments for the kernel.
    """
    process = []
    settings = getattr(request, "param", ())

    def start_kernel(file, *arguments):
        kernel_class = ("--kernel-class", "support.scripted_kernels:ScriptedKernel")
        process.append(start(file, *kernel_class, *settings, *arguments, **KERNEL_PATH))

    client = RawClient(context, start_classic(tmp_path, start_kernel), topics=())
    client.process = process[0]
    yield client
    client.close()


def execute_to_reply(client, code):
    """Execute; return the request's id when the reply has arrived."""
    msg_id = client.execute(code)
    assert client.receive_reply(msg_id, timeout=FLOOD_TIMEOUT)["content"]["status"] == "ok"
    return msg_id


class Reader:
    """A subscriber that counts the messages that it has read."""

    def __init__(self, client, rcvhwm=10, topic=b"", welcomed=True):
        self.socket = client.context.socket(zmq.SUB)
        self.socket.rcvhwm = rcvhwm
        self.socket.subscribe(topic)
        self.socket.connect(endpoint(client.connection, "iopub"))
        self.key = client.key
        self.idle = set()
        self.comms = []
        self.notices = []
        self._displays = collections.Counter()
        if welcomed:
            self.expect_welcome()

    def expect_welcome(self):
        while parse_message(receive_frames(self.socket), self.key)["msg_type"] != "iopub_welcome":
            pass  # status `starting` can precede it

    def displays(self, msg_id):
        """Return the number of displays of a request that were read."""
        return sum(n for parent, n in self._displays.items() if msg_id.encode() in parent)

    def read_until_idle(self, msg_id):
        """Read until the idle status of the request ``msg_id``."""
        while msg_id not in self.idle:
            self.read()

    def read_displays(self, msg_id, number):
        while self.displays(msg_id) < number:
            self.read()

    def read_until_loss_notice(self):
        """Read until the notice with the number of lost messages; return all notices."""
        while not any("were not sent" in text for _, text in self.notices):
            self.read()
        return self.notices

    def read(self):
        frames = receive_frames(
            self.socket, FLOOD_TIMEOUT
        )  # the kernel also publishes lost messages
        header, parent_header = frames[-4], frames[-3]
        if b'"display_data"' in header:  # too many to parse
            self._displays[parent_header] += 1
            return
        message = parse_message(frames, self.key)
        parent = message["parent_header"].get("msg_id")
        if message["msg_type"] == "comm_msg":
            self.comms.append(message["content"]["data"]["text"])
        elif message["content"].get("name") == "stderr":
            self.notices.append((parent, message["content"]["text"]))
        elif (message["msg_type"], message["content"]) == IDLE:
            self.idle.add(parent)


def test_a_subscriber_that_pauses_loses_nothing(kernel):
    """P3: within the bound."""
    stalled = Reader(kernel)
    msg_id = execute_to_reply(kernel, "display_many 50000")
    stalled.read_until_idle(msg_id)
    assert stalled.displays(msg_id) == 50_000
    assert stalled.notices == []


def test_a_subscriber_that_does_not_read_loses_only_output(kernel):
    """P3: beyond the bound, status and comm messages are held for the subscriber."""
    stalled = Reader(kernel)
    flood = execute_to_reply(kernel, f"display_many {MORE_THAN_THE_BOUND}")
    later = [execute_to_reply(kernel, f"send_comm_message {number}") for number in range(20)]
    stalled.read_until_idle(later[-1])
    assert 90_000 < stalled.displays(flood) < 131_000
    assert {flood, *later} <= stalled.idle
    assert stalled.comms == [str(number) for number in range(20)]
    (parent, begins), (_, ends) = stalled.read_until_loss_notice()
    assert parent == flood
    assert "stopped reading" in begins
    assert f"{MORE_THAN_THE_BOUND - stalled.displays(flood)} messages were not sent" in ends
    # Afterwards it receives everything again.
    again = execute_to_reply(kernel, "display_many 10")
    stalled.read_until_idle(again)
    assert stalled.displays(again) == 10
    lost = MORE_THAN_THE_BOUND - stalled.displays(flood)
    kernel.send("shutdown_request", {"restart": False}, "control")
    log = kernel.process.wait_for_end(FLOOD_TIMEOUT)[1].splitlines()
    assert "a subscriber does not read" in log[0]
    assert f"{lost} messages were lost to a subscriber" in log[1]
    assert len(log) == 2


@pytest.mark.parametrize("others", [0, 1])
def test_a_client_with_a_long_receive_queue_loses_only_output(others, kernel):
    """P3: ZeroMQ in the kernel learns only now and then which messages the client has read, so it
    can consider the client's queue full while the queue has room."""
    stalled, readers = Reader(kernel, rcvhwm=30_000), [Reader(kernel) for _ in range(others)]
    flood = kernel.execute("display_many 200000")
    for reader in readers:
        reader.read_until_idle(flood)
        assert reader.displays(flood) == 200_000
    assert kernel.receive_reply(flood, timeout=FLOOD_TIMEOUT)["content"]["status"] == "ok"
    later = [execute_to_reply(kernel, "display_many 3") for _ in range(20)]
    stalled.read_until_idle(later[-1])
    assert {flood, *later} <= stalled.idle
    assert 90_000 < stalled.displays(flood) < 200_000
    assert stalled.read_until_loss_notice()


def test_other_subscribers_lose_nothing(kernel):
    """P3: only the subscriber that does not read loses output; its status messages arrive later."""
    stalled, reader = Reader(kernel), Reader(kernel)
    flood = kernel.execute(f"display_many {MORE_THAN_THE_BOUND}")
    reading = threading.Thread(target=reader.read_until_idle, args=(flood,))
    reading.start()
    assert kernel.receive_reply(flood, timeout=FLOOD_TIMEOUT)["content"]["status"] == "ok"
    reading.join(FLOOD_TIMEOUT)
    assert reader.displays(flood) == MORE_THAN_THE_BOUND
    later = [execute_to_reply(kernel, f"display_many {number}") for number in range(20)]
    reader.read_until_idle(later[-1])
    assert [reader.displays(msg_id) for msg_id in later] == list(range(20))
    stalled.read_until_idle(later[-1])
    assert 90_000 < stalled.displays(flood) < 131_000
    assert {flood, *later} <= stalled.idle


SMALL_QUEUES = (
    "--FlowLimits.backlog_messages=10000",
    "--FlowLimits.high_water_mark=13000",
    "--FlowLimits.patience=9",  # seconds; a loaded machine can pause for more than three
)


@pytest.mark.parametrize("kernel", [SMALL_QUEUES], indirect=True)
def test_the_kernel_waits_for_a_slow_reader_beside_a_subscriber_that_does_not_read(kernel):
    """P3: only the subscriber that does not read loses output, and a subscriber that joins while
    the kernel waits is welcomed."""
    stalled, slow, fast = Reader(kernel), Reader(kernel), Reader(kernel)
    flood = kernel.execute("display_many 40000")
    newcomer = None
    while flood not in slow.idle:
        while fast.socket.poll(500):
            fast.read()
        # The kernel waits: the queue of the slow reader may be full.
        if slow.displays(flood) and newcomer is None:
            newcomer = Reader(kernel, topic=b"websocket.x", welcomed=False)
        enough = slow.displays(flood) + 4000
        while slow.displays(flood) < enough and flood not in slow.idle:
            slow.read()
    assert slow.displays(flood) == fast.displays(flood) == 40_000
    newcomer.expect_welcome()
    assert newcomer.displays(flood) == 0
    stalled.read_until_idle(flood)
    assert 9_000 < stalled.displays(flood) < 14_000
    assert "up to " in stalled.read_until_loss_notice()[-1][1]


def test_shutdown_does_not_wait_for_a_subscriber_that_does_not_read(kernel):
    """P3, K8."""
    stalled = Reader(kernel)
    msg_id = kernel.execute("display_many 109000")
    stalled.read_displays(msg_id, 1)
    kernel.send("shutdown_request", {"restart": False}, "control")
    status, _ = kernel.process.wait_for_end(FLOOD_TIMEOUT)
    assert status == 0


def test_a_stop_of_the_kernel_itself_does_not_count_as_a_stalled_subscriber():
    """P3: the timeout measures only time during which the kernel ran."""
    now = [0.0]
    patience = slow_readers.Patience(3.0, lambda: now[0])
    now[0] += 3600
    assert patience.lasts()
    began = now[0]
    while patience.lasts():
        now[0] += 0.01
    assert now[0] - began == pytest.approx(3.0 - 0.1, abs=0.02)


def test_held_messages_are_bounded_and_status_messages_have_their_own_bound():
    """P3: messages beyond the bound are reported as lost, the oldest first; status stays."""
    lost = []
    held = Missed(lost.append, MISSED)
    held.append([b"busy"], "status")
    for number in range(MISSED + 2):
        held.append([number], "comm_msg")
    held.append([b"idle"], "status")
    assert lost == [[0], [1]]
    assert held.take() == [[b"busy"], *([n + 2] for n in range(MISSED)), [b"idle"]]
    assert not held


@pytest.mark.parametrize("others", [0, 1])
def test_memory_is_bounded(others, kernel):
    """P3: a subscriber does not read 500 MB of output."""
    stalled, readers = Reader(kernel), [Reader(kernel) for _ in range(others)]
    process = psutil.Process(kernel.process.pid)
    before = process.memory_info().rss
    flood = kernel.execute(f"display_many 500 {MB}")
    for reader in readers:
        reader.read_until_idle(flood)
    assert kernel.receive_reply(flood, timeout=FLOOD_TIMEOUT)["content"]["status"] == "ok"
    assert process.memory_info().rss - before < 450 * MB
    after = execute_to_reply(kernel, "send_comm_message after")
    stalled.read_until_idle(after)
    assert flood in stalled.idle
    assert 200 < stalled.displays(flood) < 300
