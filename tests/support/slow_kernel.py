"""A language that takes its time, for the handshake's deadline."""

import threading

from echokernel.kernel import EchoKernel

threading.Event().wait(3.0)  # what a large import does: three seconds of it


class SlowKernel(EchoKernel):
    """An echo that is late."""
