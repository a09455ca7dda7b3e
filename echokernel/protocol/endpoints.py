"""ZeroMQ addresses of a kernel's sockets and of the registration socket. No name is resolved here.

Source: "Connection files" in https://jupyter-client.readthedocs.io/en/stable/kernels.html
"""

from __future__ import annotations

import ipaddress

IPV4_ANY = "0.0.0.0"
"""Binds every IPv4 address of the host; a peer cannot connect to this address."""


def is_loopback(host: str) -> bool:
    """Return True if ``host`` (a name or an address) is a loopback address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def url(transport: str, ip: str, port: int | str) -> str:
    """Return the ZeroMQ address ``tcp://ip:port`` or ``ipc://ip-port`` (F7).

    Args:
        transport: ``"tcp"`` or ``"ipc"``.
        ip: a host name, an IPv4 or IPv6 address; for ``ipc`` the prefix of a path.
        port: number of the port, or any suffix.
    """
    if transport == "ipc":
        return f"ipc://{ip}-{port}"
    return f"tcp://[{ip}]:{port}" if ":" in ip else f"tcp://{ip}:{port}"
