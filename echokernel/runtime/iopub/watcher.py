"""A thread that watches the XPUB socket's descriptor while the publisher sleeps in its queue."""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Callable


class SubscriptionWatcher:
    """Reports that subscriptions have arrived; never touches the socket.

    Args:
        descriptor: ``ZMQ_FD`` of the socket. It is edge-triggered: the watch pauses from a
            report until `resume`. https://libzmq.readthedocs.io/en/latest/zmq_getsockopt.html
        report: called in the watcher's thread.
    """

    def __init__(self, descriptor: int, report: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._report = report
        self._resumed = threading.Event()
        self._stopping = False
        self._stop_writer, self._stop_reader = socket.socketpair()
        self._thread = threading.Thread(target=self._watch, name="IOPub watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def resume(self) -> None:
        """Watch again: the socket has been drained; from any thread."""
        self._resumed.set()

    def stop(self) -> None:
        self._stopping = True
        self._stop_writer.close()  # ends the wait for the descriptor
        self._resumed.set()  # ends the wait for `resume`
        self._thread.join()
        self._stop_reader.close()

    def _watch(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._descriptor, selectors.EVENT_READ)
            selector.register(self._stop_reader, selectors.EVENT_READ)
            while True:
                selector.select()
                self._resumed.clear()
                if self._stopping:  # read after clear(): stop() sets it before it set()s
                    return
                self._report()
                self._resumed.wait()
