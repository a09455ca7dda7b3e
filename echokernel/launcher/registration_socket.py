"""The launcher's end of the handshake: one registration socket for any number of kernels (L2).

The socket and its thread are here. The meaning of the frames is in `protocol.handshake`.
JEP 66:
https://github.com/jupyter/enhancement-proposals/blob/master/66-jupyter-handshaking/jupyter-handshaking.md
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

MAX_REGISTRATION_SIZE = 64 * 1024
"""Bytes. A registration has about 300. Unauthenticated peers can send to the socket, and libzmq
disconnects a peer that exceeds this.
https://libzmq.readthedocs.io/en/latest/zmq_setsockopt.html (ZMQ_MAXMSGSIZE)"""

_log = logging.getLogger("echokernel")


@dataclass
class PendingRegistration:
    """A launch whose kernel has not registered yet; ``registered`` resolves to its `Ports`."""

    launch_id: str
    registered: concurrent.futures.Future[Ports]


class RegistrationSocket:
    """The launcher's registration socket: one ROUTER, one thread, any number of kernels (L2).

    It serves both forms of the handshake, and all threads and event loops of the process. It is not
    a ``zmq.asyncio`` socket, because one that is shared by event loops delivers replies to the
    wrong loop. Its thread sends the receipt itself, so that a busy event loop does not delay it:
    xeus and ark give up 5 s after an unanswered registration.

    Args:
        ip: address to bind; with the transport ipc, the prefix of a path.
        transport: ``"tcp"`` or ``"ipc"``.
        curve: key pair; the socket is then a CURVE server.

    Attributes:
        port: the bound port.
        ignored: number of messages that were not a valid registration.

    Raises:
        zmq.ZMQError: the address cannot be bound.
    """

    def __init__(
        self, ip: str = "127.0.0.1", *, transport: str = "tcp", curve: CurveKeys | None = None
    ) -> None:
        self.ip = ip
        self.ignored = 0
        self._transport = transport
        self._session = uuid.uuid4().hex
        self._lock = threading.Lock()
        self._handshake = LauncherHandshake()
        self._pending: dict[str, PendingRegistration] = {}
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.ROUTER)
        self._socket.linger = 0
        self._socket.ipv6 = ":" in ip
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_REGISTRATION_SIZE)
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
        self._thread = threading.Thread(target=self._run, name="Registration", daemon=True)
        self._thread.start()

    @classmethod
    def shared(cls, ip: str = "127.0.0.1", *, transport: str = "tcp") -> RegistrationSocket:
        """Return this process's socket for the address; the first call creates it.

        Args:
            ip: as in the constructor.
            transport: as in the constructor.

        Raises:
            zmq.ZMQError: the address cannot be bound.
        """
        # The pid is part of the key: a forked child inherits the object, but not its thread.
        address = (os.getpid(), transport, ip)
        with _shared_lock:
            if address not in _shared:
                _shared[address] = cls(ip, transport=transport)
            return _shared[address]

    def expect(self, launch_id: str, key: bytes, signature_scheme: str) -> PendingRegistration:
        """Start to wait for a kernel that registers as ``launch_id``, or with ``key``.

        ``registered`` resolves when the receipt has been sent. `forget` ends the wait.

        Args:
            launch_id: the ``kernel_id`` in the registration file.
            key: the key in the registration file.
            signature_scheme: the signature scheme in the registration file.

        Raises:
            ValueError: the launch is pending already, or the scheme is unknown.
        """
        pending = PendingRegistration(launch_id, concurrent.futures.Future())
        with self._lock:
            self._handshake.expect(launch_id, Signer(key, signature_scheme))
            self._pending[launch_id] = pending
        return pending

    def forget(self, launch_id: str) -> None:
        """End the wait for ``launch_id``, if there is one."""
        with self._lock:
            self._handshake.forget(launch_id)
            pending = self._pending.pop(launch_id, None)
        if pending is not None:
            pending.registered.cancel()

    def close(self) -> None:
        """End the thread, close the socket and cancel all pending registrations."""
        self._context.term()  # Wakes the thread, which closes the socket.
        self._thread.join()
        for launch_id in list(self._pending):
            self.forget(launch_id)
        if self._transport == "ipc":
            with contextlib.suppress(FileNotFoundError):  # libzmq may have removed it.
                os.unlink(f"{self.ip}-{self.port}")

    def _run(self) -> None:
        while True:
            try:
                self._receive(self._socket.recv_multipart())
            except zmq.ContextTerminated:
                self._socket.close()
                return
            except Exception:
                # One faulty message must not stop the registration of other kernels.
                _log.exception("registration socket: cannot handle a message")

    def _receive(self, frames: list[bytes]) -> None:
        with self._lock:
            result = self._handshake.receive(frames, self._reply_header())
            if isinstance(result, Ignored):
                self.ignored += 1
                _log.warning("registration socket: ignored a message: %s", result.reason)
                return
            pending = self._pending.pop(result.launch_id)
        self._accept(result, pending)

    def _reply_header(self) -> JsonObject:
        return header(
            handshake.REPLY,
            msg_id=uuid.uuid4().hex,
            session=self._session,
            date=datetime.now(timezone.utc).isoformat(),
        )

    def _accept(self, accepted: Accepted, pending: PendingRegistration) -> None:
        self._socket.send_multipart(accepted.receipt)
        if pending.registered.set_running_or_notify_cancel():
            pending.registered.set_result(accepted.registration.ports)


_shared: dict[tuple[int, str, str], RegistrationSocket] = {}
_shared_lock = threading.Lock()


@atexit.register
def _close_shared() -> None:
    """Close the shared sockets of this process; a forked child leaves its parent's alone."""
    for (pid, _, _), shared in _shared.items():
        if pid == os.getpid():
            shared.close()


def _bind(registration: zmq.Socket[bytes], transport: str, ip: str) -> int:
    """Bind a free port and return it."""
    if transport == "tcp":
        registration.bind(url(transport, ip, 0))
        endpoint = str(registration.getsockopt_string(zmq.LAST_ENDPOINT))
        return int(endpoint.rpartition(":")[2])
    port = next(n for n in range(1, 65536) if not os.path.exists(f"{ip}-{n}"))
    registration.bind(url(transport, ip, port))
    return port
