"""Classes for jupyter_server's settings: a websocket and a kernel manager that use the welcome.

The names are public: users set them in their configuration.
"""

from .websocket import WelcomeServerKernelManager, WelcomeWebsocketConnection

__all__ = ["WelcomeServerKernelManager", "WelcomeWebsocketConnection"]
