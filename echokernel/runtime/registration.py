"""The kernel's end of the handshake: it registers its ports and waits for the receipt (JEP 66).

The socket and the clock are here; what the frames mean is in ``protocol.handshake``.
"""

from __future__ import annotations

import math
import time
import uuid
from datetime import datetime, timezone
from types import TracebackType

import zmq

from ..protocol import handshake
from ..protocol.endpoints import url
from ..protocol.errors import HandshakeError, RegistrationRefused, RegistrationTimeout
from ..protocol.handshake import KernelHandshake, State
from ..protocol.headers import header
from ..protocol.startup import Ports, RegistrationFile

HANDSHAKE_TIMEOUT = 5.0
"""Seconds a kernel waits for its receipt (H4); xeus and ark wait as long."""

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


class KernelRegistration:
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
        self._end = KernelHandshake(file, deadline=time.monotonic() + timeout)
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

    def __enter__(self) -> KernelRegistration:
        try:
            self._socket.connect(self.address)
        except zmq.ZMQError as error:
            self.close()
            problem = error.strerror or str(error)
            raise HandshakeError(f"cannot connect to {self.address}: {problem}") from error
        request_header = header(
            handshake.REQUEST,
            msg_id=uuid.uuid4().hex,
            session=uuid.uuid4().hex,
            date=datetime.now(timezone.utc).isoformat(),
        )
        frames = self._end.register(self._ports, request_header)
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
