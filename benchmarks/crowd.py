"""Many subscribers of one kernel, who read all they are sent."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import zmq
from lean_client import ANSWER_TIME, SILENCE, LeanClient
from lean_messages import KernelLost, Request, is_display, is_idle, signed_frames

JOIN_RETRY = 0.05
"""Seconds for a message to reach those who have joined; then another one is asked for."""


class Crowd:
    """A number of SUB sockets, each with a connection of its own.

    What is sent to them waits in our memory, so nothing is lost while nobody reads.
    """

    def __init__(self, connection: Mapping[str, Any], number: int) -> None:
        self._context = zmq.Context()
        self._sockets = [self._context.socket(zmq.SUB) for _ in range(number)]
        address = f"{connection['transport']}://{connection['ip']}:{connection['iopub_port']}"
        for socket in self._sockets:
            socket.set_hwm(0)
            socket.rcvtimeo = SILENCE
            socket.subscribe(b"")
            socket.connect(address)

    def __enter__(self) -> Crowd:
        return self

    def __exit__(self, *_: object) -> None:
        self._context.destroy(linger=0)

    def join(self, client: LeanClient) -> None:
        """Return when everybody is subscribed, and has read what proved it."""
        deadline = time.monotonic() + ANSWER_TIME
        while not all(socket.poll(0) for socket in self._sockets):
            if time.monotonic() > deadline:
                raise KernelLost("not every subscriber was served in time")
            client.execute(client.info_requests(1)[0])
            time.sleep(JOIN_RETRY)
        last = client.info_requests(1)[0]
        client.execute(last)
        self.collect(last)

    def collect(self, request: Request) -> int:
        """Let everybody read up to the idle status of ``request``; return their displays' sum."""
        deadline = time.monotonic() + ANSWER_TIME
        return sum(_read(socket, request.mark, deadline) for socket in self._sockets)


def _read(socket: zmq.Socket[bytes], mark: bytes, deadline: float) -> int:
    """Return how many displays came before the idle status."""
    displays = 0
    while True:
        try:
            frames = socket.recv_multipart()
        except zmq.Again:
            if time.monotonic() > deadline:
                raise KernelLost("a subscriber got no idle status in time")
            continue
        signed = signed_frames(frames)  # the first subscriber verifies them for all
        if is_idle(signed, mark):
            return displays
        displays += is_display(signed, mark)
