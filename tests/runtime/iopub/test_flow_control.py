"""P3: a subscriber that does not read: what it keeps, what it loses, and what others notice."""

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

PATIENT = 300
"""Seconds: messages are made and read by the hundred thousand, and a machine may be slow."""

pytestmark = pytest.mark.timeout(3 * PATIENT)

MORE_THAN_THE_BOUND = 160_000
MB = 1_000_000


@pytest.fixture
def kernel(context, tmp_path, start, request):
    """A kernel that floods on demand, and a client that receives only the replies to its requests.

    Its parameter is a list of further arguments for the kernel.
    """
    process = []
    settings = getattr(request, "param", ())

    def start_kernel(file, *arguments):
        kernel_class = ("--kernel-class", "support.scripted_kernels:ScriptedKernel")
        process.append(start(file, *kernel_class, *settings, *arguments, **KERNEL_PATH))

    made = RawClient(context, start_classic(tmp_path, start_kernel), topics=())
    made.process = process[0]
    yield made
    made.close()


def execute_to_reply(client, code):
    """Execute; return the request's id as soon as it is answered."""
    msg_id = client.execute(code)
    assert client.receive_reply(msg_id, timeout=PATIENT)["content"]["status"] == "ok"
    return msg_id


class Reader:
    """A subscriber to everything, that counts what it has read."""

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
            pass  # another's `starting` can come before

    def displays(self, msg_id):
        """Return how many displays of a request were read."""
        return sum(n for parent, n in self._displays.items() if msg_id.encode() in parent)

    def read_until_idle(self, msg_id):
        """Read until the request ``msg_id`` is said to be done."""
        while msg_id not in self.idle:
            self.read()

    def read_displays(self, msg_id, number):
        while self.displays(msg_id) < number:
            self.read()

    def read_until_told_the_loss(self):
        """Read until it is over; return all that was said of it."""
        while not any("were not sent" in text for _, text in self.notices):
            self.read()
        return self.notices

    def read(self):
        frames = receive_frames(self.socket, PATIENT)  # what is dropped has to be made, too
        header, parent_header = frames[-4], frames[-3]
        if b'"display_data"' in header:  # a hundred thousand of them: not worth a look
            self._displays[parent_header] += 1
            return
        got = parse_message(frames, self.key)
        parent = got["parent_header"].get("msg_id")
        if got["msg_type"] == "comm_msg":
            self.comms.append(got["content"]["data"]["text"])
        elif got["content"].get("name") == "stderr":
            self.notices.append((parent, got["content"]["text"]))
        elif (got["msg_type"], got["content"]) == IDLE:
            self.idle.add(parent)


def test_who_pauses_loses_nothing(kernel):
    """P3: within the bound."""
    sleeper = Reader(kernel)
    msg_id = execute_to_reply(kernel, "display_many 50000")
    sleeper.read_until_idle(msg_id)
    assert sleeper.displays(msg_id) == 50_000
    assert sleeper.notices == []


def test_who_never_reads_loses_output_and_nothing_else(kernel):
    """P3: beyond the bound; what is said of requests and of comms still has room."""
    sleeper = Reader(kernel)
    flood = execute_to_reply(kernel, f"display_many {MORE_THAN_THE_BOUND}")
    later = [execute_to_reply(kernel, f"send_comm_message {number}") for number in range(20)]
    sleeper.read_until_idle(later[-1])
    assert 90_000 < sleeper.displays(flood) < 131_000
    assert {flood, *later} <= sleeper.idle
    assert sleeper.comms == [str(number) for number in range(20)]
    (parent, begins), (_, ends) = sleeper.read_until_told_the_loss()
    assert parent == flood
    assert "stopped reading" in begins
    assert f"{MORE_THAN_THE_BOUND - sleeper.displays(flood)} messages were not sent" in ends
    # It is as good as new.
    again = execute_to_reply(kernel, "display_many 10")
    sleeper.read_until_idle(again)
    assert sleeper.displays(again) == 10
    lost = MORE_THAN_THE_BOUND - sleeper.displays(flood)
    kernel.send("shutdown_request", {"restart": False}, "control")
    log = kernel.process.wait_for_end(PATIENT)[1].splitlines()
    assert "a subscriber does not read" in log[0]
    assert f"{lost} messages were lost to a subscriber" in log[1]
    assert len(log) == 2


@pytest.mark.parametrize("others", [0, 1])
def test_a_client_whose_own_queue_is_long(others, kernel):
    """P3: what it has there is sent, and for the kernel's ZeroMQ it is not: it hears of what was
    read only now and then. A queue that it takes for full must be no surprise."""
    sleeper, readers = Reader(kernel, rcvhwm=30_000), [Reader(kernel) for _ in range(others)]
    flood = kernel.execute("display_many 200000")
    for reader in readers:
        reader.read_until_idle(flood)
        assert reader.displays(flood) == 200_000
    assert kernel.receive_reply(flood, timeout=PATIENT)["content"]["status"] == "ok"
    later = [execute_to_reply(kernel, "display_many 3") for _ in range(20)]
    sleeper.read_until_idle(later[-1])
    assert {flood, *later} <= sleeper.idle
    assert 90_000 < sleeper.displays(flood) < 200_000
    assert sleeper.read_until_told_the_loss()


def test_others_lose_nothing(kernel):
    """P3: the loss is only his who does not read; and what he must know reaches him later."""
    sleeper, reader = Reader(kernel), Reader(kernel)
    flood = kernel.execute(f"display_many {MORE_THAN_THE_BOUND}")
    reading = threading.Thread(target=reader.read_until_idle, args=(flood,))
    reading.start()
    assert kernel.receive_reply(flood, timeout=PATIENT)["content"]["status"] == "ok"
    reading.join(PATIENT)
    assert reader.displays(flood) == MORE_THAN_THE_BOUND
    later = [execute_to_reply(kernel, f"display_many {number}") for number in range(20)]
    reader.read_until_idle(later[-1])
    assert [reader.displays(msg_id) for msg_id in later] == list(range(20))
    sleeper.read_until_idle(later[-1])
    assert 90_000 < sleeper.displays(flood) < 131_000
    assert {flood, *later} <= sleeper.idle


SMALL_QUEUES = (
    "--FlowLimits.backlog_messages=10000",
    "--FlowLimits.high_water_mark=13000",
    "--FlowLimits.patience=9",  # a loaded machine pauses for more than three seconds
)


@pytest.mark.parametrize("kernel", [SMALL_QUEUES], indirect=True)
def test_a_slow_reader_beside_one_that_does_not_read(kernel):
    """P3: it is waited for, as long as it reads, though the other's full queue is given up; also
    when a newcomer is to be welcomed meanwhile."""
    sleeper, slow, fast = Reader(kernel), Reader(kernel), Reader(kernel)
    flood = kernel.execute("display_many 40000")
    newcomer = None
    while flood not in slow.idle:
        while fast.socket.poll(500):
            fast.read()
        # The kernel waits: the queue for this one may be full.
        if slow.displays(flood) and newcomer is None:
            newcomer = Reader(kernel, topic=b"websocket.of a page", welcomed=False)
        enough = slow.displays(flood) + 4000
        while slow.displays(flood) < enough and flood not in slow.idle:
            slow.read()
    assert slow.displays(flood) == fast.displays(flood) == 40_000
    newcomer.expect_welcome()
    assert newcomer.displays(flood) == 0
    sleeper.read_until_idle(flood)
    assert 9_000 < sleeper.displays(flood) < 14_000
    assert "up to " in sleeper.read_until_told_the_loss()[-1][1]


def test_shutdown_while_somebody_does_not_read(kernel):
    """P3, K6: what is still to be said is not waited with."""
    sleeper = Reader(kernel)
    msg_id = kernel.execute("display_many 109000")
    sleeper.read_displays(msg_id, 1)
    kernel.send("shutdown_request", {"restart": False}, "control")
    status, _ = kernel.process.wait_for_end(PATIENT)
    assert status == 0


def test_patience_is_for_others():
    """P3: a kernel that was stopped itself has not seen anybody stand still."""
    now = [0.0]
    patience = slow_readers.Patience(3.0, lambda: now[0])
    now[0] += 3600
    assert patience.lasts()
    began = now[0]
    while patience.lasts():
        now[0] += 0.01
    assert now[0] - began == pytest.approx(3.0 - 0.1, abs=0.02)


def test_what_is_kept_is_bounded_status_apart():
    """P3: what there is no room for is counted as lost; status goes last."""
    lost = []
    kept = Missed(lost.append, MISSED)
    kept.append([b"busy"], "status")
    for number in range(MISSED + 2):
        kept.append([number], "comm_msg")
    kept.append([b"idle"], "status")
    assert lost == [[0], [1]]
    assert kept.take() == [[b"busy"], *([n + 2] for n in range(MISSED)), [b"idle"]]
    assert not kept


@pytest.mark.parametrize("others", [0, 1])
def test_memory_is_bounded(others, kernel):
    """P3: 500 MB of output that somebody does not read."""
    sleeper, readers = Reader(kernel), [Reader(kernel) for _ in range(others)]
    process = psutil.Process(kernel.process.pid)
    before = process.memory_info().rss
    flood = kernel.execute(f"display_many 500 {MB}")
    for reader in readers:
        reader.read_until_idle(flood)
    assert kernel.receive_reply(flood, timeout=PATIENT)["content"]["status"] == "ok"
    assert process.memory_info().rss - before < 450 * MB
    after = execute_to_reply(kernel, "send_comm_message after")
    sleeper.read_until_idle(after)
    assert flood in sleeper.idle
    assert 200 < sleeper.displays(flood) < 300
