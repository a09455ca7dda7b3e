"""Fakes for the tests of kernel authors and launcher authors: raw sockets, and ``protocol.wire``.

`fake_launcher` is the launcher's end of a handshake, with or without a fault; `fake_ark` is a
kernel that starts as ark does.
"""
