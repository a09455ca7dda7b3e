"""The protocol without I/O: JEP 65 (welcome) and JEP 66 (handshake), both ends.

Bytes and ``now`` come in, values and frames go out. Nothing here may import a socket, an
event loop, a thread, a clock, randomness, logging, or anything from Jupyter: the standard
library's pure parts only (``tests/test_floors.py`` watches over it).
"""
