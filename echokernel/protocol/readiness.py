"""When a client is ready: the kernel has replied, and the IOPub subscription is live (JEP 65).

One `Readiness` is one wait. The caller reports requests, replies and IOPub messages. The
`Readiness` decides when the next ``kernel_info_request`` is due, and when the wait is over. Clocks
and sockets belong to the caller.

Two kinds of IOPub message prove that the subscription is live: any message of the kernel that
replied, and any message that belongs to one of the client's own requests. A message of a process
that a restart has ended proves nothing (S2).

Source: https://github.com/jupyter/enhancement-proposals/blob/master/65-jupyter-xpub/jupyter-xpub.md
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WELCOME_VERSION = (5, 5)
"""The protocol version from which a kernel should send the welcome (JEP 65)."""

WELCOME_FEATURE = "iopub_welcome"
"""The entry in ``supported_features`` of a kernel that sends the welcome; the name is ark's."""

WELCOME_TIMEOUT = 0.2
"""Seconds to wait for a promised welcome. Some kernels promise it and welcome only the first
client: async-kernel 0.23 and ark (built from its source of August 2026)."""

STATUS_TIMEOUT = 0.01
"""Seconds to wait for the status messages of a request after its reply; doubled each time."""

REPLY_TIMEOUT = 1.0
"""Seconds to wait for a reply; doubled with each request. A restart loses pending requests."""

MAX_TIMEOUT = 8.0
"""Seconds that the doubled times do not exceed. A busy kernel has to reply to every request."""


class Readiness:
    """One wait for the reply of a kernel, and for a message that proves the subscription.

    Args:
        session: the client's own session id.

    Attributes: ``reply`` (the last ``kernel_info_reply`` to a request of this wait; None: none).
    """

    def __init__(self, session: str) -> None:
        self._session = session
        self._due_at = 0.0
        self._reply_timeout = REPLY_TIMEOUT
        self._status_timeout = STATUS_TIMEOUT
        self._request_ids: set[str] = set()
        self._publishers: set[str | None] = set()  # sessions of the IOPub messages received
        self._has_own_message = False  # one that belongs to a request of this wait
        self._kernel_session: str | None = None
        self.reply: Mapping[str, Any] | None = None

    @property
    def is_over(self) -> bool:
        """True if the kernel has replied, and a message has proved the subscription (S2)."""
        is_proven = self._has_own_message or self._kernel_session in self._publishers
        return self.reply is not None and is_proven

    @property
    def requests(self) -> int:
        """Number of requests that were sent."""
        return len(self._request_ids)

    @property
    def has_received(self) -> bool:
        """True if an IOPub message with a session has arrived, even of a process that has ended."""
        return bool(self._publishers)

    def due_in(self, now: float) -> float:
        """Return the seconds until the next request is due; 0: now."""
        return max(0.0, self._due_at - now)

    def sent(self, msg_id: str, now: float) -> None:
        """Apply the sending of a ``kernel_info_request``.

        Args:
            msg_id: of the request.
            now: seconds of the caller's clock.
        """
        self._request_ids.add(msg_id)
        self._due_at = now + self._reply_timeout
        self._reply_timeout = min(2 * self._reply_timeout, MAX_TIMEOUT)

    def replied(self, message: Mapping[str, Any], now: float) -> None:
        """Apply a message of the shell channel; only a reply to a request of this wait counts.

        Args:
            message: as jupyter_client's session parses it.
            now: seconds of the caller's clock.
        """
        if message["msg_type"] != "kernel_info_reply" or not self._is_own(message):
            return
        is_first, self.reply = self.reply is None, message
        session = message["header"].get("session")
        # Some kernels write the client's session id instead of their own. It identifies no kernel.
        self._kernel_session = None if session == self._session else session
        if is_first and promises_welcome(message["content"]):
            # The promised welcome should arrive, so the next request can wait longer (S2).
            self._due_at = now + WELCOME_TIMEOUT
            return
        # Without a welcome, the status messages of another request are the proof: those of this
        # request may have been published before the subscription was live (S2).
        self._due_at = now + self._status_timeout
        self._status_timeout = min(2 * self._status_timeout, MAX_TIMEOUT)

    def received(self, message: Mapping[str, Any]) -> None:
        """Apply a message of the IOPub channel, parsed like a reply."""
        self._has_own_message = self._has_own_message or self._is_own(message)
        self._publishers.add(message["header"].get("session"))
        self._publishers.discard(None)

    def _is_own(self, message: Mapping[str, Any]) -> bool:
        """Return True if the message belongs to a request of this wait."""
        # The parent header of xeus-python 0.19 can be null.
        return (message["parent_header"] or {}).get("msg_id") in self._request_ids


def promises_welcome(info: Mapping[str, Any]) -> bool:
    """Return True if a kernel with this ``kernel_info_reply`` should welcome each subscriber."""
    features = info.get("supported_features") or ()
    return WELCOME_FEATURE in features or _version(info) >= WELCOME_VERSION


def _version(info: Mapping[str, Any]) -> tuple[int, ...]:
    parts = str(info.get("protocol_version", "")).split(".")[:2]
    return tuple(int(part) for part in parts) if all(p.isdecimal() for p in parts) else ()
