"""The checker's room: it looks at kernels, launchers and clients from outside, over the wire.

Nothing here imports the kernel or the launcher: a checker that shares code with what it checks
shares its mistakes.
"""
