"""Delays the ``__init__`` of three large packages until something in it is used.

``import ipykernel.kernelbase`` runs the ``__init__`` of ipykernel, jupyter_client and IPython, with
kernel managers, clients and an interactive shell. Most languages never use these, and they cost a
third of a kernel's start (ipykernel 7.4). Submodules of a lazy package can be imported at any
time; the first access to any other name runs the package's ``__init__``.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

LAZY_PACKAGES = ("ipykernel", "jupyter_client", "IPython")

_lock = threading.RLock()
_loading: set[str] = set()


def install_lazy_packages(packages: Sequence[str] = LAZY_PACKAGES) -> None:
    """Make each package lazy that is installed and has not been imported yet."""
    for name in packages:
        spec = None if name in sys.modules else find_spec(name)
        if spec is not None:
            package = module_from_spec(spec)
            package.__class__ = _LazyPackage
            sys.modules[name] = package


class _LazyPackage(ModuleType):
    """A package whose ``__init__`` has not run."""

    def __getattr__(self, name: str) -> Any:
        with _lock:  # other threads wait until the package is complete
            if isinstance(self, _LazyPackage) and self.__name__ not in _loading:
                _loading.add(self.__name__)
                assert self.__spec__ is not None
                assert self.__spec__.loader is not None
                try:
                    self.__spec__.loader.exec_module(self)
                    self.__class__ = ModuleType  # type: ignore[assignment]
                finally:
                    _loading.remove(self.__name__)
        return ModuleType.__getattribute__(self, name)
