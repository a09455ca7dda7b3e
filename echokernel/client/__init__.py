"""Clients that wait for the welcome. The names below are public: users set them in settings.

===========================  ======================================================
`BlockingWelcomeClient`      is a jupyter_client ``BlockingKernelClient``
`AsyncWelcomeClient`         is an ``AsyncKernelClient``
`ThreadedWelcomeClient`      is a ``ThreadedKernelClient``, with a ``wait_for_ready``
`WelcomeKernelManager`       is a ``KernelManager`` whose clients wait for the welcome
`AsyncWelcomeKernelManager`  is an ``AsyncKernelManager`` whose clients wait for it
===========================  ======================================================

`welcoming` and `WelcomeManagerMixin` extend classes that derive from jupyter_client's.
"""

from .clients import (
    AsyncWelcomeClient,
    AsyncWelcomeKernelManager,
    BlockingWelcomeClient,
    ThreadedWelcomeClient,
    WelcomeKernelManager,
    WelcomeManagerMixin,
    welcoming,
)
from .ready import presence_topic, subscribed_socket

__all__ = [
    "AsyncWelcomeClient",
    "AsyncWelcomeKernelManager",
    "BlockingWelcomeClient",
    "ThreadedWelcomeClient",
    "WelcomeKernelManager",
    "WelcomeManagerMixin",
    "presence_topic",
    "subscribed_socket",
    "welcoming",
]
