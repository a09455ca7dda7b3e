"""Message headers. The caller passes message id and date: this module has no clock.

Source: "Message Header" in https://jupyter-client.readthedocs.io/en/stable/messaging.html
"""

from __future__ import annotations

from .wire import PROTOCOL_VERSION, JsonObject


def header(
    msg_type: str, *, msg_id: str, session: str, date: str, username: str = "kernel"
) -> JsonObject:
    """Return a message header.

    Args:
        msg_type: such as ``"status"``.
        msg_id: unique among all messages.
        session: id of the sender's session.
        date: ISO 8601 with a time zone.
        username: of the sender.
    """
    return {
        "msg_id": msg_id,
        "msg_type": msg_type,
        "session": session,
        "username": username,
        "date": date,
        "version": PROTOCOL_VERSION,
    }
