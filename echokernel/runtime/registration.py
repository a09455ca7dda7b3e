"""The kernel's end of the handshake: it registers its ports and waits for the receipt (JEP 66).

The socket and the clock are here. `protocol.handshake` decides what the frames mean. The socket
options are described in https://libzmq.readthedocs.io/en/latest/zmq_setsockopt.html
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
"""Seconds that a kernel waits for its receipt; xeus-zmq 4 and ark wait equally long (H4)."""

MAX_RECEIPT = 16 * 1024 * 1024
"""Bytes of the largest frame. libzmq disconnects a peer that sends a larger one (H3).

A receipt's content is free, so the bound is far above the size of a known receipt.
"""

MAX_IGNORED = 1000
"""Number of invalid answers after which the deadline is checked even if more have arrived."""

_ENCRYPTION_FAILED = (
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL  # wrong key: the server disconnects
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL  # only one side uses CURVE
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
)


class KernelRegistration:
    """One registration: ``__enter__`` sends it, and `await_receipt` completes it.

    In between, the kernel can load its language while the launcher answers.

    Args:
        file: the registration file.
        ports: the bound ports; heartbeat and IOPub answer already (H1).
        timeout: seconds to wait for the receipt (H4).
    """

    def __init__(
        self, file: RegistrationFile, ports: Ports, timeout: float = HANDSHAKE_TIMEOUT
    ) -> None:
        self.address = url(file.transport, file.registration_ip, file.registration_port)
        self._timeout = timeout
        self._handshake = KernelHandshake(file, deadline=time.monotonic() + timeout)
        self._ports = ports
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        # DEALER for both forms, which send the same frames as a REQ. A REQ socket would accept one
        # forged answer, and could not receive the valid one afterwards (H3).
        self._socket: zmq.Socket[bytes] = self._context.socket(zmq.DEALER)
        # The connection must not outlive the handshake (H5).
        self._socket.linger = 0
        self._socket.ipv6 = ":" in file.registration_ip
        self._socket.setsockopt(zmq.MAXMSGSIZE, MAX_RECEIPT)
        # libzmq retries forever after a wrong CURVE key; without this monitor the error would be
        # that the launcher does not answer.
        self._monitor = self._socket.get_monitor_socket(_ENCRYPTION_FAILED)
        if file.curve is not None:
            # Ours: the launcher is a CURVE server with the key pair of the file (F6).
            # https://rfc.zeromq.org/spec/26/
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
        frames = self._handshake.register(self._ports, request_header)
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
        """Close the socket; a second call has no effect (H5)."""
        self._socket.disable_monitor()
        self._monitor.close(linger=0)  # otherwise term() would wait forever
        self._socket.close()
        self._context.term()

    def await_receipt(self) -> None:
        """Wait until the launcher has answered.

        Raises:
            RegistrationRefused: the launcher replied with an error (H4).
            RegistrationTimeout: no valid receipt arrived in time (H4).
            HandshakeError: the launcher and the registration file have different CURVE keys (F6).
        """
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._monitor, zmq.POLLIN)
        while not self._handshake.done:
            left = self._handshake.deadline - time.monotonic()
            ready = dict(poller.poll(max(0, math.ceil(left * 1000))))
            if self._monitor in ready:
                raise HandshakeError(
                    f"no encrypted connection to the launcher at {self.address}: the launcher does"
                    " not use the CURVE keys of the registration file, or only one side uses CURVE"
                )
            if self._socket in ready:
                self._handshake.receive(self._socket.recv_multipart())
                # Arrived answers come before the deadline: a language can take longer to load than
                # the deadline. After a flood of invalid answers, the deadline counts.
                if self._handshake.ignored < MAX_IGNORED:
                    continue
            self._handshake.tick(time.monotonic())
        if self._handshake.refusal is not None:
            raise RegistrationRefused(self.address, self._handshake.refusal)
        if self._handshake.state is State.EXPIRED:
            raise RegistrationTimeout(self.address, self._timeout, self._handshake.ignored)
