"""One attempt to start a kernel, for each `Way`: the file it is given, and how its ports come back.

An attempt is made before the process is started, since it writes the file that the command
names; it is asked for ports, over and over, while the process lives; and it is concluded once,
whatever happened. Processes, deadlines and what comes after a failure are the provisioner's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import time

from .. import connection_files
from ..protocol.endpoints import IPV4_ANY, url
from ..protocol.startup import LOOPBACK, ConnectionFile, Form, Ports, RegistrationFile
from .heartbeat import Heartbeat
from .registration_socket import RegistrationSocket
from .selection import Way
from .settings import Plan

HEARTBEAT_LOOK = 2.5
"""Seconds between looks whether a kernel whose heartbeat is silent listens at all."""

SILENT_LOOKS = 2
"""Looks in a row that find it listening and silent: somebody else has its heartbeat's port."""


class Attempt:
    """The base of all attempts.

    Attributes:
        way: which one this is.
        startup_file: what the kernel's command is to name.
        files: paths that only this attempt uses; `conclude` removes them.
        failure: why this cannot end well, though the process lives; None while it may.
        rewrote: the kernel wrote its ports into a file that was no connection file.
        may_lack_ports: it may have failed for want of ports that somebody else took.
    """

    way: Way
    failure: str | None = None
    rewrote = False
    may_lack_ports = False

    def __init__(self, startup_file: str, files: list[str]) -> None:
        self.startup_file = startup_file
        self.files = files
        self.concluded = False

    async def wait(self, seconds: float) -> Ports | None:
        """Return the kernel's ports as soon as they are known; None if not within ``seconds``."""
        raise NotImplementedError

    def check(self, ports: Ports) -> None:
        """Raise ValueError if the kernel took ports that it should not have."""

    def hand_over(self) -> None:
        """The kernel is up: its connection file, if that was ours to write, is the manager's."""

    def conclude(self) -> None:
        """Wait no longer and remove the files; harmless if that has been done."""
        self.concluded = True
        for path in self.files:
            with contextlib.suppress(OSError):
                os.unlink(path)
        self.files = []


class ByHandshake(Attempt):
    """The kernel registers its ports at the registration socket (JEP 66).

    Raises:
        OSError, zmq.ZMQError: no socket, or no file.
    """

    def __init__(self, plan: Plan, form: Form) -> None:
        self.way = Way(form.value)
        connection_files.runtime_dir().mkdir(mode=0o700, parents=True, exist_ok=True)
        # The process's shared socket; ipc and CURVE need one of their own.
        self._owned = plan.transport == "ipc" or plan.curve is not None
        self._registration = (
            RegistrationSocket(plan.registration_ip, transport=plan.transport, curve=plan.curve)
            if self._owned
            else RegistrationSocket.shared(plan.registration_ip)
        )
        self._expectation = self._registration.expect(
            plan.launch_id, plan.key, plan.signature_scheme
        )
        # Not `kernel-*.json`: nobody is to take it for a connection file.
        path = str(connection_files.runtime_dir() / f"registration-{plan.launch_id}.json")
        super().__init__(path, [path])
        self._port_range = plan.port_range
        file = RegistrationFile(
            form=form,
            key=plan.key,
            transport=plan.transport,
            signature_scheme=plan.signature_scheme,
            curve=plan.curve,
            ip=plan.ip,
            registration_ip=self._registration.ip,
            registration_port=self._registration.port,
            kernel_id=plan.launch_id if form is Form.SIGNED_FRAME else None,
            # Ours, and unknown to other kernels: one connection file, the manager's.
            connection_file=os.path.abspath(plan.connection_file),
            kernel_name=plan.kernel_name,
            # L6 (ours): after a restart, clients that are connected find the kernel again.
            preferred_ports=plan.preferred_ports,
            port_range=plan.port_range,
            advertised_ip=plan.advertised_ip,
            path=path,
        )
        try:
            connection_files.write_private(path, file.to_json())
            self._written = _stamp(path)
        except OSError:
            self.conclude()
            raise

    async def wait(self, seconds: float) -> Ports | None:
        registered = asyncio.wrap_future(self._expectation.registered)
        await asyncio.wait([registered], timeout=seconds)
        if registered.done() and not registered.cancelled():
            return registered.result()
        # As ipykernel does with any file that lacks ports.
        if _stamp(self.startup_file) != self._written and _read_ports(self.startup_file):
            self.rewrote = True
            self.failure = (
                "the kernel does not know the handshake: it wrote its ports into the registration"
                " file; `handshake: rewrite` in its kernelspec starts such a kernel"
            )
        return None

    def check(self, ports: Ports) -> None:
        allowed = self._port_range
        if allowed is not None and any(port not in allowed for _, port in ports):
            low, high = allowed[0], allowed[-1]
            raise ValueError(f"the kernel does not keep to port_range {low}-{high}")

    def conclude(self) -> None:
        if not self.concluded:
            self._registration.forget(self._expectation.launch_id)
            if self._owned:
                self._registration.close()
        super().conclude()


class _Beating(Attempt):
    """A kernel that is known to be up by its heartbeat, the last that it starts."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan.connection_file, [plan.connection_file])
        self._plan = plan
        self._heartbeat: Heartbeat | None = None
        self._next_look = 0.0
        self._silent_looks = 0

    def _named(self) -> Ports | None:
        """Return the ports that the kernel is said to have; None if that is not known."""
        raise NotImplementedError

    async def wait(self, seconds: float) -> Ports | None:
        await asyncio.sleep(seconds)
        ports = self._named()
        if ports is None or self.concluded:
            return None
        if self._heartbeat is None:
            self._heartbeat = Heartbeat(self._url(ports.hb), self._plan.curve)
            self._next_look = time.monotonic() + HEARTBEAT_LOOK
        if self._heartbeat.answered():
            return ports
        return self._without_heartbeat(ports) if self._is_silent(ports) else None

    def _without_heartbeat(self, ports: Ports) -> Ports | None:
        """Judge a kernel that listens and has no heartbeat.

        ipykernel looks for that port in the racy way, and goes on where somebody else has it.
        """
        self.failure = f"the kernel's heartbeat is silent: somebody else has its port {ports.hb}"
        self.may_lack_ports = True
        return None

    def _is_silent(self, ports: Ports) -> bool:
        """Tell a kernel that listens and has no heartbeat from one that still loads."""
        if time.monotonic() < self._next_look or self._plan.transport != "tcp":
            return False
        self._next_look = time.monotonic() + HEARTBEAT_LOOK
        self._silent_looks = self._silent_looks + 1 if self._listens(ports.shell) else 0
        return self._silent_looks >= SILENT_LOOKS

    def _listens(self, port: int) -> bool:
        try:
            with socket.create_connection((self._reachable_ip(), port), timeout=1):
                return True
        except OSError:
            return False

    def _url(self, port: int) -> str:
        return url(self._plan.transport, self._reachable_ip(), port)

    def _reachable_ip(self) -> str:
        return LOOPBACK if self._plan.ip == IPV4_ANY else self._plan.ip

    def hand_over(self) -> None:
        self.files = []

    def conclude(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.close()
            self._heartbeat = None
        super().conclude()


class ByRewrite(_Beating):
    """The kernel finds ports 0 in its connection file and writes there which ones it took.

    No port is known to anybody before the kernel holds it, so an *unmodified* ipykernel starts
    without a race. At a restart the file names the last ports, where they are free; a kernel that
    keeps them all writes nothing, and then its heartbeat alone tells.

    Raises:
        OSError: the connection file cannot be written.
    """

    way = Way.REWRITE

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        ports = Ports(
            **{name: port for name, port in plan.preferred_ports if port and self._is_free(port)}
        )
        self.may_lack_ports = any(port for _, port in ports)
        file = ConnectionFile(
            key=plan.key,
            transport=plan.transport,
            signature_scheme=plan.signature_scheme,
            curve=plan.curve,
            ip=plan.ip,
            ports=ports,
            # And no `kernel_name`, until it is complete: jupyter_client remembers half a file
            # that has one.
        )
        connection_files.write_private(plan.connection_file, file.to_json())

    def _named(self) -> Ports | None:
        return _read_ports(self.startup_file)

    def _is_free(self, port: int) -> bool:
        """Guess; the port may be gone a moment later, and the kernel with it."""
        if self._plan.transport == "ipc":
            return not os.path.exists(f"{self._plan.ip}-{port}")
        family = socket.AF_INET6 if ":" in self._plan.ip else socket.AF_INET
        with socket.socket(family) as probe:
            if os.name == "posix":  # as libzmq; elsewhere the option lets two have one port
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self._plan.ip, port))
            except OSError:
                return False
        return True


class Classic(_Beating):
    """The launcher chose the ports, as ever. Watched only where another way was tried before.

    Args:
        plan: its ``preferred_ports`` are the kernel's.
    """

    way = Way.CLASSIC

    def _named(self) -> Ports | None:
        return self._plan.preferred_ports

    def _without_heartbeat(self, ports: Ports) -> Ports | None:
        return ports  # nothing is known of this kernel, and it listens


def _stamp(path: str) -> tuple[int, int, int] | None:
    """Return what changes when the file does; None if it is gone."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _read_ports(path: str) -> Ports | None:
    """Return the five ports in a file; None while it has not all of them, or only half is there."""
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        ports = Ports.from_keys(data)
    except (OSError, ValueError, AttributeError):
        return None
    return ports if all(isinstance(port, int) and port > 0 for _, port in ports) else None


def make(way: Way, plan: Plan) -> Attempt:
    """Return an attempt in this way; its file is written.

    Raises:
        OSError, zmq.ZMQError: no registration socket, or the file cannot be written.
    """
    if way is Way.REWRITE:
        return ByRewrite(plan)
    if way is Way.CLASSIC:
        return Classic(plan)
    return ByHandshake(plan, Form(way.value))
