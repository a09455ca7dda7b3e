"""Names of jupyter_client that are private or undocumented and that the launcher relies on.

No other module of ``launcher/`` uses such a name. ``tests/test_upstream_names.py`` lists each of
them and fails when a release of jupyter_client drops one.
"""

from __future__ import annotations

from typing import Any

import zmq
from jupyter_client.connect import KernelConnectionInfo, LocalPortCache

from .. import connection_files
from ..protocol.startup import CurveKeys, Ports


def publish_ports(manager: Any, ports: Ports, session_name: str | None) -> KernelConnectionInfo:
    """Set the kernel's ports on its manager, write the connection file and return its content (L5).

    Args:
        manager: a ``jupyter_client.KernelManager``.
        ports: the ports that the kernel has bound.
        session_name: the notebook that the kernel belongs to, if the launch named one.

    Raises:
        OSError: the connection file cannot be written.
    """
    for name, port in ports.to_keys().items():
        setattr(manager, name, port)
    info: KernelConnectionInfo = manager.get_connection_info()
    extra = {"kernel_name": manager.kernel_name}
    if session_name is not None:
        extra["jupyter_session"] = session_name
    # Not `KernelManager.write_connection_file`: it writes in place, so that a reader can see half
    # a file. It also marks the ports as random, and the next autorestart would replace them.
    content = {**info, "key": manager.session.key.decode(), **extra}
    connection_files.write_private(manager.connection_file, content)
    manager._connection_file_written = True
    return info


def reserve_ports(ports: Ports) -> None:
    """Prevent jupyter_client from choosing these ports for a classic kernel, even while they are
    free during a restart (L8)."""
    LocalPortCache.instance().currently_used_ports.update(ports.values())


def has_restarter(manager: Any) -> bool:
    """Return True if jupyter_client restarts the kernel of this manager when it dies."""
    return bool(manager.autorestart) and getattr(manager, "_restarter", None) is not None


def curve_keys(manager: Any) -> CurveKeys | None:
    """Return the kernel's CURVE key pair, or None if its manager does not encrypt.

    The rules are those of ``LocalProvisioner.pre_launch``.
    """
    policy = manager._transport_encryption_policy()
    if policy == "disabled":
        return None
    if policy == "auto" and not manager._kernel_supports_curve_encryption():
        return None
    if manager.curve_publickey is None:  # A restart keeps the keys: clients use them.
        manager.curve_publickey, manager.curve_secretkey = zmq.curve_keypair()
    return CurveKeys(manager.curve_publickey, manager.curve_secretkey)
