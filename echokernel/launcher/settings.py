"""Everything that is decided before a kernel starts: addresses, ports, keys and files."""

from __future__ import annotations

import itertools
import os
import uuid
from dataclasses import dataclass, field
from typing import Any

from jupyter_client.connect import port_names
from jupyter_client.localinterfaces import is_local_ip

from .. import connection_files
from ..protocol.endpoints import IPV4_ANY, is_loopback
from ..protocol.startup import LOOPBACK, CurveKeys, Form, Ports, port_range
from .jupyter_client_compat import curve_keys
from .selection import StartMode

_launch_numbers = itertools.count(1)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The provisioner's settings for addresses and ports; an empty string means not set.

    Attributes:
        bind_ip: address that the kernel binds; by default the manager's ``ip``.
        registration_ip: address of the registration socket.
        port_range: ``"LOW-HIGH"``, the ports that the kernel may use.
    """

    bind_ip: str = ""
    registration_ip: str = ""
    port_range: str = ""

    def refuse(self, mode: StartMode, *names: str) -> None:
        """Check that none of these settings is set, because the start mode does not support them.

        Raises:
            ValueError: one of them is set.
        """
        for name in names:
            if getattr(self, name):
                raise ValueError(f"{name} is not supported with start mode {mode}")


@dataclass(frozen=True, kw_only=True)
class LaunchSpec:
    """The facts of one launch.

    Attributes:
        launch_id: identifies this launch; a restart has another one.
        kernel_name: the name of the kernelspec.
        key, signature_scheme, transport, curve: as in a startup file.
        ip: address that the kernel binds.
        registration_ip: address of the registration socket.
        advertised_ip: address for clients, if it is not ``ip``.
        port_range: tcp ports that the kernel may use; None lets the operating system choose.
        preferred_ports: ports that the kernel binds again if they are free; 0 means no preference.
        connection_file: path of the kernel manager's connection file.
    """

    launch_id: str
    kernel_name: str
    key: bytes = field(repr=False)  # The key must not appear in logs (F4).
    signature_scheme: str
    transport: str
    ip: str
    registration_ip: str
    advertised_ip: str | None
    port_range: range | None
    curve: CurveKeys | None
    preferred_ports: Ports
    connection_file: str


def launch_spec(
    manager: Any, mode: StartMode, settings: Settings, *, keep_ports: bool = True
) -> LaunchSpec:
    """Return the facts of the next launch of a kernel manager.

    Args:
        manager: a ``jupyter_client.KernelManager``.
        mode: the start mode of this launch.
        settings: the provisioner's settings.
        keep_ports: prefer the ports that the manager has (L6).

    Raises:
        ValueError: the settings contradict each other, the start mode or this host.
    """
    ip = settings.bind_ip or manager.ip
    ip = IPV4_ANY if ip == "*" else ip
    # `is_local_ip` knows only one address of 127.0.0.0/8.
    if manager.transport == "tcp" and not (is_loopback(ip) or is_local_ip(ip)):
        raise ValueError(f"{ip} is not an address of this host")
    registration_ip = settings.registration_ip or (LOOPBACK if ip == IPV4_ANY else ip)
    if mode is StartMode.REWRITE:
        settings.refuse(mode, "port_range")
    if mode.form is Form.HANDSHAKE_REQUEST and registration_ip != ip:
        # Its registration file has one address for both purposes.
        settings.refuse(mode, "bind_ip", "registration_ip")
    ports = {name: getattr(manager, name) for name in port_names} if keep_ports else {}
    return LaunchSpec(
        # A restart uses the same key. Its own id prevents that a late registration of the old
        # process is taken for the new one.
        launch_id=f"{manager.kernel_id or uuid.uuid4()}.{next(_launch_numbers)}",
        kernel_name=manager.kernel_name,
        key=manager.session.key,
        signature_scheme=manager.session.signature_scheme,
        transport=manager.transport,
        ip=ip,
        registration_ip=registration_ip,
        advertised_ip=manager.ip if settings.bind_ip else None,
        port_range=port_range(settings.port_range) if settings.port_range else None,
        curve=curve_keys(manager),
        preferred_ports=Ports.from_keys(ports),
        connection_file=os.path.abspath(manager.connection_file),
    )


def connection_file_name(kernel_id: str | None) -> str:
    """Return a path for a connection file that no other kernel uses."""
    path = connection_files.runtime_dir() / f"kernel-{kernel_id or uuid.uuid4()}.json"
    return str(path.with_name(f"kernel-{uuid.uuid4()}.json") if path.exists() else path)
