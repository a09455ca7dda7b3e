"""Makes the ``comm`` package, and ipykernel, create the comms of this kernel."""

from __future__ import annotations

from contextlib import ExitStack

import comm

from ..ipykernel_compat import replace_comm_manager
from .manager import create_comm, get_manager


def install_comm_hooks(at_exit: ExitStack) -> None:
    """Replace ``comm.create_comm`` and ``comm.get_comm_manager``; ``at_exit`` restores them.

    This precedes the kernel: authors ask for the manager in their constructors.
    """
    for name, function in (("create_comm", create_comm), ("get_comm_manager", get_manager)):
        at_exit.callback(setattr, comm, name, getattr(comm, name))
        setattr(comm, name, function)
    replace_comm_manager(get_manager(), at_exit)
