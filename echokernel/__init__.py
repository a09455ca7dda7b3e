"""The reference implementation of JEP 65 (welcome) and JEP 66 (handshake), in pure Python.

The names in ``__all__`` are public. Importing the package imports nothing else: a kernel binds its
sockets before it imports anything heavy.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .protocol.errors import CommDisconnected, CommError, CommRequestError, CommTimeout
    from .runtime.comms.manager import Comm, CommManager
    from .runtime.kernelbase import Kernel
    from .runtime.serving import run_kernel

__version__ = "0.1.0"

__all__ = [
    "Comm",
    "CommDisconnected",
    "CommError",
    "CommManager",
    "CommRequestError",
    "CommTimeout",
    "Kernel",
    "run_kernel",
]

_MODULES = {
    "Comm": "runtime.comms.manager",
    "CommDisconnected": "protocol.errors",
    "CommError": "protocol.errors",
    "CommManager": "runtime.comms.manager",
    "CommRequestError": "protocol.errors",
    "CommTimeout": "protocol.errors",
    "Kernel": "runtime.kernelbase",
    "run_kernel": "runtime.serving",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_MODULES[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
