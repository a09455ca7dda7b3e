"""What kernels of other authors find around them when ipykernel's app starts them, and so here.

A display hook, comms, something to make streams on. What needs more of ipykernel loads it when it
is used: most kernels never do.
"""

from __future__ import annotations

import asyncio
import builtins
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import comm
from ipykernel.iostream import IOPubThread as IPykernelIOPubThread
from tornado.ioloop import IOLoop

from .comms.manager import create_comm, manager
from .iopub.publisher import IOPub
from .kernelbase import Kernel


def offer_comms(at_exit: ExitStack) -> None:
    """Let the ``comm`` package make comms that are ours; ``at_exit`` takes it back.

    Before there is a kernel: authors get the manager in their constructors.
    """
    for name, function in (("create_comm", create_comm), ("get_comm_manager", manager)):
        at_exit.callback(setattr, comm, name, getattr(comm, name))
        setattr(comm, name, function)
    ipkernel: Any = sys.modules.get("ipykernel.ipkernel")
    if ipkernel is not None:  # who took its functions when it was imported finds ours, too
        at_exit.callback(setattr, ipkernel, "_comm_manager", ipkernel._comm_manager)
        ipkernel._comm_manager = manager()


def show_values(kernel: Kernel, at_exit: ExitStack) -> None:
    """Let ``sys.displayhook`` publish results; ``at_exit`` puts the former one back."""
    at_exit.callback(setattr, sys, "displayhook", sys.displayhook)
    sys.displayhook = DisplayHook(kernel)


class DisplayHook:
    """``sys.displayhook``: a value becomes an ``execute_result``, as Python's shows it."""

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


class IOPubThread(IPykernelIOPubThread):
    """What authors give to ipykernel's ``OutStream``: publishes by `IOPub`.

    Args:
        iopub: publishes.
        timers: loop of a thread that stays free.
    """

    def __init__(self, iopub: IOPub, timers: asyncio.AbstractEventLoop) -> None:
        # ipykernel's own __init__ makes a thread, a loop and sockets; ours are there.
        self.socket = iopub
        self.io_loop = IOLoop(asyncio_loop=timers, make_current=False)
        self.thread: Any = None  # nobody has to wait for it
        self._timers = timers

    def schedule(self, f: Callable[[], Any]) -> None:
        self._timers.call_soon_threadsafe(f)

    def send_multipart(self, frames: Sequence[Any], *arguments: Any, **options: Any) -> None:
        self.socket.send_multipart(frames, *arguments, **options)
