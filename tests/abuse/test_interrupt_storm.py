"""Repeated SIGINT while cells run (K6, K8)."""

import threading

import pytest

pytestmark = pytest.mark.timeout(120)

INTERVAL = 0.0007
"""Seconds between two signals."""

EXECUTES = 100

CELLS = (
    "an echo",
    {"do": "print", "times": 20},
    {"do": "compute", "seconds": 0.003},
    {"do": "display", "times": 20},
)
"""Executed in turn: the signals arrive during all activities of a kernel."""


class Storm:
    """Interrupts a kernel repeatedly while the ``with`` block runs."""

    def __init__(self, kernel):
        self._kernel = kernel
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._interrupt, daemon=True)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        self._thread.join()

    def _interrupt(self):
        while not self._ended.wait(INTERVAL) and self._kernel.is_alive():
            self._kernel.interrupt()


def test_every_execute_is_answered(kernel, client):
    """K6, K8: each cell has one reply and one idle, and no message is damaged."""
    outcomes = set()
    with Storm(kernel):
        for number in range(EXECUTES):
            msg_id = client.execute(CELLS[number % len(CELLS)])
            reply = client.receive_reply(msg_id)["content"]
            outcomes.add((reply["status"], reply.get("ename")))
            published = client.receive_until_idle(msg_id)
            states = [content["execution_state"] for kind, content in published if kind == "status"]
            assert states == ["busy", "idle"]
            # No error is published if the signal arrives before the cell's code runs.
            errors = [content["ename"] for kind, content in published if kind == "error"]
            assert errors in ([], [reply.get("ename")])
    assert outcomes == {("ok", None), ("error", "KeyboardInterrupt")}
    client.run("after the storm")
