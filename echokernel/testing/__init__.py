"""Public fakes for the tests of kernel authors and launcher authors.

`FakeLauncher` is the launcher's end of a handshake, faultless or with a chosen `Fault`. The program
``python -m echokernel.testing.fake_ark -f FILE`` is a kernel that starts as ark does. Both use
sockets and `protocol.wire`, and nothing of this project's kernel or launcher.
"""

from .fake_launcher import FakeLauncher, Fault

__all__ = ["FakeLauncher", "Fault"]
