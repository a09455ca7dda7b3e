"""What is settled before a kernel starts: addresses, ports, keys, files."""

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
from .selection import Way

_launches = itertools.count(1)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The provisioner's settings of addresses and ports; empty where it has none.

    Attributes:
        bind_ip: where the kernel binds, if not at the manager's ``ip``.
        registration_ip: where it registers.
        port_range: ``"LOW-HIGH"``, the ports that it may take.
    """

    bind_ip: str = ""
    registration_ip: str = ""
    port_range: str = ""

    def refuse(self, way: Way, *names: str) -> None:
        """Raise ValueError if one of these is set: this way cannot tell it to the kernel."""
        for name in names:
            if getattr(self, name):
                raise ValueError(f"{name} cannot be told to a kernel by {way}")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One launch.

    Attributes:
        launch_id: names this launch alone.
        kernel_name: as its kernelspec is called.
        key, signature_scheme, transport, curve: as in a startup file.
        ip: where the kernel binds.
        registration_ip: where it registers.
        advertised_ip: where clients reach it, if elsewhere than at ``ip``.
        port_range: tcp ports to choose from; None: the system's choice.
        preferred_ports: ports to take again where they are free; 0: no preference.
        connection_file: the kernel manager's.
    """

    launch_id: str
    kernel_name: str
    key: bytes = field(repr=False)  # F4
    signature_scheme: str
    transport: str
    ip: str
    registration_ip: str
    advertised_ip: str | None
    port_range: range | None
    curve: CurveKeys | None
    preferred_ports: Ports
    connection_file: str


def plan(manager: Any, way: Way, settings: Settings, *, keep_ports: bool = True) -> Plan:
    """Return the plan for the kernel of this kernel manager.

    Args:
        manager: a ``jupyter_client.KernelManager``.
        keep_ports: prefer the ports that the manager knows (L6).

    Raises:
        ValueError: settings that cannot be met.
    """
    ip = settings.bind_ip or manager.ip
    ip = IPV4_ANY if ip == "*" else ip
    # All of 127.0.0.0/8 is this host, of which jupyter_client knows one address.
    if manager.transport == "tcp" and not (is_loopback(ip) or is_local_ip(ip)):
        raise ValueError(f"{ip} is not an address of this host")
    registration_ip = settings.registration_ip or (LOOPBACK if ip == IPV4_ANY else ip)
    if way is Way.REWRITE:
        settings.refuse(way, "port_range")
    if way.form is Form.HANDSHAKE_REQUEST and registration_ip != ip:
        settings.refuse(way, "bind_ip", "registration_ip")  # its file has one address for both
    ports = {name: getattr(manager, name) for name in port_names} if keep_ports else {}
    return Plan(
        # An id of its own for each launch: a restart reuses the key, and a late registration
        # of the old process must not be taken for the new one.
        launch_id=f"{manager.kernel_id or uuid.uuid4()}.{next(_launches)}",
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
