"""The registration socket, both ends: `Registering` (kernel), `RegistrationSocket` (launcher).

Sockets and clocks are here; what the frames mean is in ``protocol.handshake``.
"""

from __future__ import annotations

import atexit
import concurrent.futures
import contextlib
import logging
import math
import os
import threading
import time
import uuid
from dataclasses import dataclass
from datetime import datetime, timezone
from types import TracebackType

import zmq

from .channels import url
from .protocol import handshake
from .protocol.errors import HandshakeError, RegistrationRefused, RegistrationTimeout
from .protocol.handshake import Accepted, Ignored, KernelEnd, LauncherEnd, State
from .protocol.startup import CurveKeys, Ports, RegistrationFile
from .protocol.wire import JsonObject, Signer, header

HANDSHAKE_TIMEOUT = 5.0
"""Seconds a kernel waits for its receipt (H4); xeus and ark wait as long."""

MAX_REGISTRATION = 64 * 1024
"""Bytes. Strangers can send to the registration socket; a registration has some 300."""

MAX_RECEIPT = 16 * 1024 * 1024
"""Bytes. H3: a frame that is larger ends the connection, and no receipt can come any more; a
receipt's content is free."""

MAX_IGNORED = 1000
"""Invalid answers after which the deadline counts even while more are arriving."""

_ENCRYPTION_FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL  # a wrong key: the server hangs up
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL  # only one of the two encrypts
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)


def _header(msg_type: str, session: str) -> JsonObject:
    return header(
        msg_type,
        msg_id=uuid.uuid4().hex,
        session=session,
        date=datetime.now(timezone.utc).isoformat(),
    )


# --- the kernel's end ---------------------------------------------------------------------


class Registering:
    """One kernel's registration: sent by ``__enter__``, completed by `await_receipt`.

    The two are apart so that a kernel can load its language while the launcher answers.

    Args:
        file: the registration file.
        ports: ports that are bound, and whose heartbeat and IOPub answer already (H1).
        timeout: seconds until the receipt must be there (H4), counted from the sending.
    """

    def __init__(
        self, file: RegistrationFile, ports: Ports, timeout: float = HANDSHAKE_TIMEOUT
    ) -> None:
        self.address = url(file.transport, file.registration_ip, file.registration_port)
        self._timeout = timeout
        self._end = KernelEnd(file, deadline=time.monotonic() + timeout)
        self._ports = ports
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        # DEALER for both forms: a REQ, which the handshake request is sent from, would take
        # one forged answer and could never receive the true one (H3). The wire is the same.
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        # H5: nothing of it outlives the handshake.
        self._socket.linger = 0
        self._socket.ipv6 = ":" in file.registration_ip
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_RECEIPT)
        # Else a wrong CURVE key looks like a launcher that does not answer: libzmq tries for ever.
        self._failures = self._socket.get_monitor_socket(_ENCRYPTION_FAILED)
        if file.curve is not None:
            # F6 (ours): the launcher is the CURVE server with the key pair of the file.
            self._socket.curve_serverkey = file.curve.publickey
            self._socket.curve_publickey = file.curve.publickey
            self._socket.curve_secretkey = file.curve.secretkey

    def __enter__(self) -> Registering:
        try:
            self._socket.connect(self.address)
        except zmq.ZMQError as error:
            self.close()
            problem = error.strerror or str(error)
            raise HandshakeError(f"cannot connect to {self.address}: {problem}") from error
        frames = self._end.register(self._ports, _header(handshake.REQUEST, uuid.uuid4().hex))
        self._socket.send_multipart(frames)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """H5: close the socket; harmless if it is closed."""
        self._socket.disable_monitor()
        self._failures.close(linger=0)  # else the context waits for it, for ever
        self._socket.close()
        self._context.term()

    def await_receipt(self) -> None:
        """Wait until the launcher has answered.

        Raises:
            RegistrationRefused: the launcher said no.
            RegistrationTimeout: no valid receipt came in time (H4).
            HandshakeError: the launcher and this kernel have not the same CURVE keys.
        """
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._failures, zmq.POLLIN)
        while not self._end.done:
            left = self._end.deadline - time.monotonic()
            ready = dict(poller.poll(max(0, math.ceil(left * 1000))))
            if self._failures in ready:
                raise HandshakeError(
                    f"no encrypted connection to the launcher at {self.address}: the CURVE keys"
                    " of the registration file (or their absence) are not what it uses"
                )
            if self._socket in ready:
                self._end.receive(self._socket.recv_multipart())
                # A language that loads for longer than the deadline finds its receipt here:
                # first what has come, then the time. A flood of junk is no receipt.
                if self._end.ignored < MAX_IGNORED:
                    continue
            self._end.tick(time.monotonic())
        if self._end.state is State.REFUSED:
            raise RegistrationRefused(self.address, self._end.refusal or "no reason given")
        if self._end.state is State.EXPIRED:
            raise RegistrationTimeout(self.address, self._timeout, self._end.ignored)


# --- the launcher's end -------------------------------------------------------------------


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
        self._end = LauncherEnd()
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
            result = self._end.receive(frames, _header(handshake.REPLY, self._session))
            if isinstance(result, Ignored):
                self.ignored += 1
                self._log.warning("registration socket: ignored a message: %s", result.why)
                return
            expectation = self._expected.pop(result.launch_id)
        self._accept(result, expectation)

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


__all__ = ["HANDSHAKE_TIMEOUT", "Expectation", "Registering", "RegistrationSocket"]
