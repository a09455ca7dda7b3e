"""Message headers. The caller passes the message id and the date: this module has no clock.

Source: messaging docs, "The message format".
"""

from __future__ import annotations

from .wire import PROTOCOL_VERSION, JsonObject


def header(
    msg_type: str, *, msg_id: str, session: str, date: str, username: str = "kernel"
) -> JsonObject:
    """Build a message header; ``date`` is ISO 8601 with a time zone."""
    return {
        "msg_id": msg_id,
        "msg_type": msg_type,
        "session": session,
        "username": username,
        "date": date,
        "version": PROTOCOL_VERSION,
    }
