"""A client that accounts for every message: what the trials and the soak see a kernel through.

Unlike the lean client it is not made for speed: it reads every part of every message, knows all
channels and sends what it is told, also what a kernel answers with an error. It reads as fast as
it can and never drops anything itself. Nothing here waits without a deadline.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime, timezone
from typing import Any, NamedTuple

import zmq
from lean_client import ANSWER_TIME, JOIN_RETRY, SILENCE
from lean_messages import DELIMITER, KernelLost

CHANNELS = {"shell": zmq.DEALER, "control": zmq.DEALER, "iopub": zmq.SUB}


class Silence(KernelLost):
    """A message that was waited for did not come in time."""


class Damaged(KernelLost):
    """What came is no message, or is not signed with the kernel's key."""


class Message(NamedTuple):
    """The parts of a received message that matter here."""

    kind: str
    parent: str
    """Id of the request that it belongs to; empty: none."""
    content: dict[str, Any]

    @property
    def is_idle(self) -> bool:
        return self.kind == "status" and self.content["execution_state"] == "idle"


class Reader:
    """Takes received frames apart.

    Args:
        key: the connection file's.
    """

    def __init__(self, key: str | bytes) -> None:
        self._mac = hmac.new(key if isinstance(key, bytes) else key.encode(), None, hashlib.sha256)

    def sign(self, signed: list[bytes]) -> bytes:
        mac = self._mac.copy()
        for each in signed:
            mac.update(each)
        return mac.hexdigest().encode()

    def message(self, frames: list[bytes]) -> Message:
        """Return what ``frames`` say. Raises Damaged."""
        try:
            start = frames.index(DELIMITER) + 1
            signed = frames[start + 1 : start + 5]
            if not hmac.compare_digest(self.sign(signed), frames[start]):
                raise Damaged("the kernel sent a message with a wrong signature")
            header, parent, _, content = map(json.loads, signed)
            return Message(header["msg_type"], parent.get("msg_id", ""), content)
        except (LookupError, ValueError, TypeError) as error:
            raise Damaged(f"the kernel sent what is no message: {error!r}") from error


class Client:
    """A client of one running kernel. Belongs to one thread.

    Args:
        connection: what a connection file holds.
        is_alive: whether the kernel's process runs.
        topics: what to subscribe to.
    """

    def __init__(
        self,
        connection: Mapping[str, Any],
        is_alive: Callable[[], bool],
        topics: tuple[bytes, ...] = (b"",),
    ) -> None:
        self._reader = Reader(connection["key"])
        self._is_alive = is_alive
        self.session = uuid.uuid4().hex
        self._sent = 0
        self._context = zmq.Context()
        self._sockets = {}
        for channel, kind in CHANNELS.items():
            made = self._sockets[channel] = self._context.socket(kind)
            made.linger = 0
            made.set_hwm(0)  # what we are slow to take waits in our memory
            if kind == zmq.SUB:
                for topic in topics:  # before it connects, for kernels that welcome
                    made.subscribe(topic)
            made.connect(endpoint(connection, channel))

    def close(self) -> None:
        self._context.destroy(linger=0)

    def join(self) -> None:
        """Return when the kernel answers, and what it publishes is heard."""
        deadline = time.monotonic() + ANSWER_TIME
        while True:
            self.send("kernel_info_request", {})
            # What was published before we had joined is not repeated: ask until something comes.
            if self._sockets["iopub"].poll(JOIN_RETRY):
                break
            self._check(deadline, "anything on IOPub")
        self.fence()

    def fence(self, seconds: float = ANSWER_TIME) -> None:
        """Return when everything that was published before has been read."""
        for _ in self.published(self.send("kernel_info_request", {}), seconds):
            pass

    def send(self, kind: str, content: dict[str, Any], channel: str = "shell") -> str:
        """Send a request; return its id."""
        self._sent += 1
        msg_id = f"{self.session}_{self._sent}"
        header = {
            "msg_id": msg_id,
            "msg_type": kind,
            "session": self.session,
            "username": "trial",
            "date": datetime.now(timezone.utc).isoformat(),
            "version": "5.3",
        }
        signed = [json.dumps(header).encode(), b"{}", b"{}", json.dumps(content).encode()]
        self.send_frames([DELIMITER, self._reader.sign(signed), *signed], channel)
        return msg_id

    def send_frames(self, frames: list[bytes], channel: str) -> None:
        """Send what may be no message at all."""
        self._sockets[channel].send_multipart(frames)

    def execute(self, code: str | dict[str, Any], **content: Any) -> str:
        """Send a cell; return the request's id. A dict is an order to the workload kernel."""
        text = code if isinstance(code, str) else json.dumps(code)
        # One that fails must not take others with it: each is to be answered by itself.
        return self.send("execute_request", {"code": text, "stop_on_error": False, **content})

    def run(self, code: str | dict[str, Any], seconds: float = ANSWER_TIME) -> list[Message]:
        """Run a cell to its end; return what was published for it, then its reply."""
        msg_id = self.execute(code)
        published = list(self.published(msg_id, seconds))
        return [*published, self.reply(msg_id, seconds)]

    def reply(self, msg_id: str, seconds: float = ANSWER_TIME, channel: str = "shell") -> Message:
        """Return the reply to a request; those to others are passed over."""
        deadline = time.monotonic() + seconds
        while (got := self.receive(channel, deadline)).parent != msg_id:
            pass
        return got

    def published(self, msg_id: str, seconds: float = ANSWER_TIME) -> Iterator[Message]:
        """Yield what is published for a request, up to its idle status.

        Args:
            msg_id: the request's.
            seconds: that may pass between two messages of whatever kind.
        """
        while True:
            got = self.receive("iopub", time.monotonic() + seconds)
            if got.parent == msg_id:
                yield got
                if got.is_idle:
                    return

    def receive(self, channel: str, deadline: float) -> Message:
        """Return the next message.

        Raises:
            Silence: none came before the ``deadline`` of the monotonic clock.
            Damaged: no message, or not the kernel's.
            KernelLost: the kernel's process ended.
        """
        receiver = self._sockets[channel]
        while True:
            try:
                return self._reader.message(receiver.recv_multipart(zmq.NOBLOCK))
            except zmq.Again:
                left = max(0, deadline - time.monotonic()) * 1000
                if not receiver.poll(min(SILENCE, left)):
                    self._check(deadline, f"a message on {channel}")

    def _check(self, deadline: float, awaited: str) -> None:
        """Raise if there is nothing left to wait for."""
        if not self._is_alive():
            raise KernelLost("the kernel's process ended")
        if time.monotonic() > deadline:
            raise Silence(f"waited in vain for {awaited}")


def endpoint(connection: Mapping[str, Any], channel: str) -> str:
    return f"{connection['transport']}://{connection['ip']}:{connection[f'{channel}_port']}"
