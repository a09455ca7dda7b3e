"""The kernel's five sockets: bound, each ZeroMQ option set once, with its reason.

Nothing here sends or receives a message. Binding to port 0 and reading the endpoint makes a start
free of races (H1): there is no moment between choosing a port and holding it.

The options are described in https://libzmq.readthedocs.io/en/latest/zmq_setsockopt.html
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field

import zmq

from ..protocol.endpoints import IPV4_ANY, is_loopback, url
from ..protocol.errors import BindError
from ..protocol.flow_control import FlowLimits
from ..protocol.startup import LOOPBACK, ConnectionFile, Ports, RegistrationFile, StartupFile

MAX_UNAUTHENTICATED = 4 * 1024
"""Bytes. The largest frame accepted on sockets where no signature precedes the cost (W4).

ZeroMQ stores a subscription before anything can check it, at 50 to 90 bytes for each byte of the
topic. libzmq closes a connection that sends a larger frame. Real topics have less than 100 bytes,
heartbeats 4.
"""

LINGER_MS = 1000
"""Milliseconds that close() may wait until queued messages are sent.

Not 0 on IOPub: libzmq 4.3.5 can abort when IOPub is closed while a stalled peer disconnects.
"""


@dataclass(frozen=True)
class Keepalive:
    """TCP keepalive of IOPub: detects a host that vanished without closing its connections.

    Not ZeroMQ's heartbeats: they disconnect a client that does not read for a while. A host that
    vanishes while data is unacknowledged is detected by `iopub.dead_peers`.

    Attributes: ``idle`` (seconds of silence before the first probe), ``interval`` (seconds between
    probes), ``count`` (unanswered probes that end the connection).
    """

    idle: int = 10
    interval: int = 5
    count: int = 3


@dataclass(frozen=True, kw_only=True)
class SocketSettings:
    """What the command line says about the sockets.

    Attributes:
        port_range: tcp ports to choose from; None: as the startup file says, or any free port.
        bind_ip: address to bind; None: see `bind_address`.
        keepalive: of IOPub; None: the operating system's default.
        limits: of IOPub.
    """

    port_range: range | None = None
    bind_ip: str | None = None
    keepalive: Keepalive | None = None
    limits: FlowLimits = field(default_factory=FlowLimits)


@dataclass(frozen=True)
class Channels:
    """Bound sockets and their addresses. ``heartbeat`` has a context of its own.

    libzmq takes the GIL to free zero-copy messages, so a heartbeat in the kernel's own context
    would stop while user code holds the GIL.
    """

    transport: str
    ip: str
    ports: Ports
    context: zmq.Context[zmq.Socket[bytes]]
    shell: zmq.Socket[bytes]
    iopub: zmq.Socket[bytes]
    stdin: zmq.Socket[bytes]
    control: zmq.Socket[bytes]
    heartbeat_context: zmq.Context[zmq.Socket[bytes]]
    heartbeat: zmq.Socket[bytes]
    keepalive: Keepalive | None = None

    def ipc_paths(self) -> list[str]:
        """Return the socket files of ``ipc``, which libzmq does not always remove."""
        if self.transport != "ipc":
            return []
        return [f"{self.ip}-{port}" for port in self.ports.values()]

    def close(self) -> None:
        """Send what is queued, then close everything. The IOPub thread must have ended."""
        for owned in (self.shell, self.stdin, self.control, self.iopub):
            owned.close()
        self.context.term()
        # The heartbeat's thread closes its socket when its context ends.
        self.heartbeat_context.term()


def bind(file: StartupFile, settings: SocketSettings) -> Channels:
    """Bind all five sockets.

    Args:
        file: names the ports; the kernel chooses one for each port 0, and all ports of a
            registration file.
        settings: of the command line.

    Raises:
        BindError: an address is in use or not usable, or the range is exhausted. No socket stays
            open then.
    """
    ip = settings.bind_ip or bind_address(file)
    fixed_ports = file.ports if isinstance(file, ConnectionFile) else Ports()
    preferred = Ports() if isinstance(file, ConnectionFile) else file.preferred_ports
    port_range = settings.port_range
    if port_range is None and isinstance(file, RegistrationFile):
        port_range = file.port_range
    binder = _Binder(file, ip, port_range, settings)
    try:
        sockets = {channel: binder.make(channel) for channel, _ in fixed_ports.items()}
        # L6: first the ports that the file names. Otherwise a port that is chosen for one channel
        # can be the one that another channel should keep.
        ports = {
            channel: binder.bind_named(channel, fixed, getattr(preferred, channel))
            for channel, fixed in fixed_ports.items()
        }
        for channel, port in ports.items():
            ports[channel] = port or binder.bind_chosen(channel)
    except BaseException:
        binder.close()
        raise
    return Channels(
        transport=file.transport,
        ip=ip,
        ports=Ports(**ports),
        context=binder.context,
        heartbeat_context=binder.heartbeat_context,
        heartbeat=sockets.pop("hb"),
        keepalive=settings.keepalive,
        **sockets,
    )


def bind_address(file: StartupFile) -> str:
    """Return the address that the kernel's own sockets bind (F2)."""
    if file.ip is not None:
        return IPV4_ANY if file.ip == "*" else file.ip
    assert not isinstance(file, ConnectionFile)  # a connection file always has an address
    if file.transport == "ipc":
        return f"{file.registration_ip}-{os.getpid()}"
    # F2: loopback if the launcher is on loopback, otherwise the address by which this host reaches
    # the launcher (ours).
    if is_loopback(file.registration_ip):
        return LOOPBACK
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((file.registration_ip, file.registration_port))  # sends nothing
        except OSError as error:
            address = f"an address that reaches {file.registration_ip}"
            raise BindError("shell", address, str(error)) from error
        return str(probe.getsockname()[0])


class _Binder:
    """Makes, configures and binds sockets, and closes them all if one cannot be bound."""

    def __init__(
        self, file: StartupFile, ip: str, port_range: range | None, settings: SocketSettings
    ) -> None:
        self._file = file
        self._ip = ip
        self._port_range = port_range
        self._settings = settings
        self._sockets: dict[str, zmq.Socket[bytes]] = {}
        self._bound: set[str] = set()
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.heartbeat_context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    def close(self) -> None:
        for sock in self._sockets.values():
            sock.close(linger=0)
        self.context.term()
        self.heartbeat_context.term()

    def make(self, channel: str) -> zmq.Socket[bytes]:
        """Return the channel's socket, not bound yet."""
        kind = zmq.XPUB if channel == "iopub" else zmq.ROUTER
        context = self.heartbeat_context if channel == "hb" else self.context
        sock = self._sockets[channel] = context.socket(kind)
        sock.linger = LINGER_MS
        sock.ipv6 = ":" in self._ip
        if self._file.curve is not None:
            # F6: a CURVE server before it binds; otherwise it would accept plain clients at first.
            sock.curve_secretkey = self._file.curve.secretkey
            sock.curve_publickey = self._file.curve.publickey
            sock.curve_server = True
        if channel == "iopub":
            self._configure_iopub(sock)
        if channel in ("iopub", "hb"):
            sock.setsockopt(zmq.MAXMSGSIZE, MAX_UNAUTHENTICATED)
        if channel in ("shell", "control", "stdin"):
            # A client that reconnects under the same identity takes it over immediately. Without
            # this option libzmq refuses it until the dead connection is noticed.
            sock.router_handover = True
        if channel == "stdin":
            # K5: sending to a client that is not connected fails instead of being dropped.
            sock.router_mandatory = True
        return sock

    def _configure_iopub(self, sock: zmq.Socket[bytes]) -> None:
        # W1: report every subscription, not only the first per topic; also every unsubscription,
        # because an unauthenticated peer can make libzmq report a "last" one that is not the last.
        sock.setsockopt(zmq.XPUB_VERBOSER, 1)
        # W3: several frames are not a subscription. Without this option libzmq would subscribe the
        # peer to each frame, without a report.
        sock.setsockopt(zmq.ONLY_FIRST_SUBSCRIBE, 1)
        # P3: a client that pauses for 10 s loses nothing.
        sock.sndhwm = self._settings.limits.high_water_mark
        keepalive = self._settings.keepalive
        if keepalive is not None:
            sock.tcp_keepalive = 1
            sock.tcp_keepalive_idle = keepalive.idle
            sock.tcp_keepalive_intvl = keepalive.interval
            sock.tcp_keepalive_cnt = keepalive.count

    def bind_named(self, channel: str, fixed: int, preferred: int) -> int:
        """Bind to a port that the startup file names; return 0 if none could be bound.

        Raises:
            BindError: the port ``fixed`` cannot be bound.
        """
        port = fixed or preferred
        return port if port and self._bind(channel, port, optional=not fixed) else 0

    def bind_chosen(self, channel: str) -> int:
        """Bind to a port of the kernel's choice; return it."""
        for port in self._choices():
            if self._bind(channel, port, optional=port != 0):
                endpoint = str(self._sockets[channel].getsockopt_string(zmq.LAST_ENDPOINT))
                return int(endpoint.rpartition("-" if self._file.transport == "ipc" else ":")[2])
        assert self._port_range is not None  # the other choices contain a free port
        low, high = self._port_range[0], self._port_range[-1]
        address = url(self._file.transport, self._ip, f"{low}-{high}")
        raise BindError(channel, address, "every port of the range is in use")

    def _choices(self) -> Iterator[int]:
        """Yield the ports to try, in order; 0 lets the operating system choose."""
        if self._file.transport == "ipc":
            # bind() replaces the path even of a live socket, so only paths that do not exist.
            yield from (n for n in range(1, 65536) if not os.path.exists(f"{self._ip}-{n}"))
        else:
            yield from self._port_range or (0,)

    def _bind(self, channel: str, port: int, *, optional: bool) -> bool:
        """Bind; return False if the port is in use and ``optional``."""
        address = url(self._file.transport, self._ip, port)
        if optional and address in self._bound:  # ipc would let two sockets have one path
            return False
        try:
            self._sockets[channel].bind(address)
        except zmq.ZMQError as error:
            if error.errno == errno.EADDRINUSE and optional:
                return False
            raise BindError(channel, address, error.strerror or str(error)) from error
        self._bound.add(address)
        return True


def keepalive(text: str) -> Keepalive | None:
    """Parse ``"IDLE,INTERVAL,COUNT"``, or ``"off"``.

    Raises:
        ValueError: it is neither.
    """
    if text == "off":
        return None
    numbers = text.split(",")
    if len(numbers) != 3 or not all(
        number.isdecimal() and 1 <= int(number) <= 32767 for number in numbers
    ):
        raise ValueError(f"{text!r} is not a keepalive such as 10,5,3, or off")
    idle, interval, count = map(int, numbers)
    return Keepalive(idle, interval, min(count, 127))
