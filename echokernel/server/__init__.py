"""Classes for jupyter_server's settings: its websocket and its kernel manager, welcome-aware."""

from .websocket import WelcomeServerKernelManager, WelcomeWebsocketConnection

__all__ = ["WelcomeServerKernelManager", "WelcomeWebsocketConnection"]
