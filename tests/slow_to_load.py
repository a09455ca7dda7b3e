"""A language that takes its time, for the handshake's deadline."""

import threading

from echokernel.kernel import EchoKernel

threading.Event().wait(1.0)  # what a large import does: one second of it


class SlowKernel(EchoKernel):
    """An echo that is late."""
