"""``echokernel stress``: the command, the worker processes that it starts, and its report."""
