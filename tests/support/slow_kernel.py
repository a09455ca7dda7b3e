"""A kernel class that loads slowly, for the handshake's deadline."""

import threading

from echokernel.kernel import EchoKernel

threading.Event().wait(3.0)  # seconds, as a large import takes them


class SlowKernel(EchoKernel):
    """An echo kernel whose module takes 3 s to import."""
