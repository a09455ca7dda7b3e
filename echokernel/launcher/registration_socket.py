"""The launcher's end of the handshake: one registration socket for any number of kernels (L2).

The socket and its thread are here; what the frames mean is in ``protocol.handshake``.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import logging
import os
import threading
import uuid
from dataclasses import dataclass
from datetime import datetime, timezone

import zmq

from ..protocol import handshake
from ..protocol.endpoints import url
from ..protocol.handshake import Accepted, Ignored, LauncherHandshake
from ..protocol.headers import header
from ..protocol.startup import CurveKeys, Ports
from ..protocol.wire import JsonObject, Signer

MAX_REGISTRATION = 64 * 1024
"""Bytes. Strangers can send to the registration socket; a registration has some 300."""


@dataclass
class Expectation:
    """A launch that waits for its kernel: ``registered`` resolves to the kernel's `Ports`."""

    launch_id: str
    registered: concurrent.futures.Future[Ports]


class RegistrationSocket:
    """The launcher's registration socket: one ROUTER, one thread, any number of kernels (L2).

    It serves both forms of the handshake, and every thread and event loop of the process: a
    ``zmq.asyncio`` socket shared between loops hands one loop the other's messages, silently.
    The thread sends the receipt itself, because xeus and ark give up 5 s after an unanswered
    registration, however busy the launcher's event loop is.

    Args:
        ip: address to bind; with ``transport`` ipc a path prefix.
        transport: ``tcp`` or ``ipc``.
        curve: make it a CURVE server with this key pair; one socket per pair then.
        log: where to say what was ignored.

    Raises:
        zmq.ZMQError: the address cannot be bound.
    """

    def __init__(
        self,
        ip: str = "127.0.0.1",
        *,
        transport: str = "tcp",
        curve: CurveKeys | None = None,
        log: logging.Logger | None = None,
    ) -> None:
        self.ip = ip
        self.ignored = 0
        self._transport = transport
        self._log = log or logging.getLogger(__name__)
        self._session = uuid.uuid4().hex
        self._lock = threading.Lock()
        self._end = LauncherHandshake()
        self._expected: dict[str, Expectation] = {}
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.ipv6 = ":" in ip
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_REGISTRATION)
        if curve is not None:
            self._socket.curve_publickey = curve.publickey
            self._socket.curve_secretkey = curve.secretkey
            self._socket.curve_server = True
        try:
            self.port = _bind(self._socket, transport, ip)
        except zmq.ZMQError:
            self._socket.close()
            self._context.term()
            raise
        self._thread = threading.Thread(target=self._serve, name="Registration", daemon=True)
        self._thread.start()

    @classmethod
    def shared(cls, ip: str = "127.0.0.1", *, transport: str = "tcp") -> RegistrationSocket:
        """Return this process's one socket for the address; made when first asked for."""
        # By pid: a forked child has its parent's objects but not its threads.
        at = (os.getpid(), transport, ip)
        with _shared_lock:
            if at not in _shared:
                _shared[at] = cls(ip, transport=transport)
            return _shared[at]

    def expect(self, launch_id: str, key: bytes, signature_scheme: str) -> Expectation:
        """Wait for a kernel that was told to register as ``launch_id``, or with ``key``.

        ``expectation.registered`` resolves as soon as its receipt is on the way; cancel the
        wait with `forget`.

        Raises:
            ValueError: this ``launch_id`` is waiting already, or an unknown scheme.
        """
        expectation = Expectation(launch_id, concurrent.futures.Future())
        with self._lock:
            self._end.expect(launch_id, Signer(key, signature_scheme))
            self._expected[launch_id] = expectation
        return expectation

    def forget(self, launch_id: str) -> None:
        """Wait no longer for ``launch_id``; harmless if nobody does."""
        with self._lock:
            self._end.forget(launch_id)
            expectation = self._expected.pop(launch_id, None)
        if expectation is not None:
            expectation.registered.cancel()

    def close(self) -> None:
        """End the thread and close the socket; waits that are open are cancelled."""
        self._context.term()  # wakes the thread, which closes the socket
        self._thread.join()
        for launch_id in list(self._expected):
            self.forget(launch_id)
        if self._transport == "ipc":
            with contextlib.suppress(FileNotFoundError):  # libzmq leaves it, mostly
                os.unlink(f"{self.ip}-{self.port}")

    def _serve(self) -> None:
        while True:
            try:
                self._receive(self._socket.recv_multipart())
            except zmq.ContextTerminated:
                self._socket.close()
                return
            except Exception:
                # One message must not end the service for every kernel after it.
                self._log.exception("registration socket: a message could not be handled")

    def _receive(self, frames: list[bytes]) -> None:
        with self._lock:
            result = self._end.receive(frames, self._reply_header())
            if isinstance(result, Ignored):
                self.ignored += 1
                self._log.warning("registration socket: ignored a message: %s", result.reason)
                return
            expectation = self._expected.pop(result.launch_id)
        self._accept(result, expectation)

    def _reply_header(self) -> JsonObject:
        return header(
            handshake.REPLY,
            msg_id=uuid.uuid4().hex,
            session=self._session,
            date=datetime.now(timezone.utc).isoformat(),
        )

    def _accept(self, accepted: Accepted, expectation: Expectation) -> None:
        self._socket.send_multipart(accepted.receipt)
        if expectation.registered.set_running_or_notify_cancel():
            expectation.registered.set_result(accepted.registration.ports)


_shared: dict[tuple[int, str, str], RegistrationSocket] = {}
_shared_lock = threading.Lock()


@atexit.register
def _close_shared() -> None:
    """Close this process's shared sockets; those of a parent it was forked from are not ours."""
    for (pid, _, _), shared in _shared.items():
        if pid == os.getpid():
            shared.close()


def _bind(registration: zmq.Socket[bytes], transport: str, ip: str) -> int:
    if transport == "tcp":
        registration.bind(url(transport, ip, 0))
        endpoint = str(registration.getsockopt_string(zmq.LAST_ENDPOINT))
        return int(endpoint.rpartition(":")[2])
    port = next(n for n in range(1, 65536) if not os.path.exists(f"{ip}-{n}"))
    registration.bind(url(transport, ip, port))
    return port
