"""Public fakes for the tests of kernel authors and launcher authors.

`fake_launcher` is the launcher's end of a handshake, faultless or with a chosen fault. `fake_ark`
is a kernel that starts as ark does. Both use sockets and `protocol.wire`, and nothing of this
project's kernel or launcher.
"""
