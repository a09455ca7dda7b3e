"""The reference implementation of JEP 65 (welcome) and JEP 66 (handshake), in pure Python.

Light on purpose: a kernel binds its sockets before it imports anything heavy.
"""

__version__ = "0.1.0"
