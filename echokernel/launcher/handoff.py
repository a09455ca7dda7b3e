"""Gives a kernel manager the real ports of its kernel, and writes its connection file (L5)."""

from __future__ import annotations

from typing import Any

from jupyter_client.connect import KernelConnectionInfo, LocalPortCache

from .. import connection_files
from ..protocol.startup import Ports


def hand_over(manager: Any, ports: Ports, session_name: str | None) -> KernelConnectionInfo:
    """Return what jupyter_client is to know of the connection; manager and file know it too.

    Args:
        manager: a ``jupyter_client.KernelManager``.
        ports: the kernel's.
        session_name: which notebook this kernel is for, if the launch said so.

    Raises:
        OSError: the connection file cannot be written.
    """
    for name, port in ports.to_keys().items():
        setattr(manager, name, port)
    info: KernelConnectionInfo = manager.get_connection_info()
    extra = {"kernel_name": manager.kernel_name}
    if session_name is not None:
        extra["jupyter_session"] = session_name
    # jupyter_client's own way (remove, then write) shows half a file to whoever reads now,
    # and would count these ports as random: an autorestart would then throw them away.
    connection = {**info, "key": manager.session.key.decode(), **extra}
    connection_files.write_private(manager.connection_file, connection)
    manager._connection_file_written = True
    return info


def hold_in_port_cache(ports: Ports) -> None:
    """Keep jupyter_client from giving these to a classic kernel, also while ours restarts."""
    LocalPortCache.instance().currently_used_ports.update(port for _, port in ports)
