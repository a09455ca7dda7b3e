"""Black-box peers for kernels and launchers; the checker is built on them.

``raw_messages`` builds and parses frames, ``raw_client`` and ``raw_launcher`` exchange them with a
kernel, and ``raw_zmtp`` sends frames that libzmq refuses to send. They need neither pytest nor any
other part of echokernel: code that checks a kernel must not share that kernel's mistakes.
"""
