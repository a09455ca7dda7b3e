"""Addresses and ports that no other test uses at the same time."""

from __future__ import annotations

import itertools
import os
import socket
import sys

OWN_ADDRESS = (
    f"127.77.{os.getpid() // 250 % 250}.{os.getpid() % 250 + 1}"
    if sys.platform == "linux"
    else "127.0.0.1"
)
"""An address of this host that no other process uses, for kernels that must keep their ports.

On 127.0.0.1 the operating system can give a kernel's port to another process during a restart: the
kernels of two other tests bind tens of ports in that time, out of 14,000.
"""

_next_port = itertools.count(20000 + os.getpid() * 1009 % 11000)
"""Far from the ports of a test process with the next number, which runs at the same time."""


def free_range(size: int) -> int:
    """Return the first of ``size`` consecutive free ports.

    They are below the range from which the operating system chooses: no other process gets one by
    chance.
    """
    for low in _next_port:
        probes = [socket.socket() for _ in range(size)]
        try:
            for probe in probes:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            for offset, probe in enumerate(probes):
                probe.bind(("127.0.0.1", low + offset))
        except OSError:
            continue
        finally:
            for probe in probes:
                probe.close()
        for _ in range(size - 1):
            next(_next_port)
        return low
    raise AssertionError("no free range of ports on this machine")


def free_port() -> int:
    return free_range(1)
