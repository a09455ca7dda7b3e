"""Kernels that answer only ``kernel_info_request``, in ways that no real kernel does."""

from __future__ import annotations

import queue
import threading
import uuid

import zmq

from echokernel.conformance.raw_messages import CHANNELS, build_message, parse_message

from .kernel_processes import KEY
from .waits import DEADLINE

EVENT_TIME = 100
"""Milliseconds after which the thread checks whether it must end."""


class FakeKernel:
    """A kernel in a thread, with a ``publisher`` of type PUB or XPUB.

    Args:
        info: content of its ``kernel_info_reply``.
        silent_for: number of requests whose status it does not publish, as if the subscriber had
            subscribed too late.
        welcomes: whether it sends welcomes; XPUB only.
        forged: whether a message with a wrong signature precedes the first message.
    """

    def __init__(
        self, context, publisher=zmq.XPUB, info=None, silent_for=0, welcomes=True, forged=False
    ):
        self.info = info or {}
        self.silent_for = silent_for
        self.welcomes = welcomes
        self.forged = forged
        self.session = uuid.uuid4().hex
        self.requests = 0
        self._events = queue.SimpleQueue()
        kinds = {"iopub": publisher, "hb": zmq.REP}
        self._sockets = {name: context.socket(kinds.get(name, zmq.ROUTER)) for name in CHANNELS}
        if publisher == zmq.XPUB:
            self._sockets["iopub"].setsockopt(zmq.XPUB_VERBOSE, 1)
        self.connection = {"transport": "tcp", "ip": "127.0.0.1", "key": KEY,
                           "signature_scheme": "hmac-sha256"}  # fmt: skip
        for name, sock in self._sockets.items():
            self.connection[f"{name}_port"] = sock.bind_to_random_port("tcp://127.0.0.1")
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ending.set()
        self._thread.join()

    def next_event(self):
        """Wait for the next event of the XPUB socket: a subscription or an unsubscribe."""
        return self._events.get(timeout=DEADLINE)

    def _run(self):
        poller = zmq.Poller()
        handlers = {"shell": self._answer, "hb": self._beat}
        if self._sockets["iopub"].type == zmq.XPUB:
            handlers["iopub"] = self._welcome
        for name in handlers:
            poller.register(self._sockets[name], zmq.POLLIN)
        while not self._ending.is_set():
            ready = dict(poller.poll(EVENT_TIME))
            for name, handler in handlers.items():
                if self._sockets[name] in ready:
                    handler(self._sockets[name])

    def _beat(self, heart):
        heart.send(heart.recv())

    def _answer(self, shell):
        peer, *frames = shell.recv_multipart()
        request = parse_message(frames, KEY)
        assert request["msg_type"] == "kernel_info_request"
        self.requests += 1
        publishes = self.requests > self.silent_for
        if publishes:
            self.publish("status", {"execution_state": "busy"}, request["header"])
        frames = self._build_message("kernel_info_reply", self.info, request["header"])
        shell.send_multipart([peer, *frames])
        if publishes:
            self.publish("status", {"execution_state": "idle"}, request["header"])

    def _welcome(self, xpub):
        event = xpub.recv()
        self._events.put(event)
        if self.welcomes and event[:1] == b"\x01":
            topic = event[1:]
            frames = self._build_message("iopub_welcome", {"subscription": topic.decode()})
            xpub.send_multipart([topic, *frames] if topic else frames)

    def publish(self, msg_type, content, parent=None):
        frames = self._build_message(msg_type, content, parent)
        if self.forged:
            self.forged = False  # only once: later messages are valid
            self._sockets["iopub"].send_multipart([frames[0], b"forged", *frames[2:]])
        self._sockets["iopub"].send_multipart(frames)

    def _build_message(self, msg_type, content, parent=None):
        return build_message(msg_type, content, session=self.session, parent=parent, key=KEY)[1]
