"""Big packages, of which a kernel's start needs one small module each, load when they are used.

``import ipykernel.kernelbase`` first runs the ``__init__`` of ipykernel, jupyter_client and
IPython: kernel managers, clients, a whole interactive shell. That is a third of a kernel's start,
6 MB, and never needed by most languages. Here those packages exist and have their submodules; the
first use of anything else of them runs their ``__init__``, and nobody sees a difference.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Any

BIG = ("ipykernel", "jupyter_client", "IPython")

_lock = threading.RLock()
_loading: set[str] = set()


def install_lazy_packages(packages: Sequence[str] = BIG) -> None:
    """Let those of ``packages`` that are installed, and not loaded yet, load when they are used."""
    for name in packages:
        spec = None if name in sys.modules else find_spec(name)
        if spec is not None:
            package = module_from_spec(spec)
            package.__class__ = _LazyPackage
            sys.modules[name] = package


class _LazyPackage(ModuleType):
    """A package whose ``__init__`` has not run."""

    def __getattr__(self, name: str) -> Any:
        with _lock:  # another thread that comes while it loads waits until all is there
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
