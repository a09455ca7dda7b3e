"""``sys.displayhook`` of a kernel: a value that user code shows becomes an ``execute_result``."""

from __future__ import annotations

import builtins
import sys
from contextlib import ExitStack

from ..kernelbase import Kernel


def install_displayhook(kernel: Kernel, at_exit: ExitStack) -> None:
    """Let ``sys.displayhook`` publish values; ``at_exit`` restores the former hook."""
    at_exit.callback(setattr, sys, "displayhook", sys.displayhook)
    sys.displayhook = DisplayHook(kernel)


class DisplayHook:
    """Publishes a value with the text that Python's own hook would print."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def __call__(self, value: object) -> None:
        if value is None:
            return
        builtins._ = value  # type: ignore[attr-defined]
        content = {
            "execution_count": self._kernel.execution_count,
            "data": {"text/plain": repr(value)},
            "metadata": {},
        }
        self._kernel.send_response(self._kernel.iopub_socket, "execute_result", content)
