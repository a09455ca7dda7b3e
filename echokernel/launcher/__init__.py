"""The launcher's process: a jupyter_client kernel provisioner that starts kernels by a handshake.

Public: `HandshakeProvisioner`, and `RegistrationSocket` for launchers that do not use
jupyter_client. Nothing here runs in the kernel's process.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .provisioner import HandshakeProvisioner
    from .registration_socket import RegistrationSocket

__all__ = ["HandshakeProvisioner", "RegistrationSocket"]

_MODULES = {"HandshakeProvisioner": "provisioner", "RegistrationSocket": "registration_socket"}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Imported on first use: the registration socket works without jupyter_client.
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)
