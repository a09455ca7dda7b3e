"""Clients that wait for the welcome (JEP 65). The names below are public: users set them in
settings.

===========================  ================================================================
`BlockingWelcomeClient`      jupyter_client's ``BlockingKernelClient``
`AsyncWelcomeClient`         jupyter_client's ``AsyncKernelClient``
`ThreadedWelcomeClient`      jupyter_client's ``ThreadedKernelClient`` with ``wait_for_ready``
`WelcomeKernelManager`       jupyter_client's ``KernelManager`` with a welcome client
`AsyncWelcomeKernelManager`  jupyter_client's ``AsyncKernelManager`` with a welcome client
===========================  ================================================================

`with_welcome` and `WelcomeManagerMixin` extend classes that derive from jupyter_client's.
"""

from .clients import (
    AsyncWelcomeClient,
    AsyncWelcomeKernelManager,
    BlockingWelcomeClient,
    ThreadedWelcomeClient,
    WelcomeKernelManager,
    WelcomeManagerMixin,
    with_welcome,
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
    "with_welcome",
]
