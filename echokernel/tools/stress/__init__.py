"""``echokernel stress``: the command, the processes that it starts, what it tells."""
