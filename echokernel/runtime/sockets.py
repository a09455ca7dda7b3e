"""The kernel's five sockets: bound on port 0 or as told, each ZeroMQ option once, with its reason.

Nothing here reads or writes a message. Binding to port 0 and reading the endpoint back is what
makes a start free of races (H1): there is no moment between choosing a port and holding it.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import zmq

from ..protocol.endpoints import IPV4_ANY, is_loopback, url
from ..protocol.errors import BindError
from ..protocol.startup import (
    LOOPBACK,
    ConnectionFile,
    CurveKeys,
    Ports,
    RegistrationFile,
    StartupFile,
)

MAX_UNAUTHENTICATED = 4 * 1024
"""Bytes. W4: the largest frame taken on sockets where no signature stands before the cost.

A subscription is stored before anybody could check it, at 50-90 bytes for each of the topic: one of
10 MB costs 500-880 MB. libzmq drops a connection that sends more. Real topics have less than 100
bytes, heartbeats 4.
"""

IOPUB_SEND_HWM = 130_000
"""Messages queued for one slow subscriber before libzmq takes no more (its default is 1,000).

P3: a client that pauses for 10 s must not lose its outputs. Above the bound that `slow_readers`
keeps, so that what is no output has room when output has none. libzmq's count goes down by half of
this at once, or not at all: after 65,000 messages that a client has taken in, or has only been sent
(its own queue, and the system's, hold some), what is waiting may be 65,000 fewer than it counts.
"""


@dataclass(frozen=True)
class Keepalive:
    """TCP keepalive of IOPub: how a subscriber is missed whose host vanished without closing.

    Not ZeroMQ's heartbeats: they cut off a client that merely does not read for a while. A host
    that vanishes while it owes an acknowledgement is `vanished_hosts`' business.

    Attributes: ``idle`` (seconds of silence before the first probe), ``interval`` (seconds between
    probes), ``count`` (unanswered probes that end the connection).
    """

    idle: int = 10
    interval: int = 5
    count: int = 3


LINGER_MS = 1000
"""How long close() may wait to hand out what is queued, milliseconds.

Not 0 on IOPub: closing it while a stalled peer dies aborted inside libzmq in 3 of 12 runs.
"""


@dataclass(frozen=True)
class Channels:
    """Bound sockets and where they are. ``heartbeat`` lives in a context of its own.

    libzmq takes the GIL to free zero-copy messages, so a heartbeat in the kernel's own context
    would stop beating while user code holds it.
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
        return [f"{self.ip}-{port}" for _, port in self.ports if self.transport == "ipc"]

    def close(self) -> None:
        """Hand out what is queued, then close everything. The IOPub thread must have ended."""
        for owned in (self.shell, self.stdin, self.control, self.iopub):
            owned.close()
        self.context.term()
        # The heartbeat's own thread closes its socket as soon as its context ends.
        self.heartbeat_context.term()


def bind(
    file: StartupFile,
    *,
    port_range: range | None = None,
    bind_ip: str | None = None,
    keepalive: Keepalive | None = None,
) -> Channels:
    """Bind all five sockets.

    Args:
        file: which ports to take; 0, and every port of a registration file, is ours to choose.
        port_range: tcp ports to choose from; None: as the file says, or the system's choice.
        bind_ip: where to bind; None: as `bind_address` says.
        keepalive: IOPub's; None: as the system has it.

    Raises:
        BindError: an address is taken, not ours or not usable, or the range is exhausted.
            No socket stays open then.
    """
    ip = bind_ip or bind_address(file)
    given = file.ports if isinstance(file, ConnectionFile) else Ports()
    preferred = Ports() if isinstance(file, ConnectionFile) else file.preferred_ports
    if port_range is None and isinstance(file, RegistrationFile):
        port_range = file.port_range
    binder = _Binder(file.transport, ip, file.curve, port_range, keepalive)
    try:
        sockets = {channel: binder.make(channel) for channel, _ in given}
        # L6: first the ports that were named. One that is chosen for a channel would else be, now
        # and then, the one that a later channel was to keep.
        ports = {
            channel: binder.bind_named(channel, fixed, getattr(preferred, channel))
            for channel, fixed in given
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
        keepalive=keepalive,
        **sockets,
    )


def bind_address(file: StartupFile) -> str:
    """Return the address that the kernel's own sockets bind (F2)."""
    if file.ip is not None:
        return IPV4_ANY if file.ip == "*" else file.ip
    assert not isinstance(file, ConnectionFile)  # those always have one
    if file.transport == "ipc":
        return f"{file.registration_ip}-{os.getpid()}"
    # F2: loopback when the launcher is on loopback, else the address by which this host
    # reaches the launcher (ours).
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
    """Makes, sets up and binds sockets; remembers them for the case that one cannot be bound."""

    def __init__(
        self,
        transport: str,
        ip: str,
        curve: CurveKeys | None,
        port_range: range | None,
        keepalive: Keepalive | None,
    ) -> None:
        self._transport = transport
        self._ip = ip
        self._curve = curve
        self._port_range = port_range
        self._keepalive = keepalive
        self._sockets: dict[str, zmq.Socket[bytes]] = {}
        self._taken: set[str] = set()
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.heartbeat_context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()

    def close(self) -> None:
        for bound in self._sockets.values():
            bound.close(linger=0)
        self.context.term()
        self.heartbeat_context.term()

    def make(self, channel: str) -> zmq.Socket[bytes]:
        """Return the channel's socket, not bound yet."""
        kind = zmq.XPUB if channel == "iopub" else zmq.ROUTER
        context = self.heartbeat_context if channel == "hb" else self.context
        made = self._sockets[channel] = context.socket(kind)
        _set_options(made, channel, self._curve, ipv6=":" in self._ip)
        if channel == "iopub" and self._keepalive is not None:
            made.tcp_keepalive = 1
            made.tcp_keepalive_idle = self._keepalive.idle
            made.tcp_keepalive_intvl = self._keepalive.interval
            made.tcp_keepalive_cnt = self._keepalive.count
        return made

    def bind_named(self, channel: str, fixed: int, preferred: int) -> int:
        """Bind to the port that was asked for; return 0 if there is none that could be had.

        Raises:
            BindError: ``fixed`` is not to be had.
        """
        port = fixed or preferred
        return port if port and self._bind(channel, port, or_else=not fixed) else 0

    def bind_chosen(self, channel: str) -> int:
        """Bind to a port of our choice; return it."""
        for port in self._choices():
            if self._bind(channel, port, or_else=port != 0):
                endpoint = str(self._sockets[channel].getsockopt_string(zmq.LAST_ENDPOINT))
                return int(endpoint.rpartition("-" if self._transport == "ipc" else ":")[2])
        assert self._port_range is not None  # the other choices end in one that can be had
        low, high = self._port_range[0], self._port_range[-1]
        address = url(self._transport, self._ip, f"{low}-{high}")
        raise BindError(channel, address, "every port of the range is in use")

    def _choices(self) -> Iterator[int]:
        """Yield the ports to try, in order; 0 lets the system choose."""
        if self._transport == "ipc":
            # bind() takes a path over even from a live socket, so only paths that do not exist.
            yield from (n for n in range(1, 65536) if not os.path.exists(f"{self._ip}-{n}"))
        else:
            yield from self._port_range or (0,)

    def _bind(self, channel: str, port: int, *, or_else: bool) -> bool:
        """Bind; return False if the port is taken and there is something else to try."""
        address = url(self._transport, self._ip, port)
        if or_else and address in self._taken:  # ipc would let two have one path
            return False
        try:
            self._sockets[channel].bind(address)
        except zmq.ZMQError as error:
            if error.errno == errno.EADDRINUSE and or_else:
                return False
            raise BindError(channel, address, error.strerror or str(error)) from error
        self._taken.add(address)
        return True


def _set_options(
    made: zmq.Socket[bytes], channel: str, curve: CurveKeys | None, *, ipv6: bool
) -> None:
    made.linger = LINGER_MS
    made.ipv6 = ipv6
    if curve is not None:
        # F6: a server before it binds; a socket that binds first would take plain clients.
        made.curve_secretkey = curve.secretkey
        made.curve_publickey = curve.publickey
        made.curve_server = True
    if channel == "iopub":
        # W1: report every subscription, not only the first of each topic; and every leave, too:
        # a stranger can make libzmq report a "last" one that is none.
        made.setsockopt(zmq.XPUB_VERBOSER, 1)
        # W3: what comes in several frames is no subscription. Without it libzmq would act on
        # each frame: somebody would be subscribed whom we never saw.
        made.setsockopt(zmq.ONLY_FIRST_SUBSCRIBE, 1)
        made.sndhwm = IOPUB_SEND_HWM
    if channel in ("iopub", "hb"):
        made.setsockopt(zmq.MAXMSGSIZE, MAX_UNAUTHENTICATED)
    if channel in ("shell", "control", "stdin"):
        # A client that reconnects under the same identity takes it over at once; without it
        # libzmq refuses the newcomer while the dead connection has not been noticed.
        # Of two that live, the one which came first is never heard again (docs/protocol.md).
        made.router_handover = True
    if channel == "stdin":
        # K5: sending to a client that is gone fails instead of being dropped in silence.
        made.router_mandatory = True


def keepalive(text: str) -> Keepalive | None:
    """Read ``"IDLE,INTERVAL,COUNT"``, or ``"off"``.

    Raises:
        ValueError: neither.
    """
    if text == "off":
        return None
    numbers = text.split(",")
    if len(numbers) != 3 or not all(
        each.isdecimal() and 1 <= int(each) <= 32767 for each in numbers
    ):
        raise ValueError(f"{text!r} is not a keepalive such as 10,5,3, or off")
    idle, interval, count = map(int, numbers)
    return Keepalive(idle, interval, min(count, 127))
