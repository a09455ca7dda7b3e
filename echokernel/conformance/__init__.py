"""Black boxes for other people's kernels and launchers: raw sockets, and ``protocol.wire``.

Nothing here may import a kernel or a launcher of ours (``tests/test_floors.py`` watches over
it): what shares code with them shares their mistakes.
"""
