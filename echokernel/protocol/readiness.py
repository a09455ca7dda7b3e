"""When a client is ready: it is answered, and hears what the kernel publishes (JEP 65).

One `Readiness` is one wait. It is told what is sent, answered and heard, and says when to ask
(again) and when the wait is over. It has no clock and no sockets: ``now`` and messages come in.

What is the proof that a subscription is live? Any message of the kernel that answered, or the
status of one of our requests: what came before, of a process that a restart has ended, is none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WELCOMING_VERSION = (5, 5)
"""From this protocol version on, a kernel should welcome; what it does is another matter."""

FEATURE = "iopub_welcome"
"""In ``supported_features`` of a kernel that welcomes."""

WELCOME_PATIENCE = 0.2
"""Seconds for the welcome of a kernel that promises one. Ones that promise too much are about:
ark and async-kernel welcome nobody but the first client."""

ECHO_PATIENCE = 0.01
"""Seconds for the status messages of a request that was answered; doubled with each request."""

REPLY_PATIENCE = 1.0
"""Seconds for an answer; doubled with each request. A request is lost if its kernel restarts."""

MOST_PATIENCE = 8.0
"""Seconds between requests at most: a busy kernel will have to answer all of them."""


class Readiness:
    """One wait until a kernel has answered and is heard.

    Args:
        session: the client's own session id.
    """

    def __init__(self, session: str) -> None:
        self._session = session
        self._ask_at = 0.0
        self._answer_patience = REPLY_PATIENCE
        self._echo_patience = ECHO_PATIENCE
        self._sent: set[str] = set()
        self._heard: set[str | None] = set()
        self._echoed = False
        self._kernel: str | None = None
        self.answer: Mapping[str, Any] | None = None
        """The last ``kernel_info_reply`` to one of our requests, whole."""

    @property
    def is_over(self) -> bool:
        """Whether the kernel has answered, and the subscription is proven."""
        # S2: any message of this kernel is a proof: a welcome, a status, an output.
        return self.answer is not None and (self._echoed or self._kernel in self._heard)

    @property
    def requests(self) -> int:
        """How many requests were sent."""
        return len(self._sent)

    @property
    def was_heard(self) -> bool:
        """Whether anything at all came on IOPub, if only of a kernel that is no more."""
        return bool(self._heard)

    def ask_in(self, now: float) -> float:
        """Return the seconds until the next request is due; 0: now."""
        return max(0.0, self._ask_at - now)

    def sent(self, msg_id: str, now: float) -> None:
        """Take note of a ``kernel_info_request``."""
        self._sent.add(msg_id)
        self._ask_at = now + self._answer_patience
        self._answer_patience = min(2 * self._answer_patience, MOST_PATIENCE)

    def replied(self, message: Mapping[str, Any], now: float) -> None:
        """Take what came on shell as the answer, if it is one."""
        if message["msg_type"] != "kernel_info_reply" or not self._is_ours(message):
            return
        first, self.answer = self.answer is None, message
        session = message["header"].get("session")
        # Some kernels write the client's session id in place of their own: it tells nobody apart.
        self._kernel = None if session == self._session else session
        if first and promises_welcome(message["content"]):
            # S2: a kernel that welcomes is waited for; but not for ever.
            self._ask_at = now + WELCOME_PATIENCE
            return
        # S2: the known loop, for kernels whose messages were published before we had joined.
        self._ask_at = now + self._echo_patience
        self._echo_patience = min(2 * self._echo_patience, MOST_PATIENCE)

    def heard(self, message: Mapping[str, Any]) -> None:
        """Take note of a message on IOPub."""
        self._echoed = self._echoed or self._is_ours(message)
        self._heard.add(message["header"].get("session"))
        self._heard.discard(None)

    def _is_ours(self, message: Mapping[str, Any]) -> bool:
        """Whether it belongs to one of our requests; xeus's parent header may be null."""
        return (message["parent_header"] or {}).get("msg_id") in self._sent


def promises_welcome(info: Mapping[str, Any]) -> bool:
    """Return whether a kernel should welcome a subscriber, by its ``kernel_info_reply``."""
    return FEATURE in (info.get("supported_features") or ()) or _version(info) >= WELCOMING_VERSION


def _version(info: Mapping[str, Any]) -> tuple[int, ...]:
    parts = str(info.get("protocol_version", "")).split(".")[:2]
    return tuple(int(part) for part in parts) if all(p.isdecimal() for p in parts) else ()
