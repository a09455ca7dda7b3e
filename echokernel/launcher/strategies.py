"""One strategy for each `StartMode`: the startup file, and how the launcher gets the ports.

A strategy is created before the process is started, because it writes the file that the command
names. It is polled for ports while the process lives, and closed at the end in any case. Processes,
deadlines and retries are not decided here.
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
from .selection import StartMode
from .settings import LaunchSpec

LISTEN_CHECK_INTERVAL = 2.5
"""Seconds between two checks whether a kernel without a heartbeat listens on its shell port."""

LISTEN_CHECKS = 2
"""Positive checks in a row after which another process must hold the heartbeat port."""

CONNECT_TIMEOUT = 1.0
"""Seconds for the TCP connection of such a check."""


class StartStrategy:
    """The base class of all strategies.

    Attributes:
        mode: the start mode that the strategy implements.
        startup_file: the path that the kernel's command must name.
        files: paths that only this launch uses; `close` removes them.
        closed: True after `close`.
        failure: why the launch must fail although the process lives; None as long as it can
            succeed.
        wrote_ports: the kernel wrote its ports into a registration file.
        ports_contested: another process may have taken a port that the kernel was to use.
    """

    mode: StartMode
    failure: str | None = None
    wrote_ports = False
    ports_contested = False

    def __init__(self, startup_file: str, files: list[str]) -> None:
        self.startup_file = startup_file
        self.files = files
        self.closed = False

    async def wait(self, seconds: float) -> Ports | None:
        """Return the kernel's ports, or None if they are not known within ``seconds``."""
        raise NotImplementedError

    def check_ports(self, ports: Ports) -> None:
        """Check that the kernel's ports are permitted.

        Raises:
            ValueError: one of them is not.
        """

    def release_connection_file(self) -> None:
        """Keep the connection file when the strategy is closed: the kernel is up."""

    def close(self) -> None:
        """End the wait and remove the files. Can be called repeatedly."""
        self.closed = True
        for path in self.files:
            with contextlib.suppress(OSError):
                os.unlink(path)
        self.files = []


class HandshakeStrategy(StartStrategy):
    """The kernel registers its ports at the registration socket (JEP 66).

    Args:
        spec: the facts of the launch.
        form: the form of the handshake.

    Raises:
        OSError: the registration file cannot be written.
        zmq.ZMQError: the registration socket cannot be bound.
    """

    def __init__(self, spec: LaunchSpec, form: Form) -> None:
        self.mode = StartMode(form.value)
        runtime_dir = connection_files.runtime_dir()
        runtime_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        # ipc and CURVE need a separate socket. All other launches share the process's socket.
        self._owns_socket = spec.transport == "ipc" or spec.curve is not None
        self._registration = (
            RegistrationSocket(spec.registration_ip, transport=spec.transport, curve=spec.curve)
            if self._owns_socket
            else RegistrationSocket.shared(spec.registration_ip)
        )
        self._pending = self._registration.expect(spec.launch_id, spec.key, spec.signature_scheme)
        # Not `kernel-*.json`: jupyter_client takes such a file for a connection file.
        path = str(runtime_dir / f"registration-{spec.launch_id}.json")
        super().__init__(path, [path])
        self._port_range = spec.port_range
        try:
            connection_files.write_private(path, self._registration_file(spec, form).to_json())
            self._file_version = _file_version(path)
        except OSError:
            self.close()
            raise

    def _registration_file(self, spec: LaunchSpec, form: Form) -> RegistrationFile:
        return RegistrationFile(
            form=form,
            key=spec.key,
            transport=spec.transport,
            signature_scheme=spec.signature_scheme,
            curve=spec.curve,
            ip=spec.ip,
            registration_ip=self._registration.ip,
            registration_port=self._registration.port,
            kernel_id=spec.launch_id if form is Form.SIGNED_FRAME else None,
            # Ours (H6): the kernel writes its connection file to the manager's path. Other kernels
            # do not know this key.
            connection_file=os.path.abspath(spec.connection_file),
            kernel_name=spec.kernel_name,
            # Ours (L6): connected clients find the kernel again after a restart.
            preferred_ports=spec.preferred_ports,
            port_range=spec.port_range,
            advertised_ip=spec.advertised_ip,
            path=self.startup_file,
        )

    async def wait(self, seconds: float) -> Ports | None:
        registered = asyncio.wrap_future(self._pending.registered)
        await asyncio.wait([registered], timeout=seconds)
        if registered.done() and not registered.cancelled():
            return registered.result()
        # ipykernel writes its ports into any startup file that has none.
        changed = _file_version(self.startup_file) != self._file_version
        if changed and _read_ports(self.startup_file):
            self.wrote_ports = True
            self.failure = (
                "the kernel does not support the handshake: it wrote its ports into the"
                " registration file; set `handshake: rewrite` in the provisioner config of its"
                " kernelspec"
            )
        return None

    def check_ports(self, ports: Ports) -> None:
        allowed = self._port_range
        if allowed is not None and any(port not in allowed for port in ports.values()):
            low, high = allowed[0], allowed[-1]
            raise ValueError(f"the kernel bound a port outside port_range {low}-{high}")

    def close(self) -> None:
        if not self.closed:
            self._registration.forget(self._pending.launch_id)
            if self._owns_socket:
                self._registration.close()
        super().close()


class _HeartbeatStrategy(StartStrategy):
    """A kernel that counts as up when its heartbeat answers, which it starts last."""

    def __init__(self, spec: LaunchSpec) -> None:
        super().__init__(spec.connection_file, [spec.connection_file])
        self._spec = spec
        self._heartbeat: Heartbeat | None = None
        self._next_check = 0.0
        self._positive_checks = 0

    def _known_ports(self) -> Ports | None:
        """Return the ports that the kernel has or will bind, or None if they are not known yet."""
        raise NotImplementedError

    async def wait(self, seconds: float) -> Ports | None:
        await asyncio.sleep(seconds)
        ports = self._known_ports()
        if ports is None or self.closed:
            return None
        if self._heartbeat is None:
            self._heartbeat = Heartbeat(self._url(ports.hb), self._spec.curve)
            self._next_check = time.monotonic() + LISTEN_CHECK_INTERVAL
        if self._heartbeat.has_answered():
            return ports
        return self._without_heartbeat(ports) if self._heartbeat_lost(ports) else None

    def _without_heartbeat(self, ports: Ports) -> Ports | None:
        """Decide about a kernel that listens on its shell port and has no heartbeat.

        ipykernel 7.4 chooses the heartbeat port before it binds it, and continues without a
        heartbeat if another process has taken the port.
        """
        self.failure = (
            f"the kernel's heartbeat does not answer: another process holds its port {ports.hb}"
        )
        self.ports_contested = True
        return None

    def _heartbeat_lost(self, ports: Ports) -> bool:
        """Return True if the kernel listens and has no heartbeat; False if it may be loading."""
        if time.monotonic() < self._next_check or self._spec.transport != "tcp":
            return False
        self._next_check = time.monotonic() + LISTEN_CHECK_INTERVAL
        self._positive_checks = self._positive_checks + 1 if self._listens(ports.shell) else 0
        return self._positive_checks >= LISTEN_CHECKS

    def _listens(self, port: int) -> bool:
        try:
            with socket.create_connection((self._reachable_ip(), port), CONNECT_TIMEOUT):
                return True
        except OSError:
            return False

    def _url(self, port: int) -> str:
        return url(self._spec.transport, self._reachable_ip(), port)

    def _reachable_ip(self) -> str:
        return LOOPBACK if self._spec.ip == IPV4_ANY else self._spec.ip

    def release_connection_file(self) -> None:
        self.files = []

    def close(self) -> None:
        if self._heartbeat is not None:
            self._heartbeat.close()
            self._heartbeat = None
        super().close()


class RewriteStrategy(_HeartbeatStrategy):
    """The kernel finds ports 0 in its connection file and writes the ports it has bound into it.

    No other process knows a port before the kernel holds it, so that an *unmodified* ipykernel
    starts without a port race. At a restart the file names the last ports, if they are free. A
    kernel that binds all of them writes nothing; then its heartbeat shows that it is up.

    Args:
        spec: the facts of the launch.

    Raises:
        OSError: the connection file cannot be written.
    """

    mode = StartMode.REWRITE

    def __init__(self, spec: LaunchSpec) -> None:
        super().__init__(spec)
        ports = Ports(
            **{
                name: port
                for name, port in spec.preferred_ports.items()
                if port and self._is_free(port)
            }
        )
        self.ports_contested = any(ports.values())
        file = ConnectionFile(
            key=spec.key,
            transport=spec.transport,
            signature_scheme=spec.signature_scheme,
            curve=spec.curve,
            ip=spec.ip,
            ports=ports,
            # Without `kernel_name` until the ports are in the file: jupyter_client caches an
            # incomplete connection file that has this key.
        )
        connection_files.write_private(spec.connection_file, file.to_json())

    def _known_ports(self) -> Ports | None:
        return _read_ports(self.startup_file)

    def _is_free(self, port: int) -> bool:
        """Return True if the port is free now. Another process can take it before the kernel."""
        if self._spec.transport == "ipc":
            return not os.path.exists(f"{self._spec.ip}-{port}")
        family = socket.AF_INET6 if ":" in self._spec.ip else socket.AF_INET
        with socket.socket(family) as probe:
            if os.name == "posix":  # As libzmq does. On Windows two sockets could share the port.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self._spec.ip, port))
            except OSError:
                return False
        return True


class ClassicStrategy(_HeartbeatStrategy):
    """The launcher has chosen the ports. Used only after another start mode has failed.

    Args:
        spec: the facts of the launch; its ``preferred_ports`` are the chosen ports.
    """

    mode = StartMode.CLASSIC

    def _known_ports(self) -> Ports | None:
        return self._spec.preferred_ports

    def _without_heartbeat(self, ports: Ports) -> Ports | None:
        return ports  # The kernel listens. It may be one that has no heartbeat.


def create(mode: StartMode, spec: LaunchSpec) -> StartStrategy:
    """Return a strategy for the start mode; its startup file is written.

    Args:
        mode: the start mode.
        spec: the facts of the launch.

    Raises:
        OSError: the startup file cannot be written.
        zmq.ZMQError: the registration socket cannot be bound.
    """
    if mode is StartMode.REWRITE:
        return RewriteStrategy(spec)
    if mode is StartMode.CLASSIC:
        return ClassicStrategy(spec)
    return HandshakeStrategy(spec, Form(mode.value))


def _file_version(path: str) -> tuple[int, int, int] | None:
    """Return values that change when the file is written, or None if there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns, status.st_size


def _read_ports(path: str) -> Ports | None:
    """Return the five ports in a file, or None if the file is incomplete."""
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
        ports = Ports.from_keys(data)
    except (OSError, ValueError, AttributeError):
        return None
    return ports if all(isinstance(port, int) and port > 0 for port in ports.values()) else None
