"""ZeroMQ addresses of a kernel's sockets and of the registration socket. Nothing is resolved here.

Source: messaging docs, "Connection files"; libzmq's zmq_tcp(7) and zmq_ipc(7).
"""

from __future__ import annotations

import ipaddress

IPV4_ANY = "0.0.0.0"
"""Binds every IPv4 address of the host. A peer cannot connect to it."""


def is_loopback(host: str) -> bool:
    """Return True if ``host`` (a name or an address) is a loopback address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def url(transport: str, ip: str, port: int | str) -> str:
    """Return the ZeroMQ address: ``tcp://ip:port``, or ``ipc://ip-port`` (F7)."""
    if transport == "ipc":
        return f"ipc://{ip}-{port}"
    return f"tcp://[{ip}]:{port}" if ":" in ip else f"tcp://{ip}:{port}"
