"""What an XPUB socket reports, and what it means (JEP 65).

An XPUB socket hands its owner one message for each subscription and each last unsubscription:
one frame, first byte 1 (joined) or 0 (left), then the topic. A peer writes what it likes, so
everything else is `Malformed`, and is ignored by whoever reads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .wire import DELIMITER, JsonObject, Message

WELCOME = "iopub_welcome"
"""``msg_type`` of the welcome."""


@dataclass(frozen=True)
class Subscribed:
    """Somebody joined ``topic``; ``b""`` is everything."""

    topic: bytes


@dataclass(frozen=True)
class Unsubscribed:
    """The last subscriber of ``topic`` left."""

    topic: bytes


@dataclass(frozen=True)
class Malformed:
    """A peer sent something that is no subscription; ``why`` in words."""

    why: str


Event = Subscribed | Unsubscribed | Malformed


def parse(frames: Sequence[bytes]) -> Event:
    """Read one message that was received from an XPUB socket."""
    # W3: empty frames, another first byte and several frames are nobody's subscription.
    if len(frames) != 1:
        return Malformed(f"{len(frames)} frames instead of one")
    frame = frames[0]
    if not frame:
        return Malformed("an empty frame")
    if frame[0] == 1:
        return Subscribed(frame[1:])
    if frame[0] == 0:
        return Unsubscribed(frame[1:])
    return Malformed(f"first byte {frame[0]}, neither 0 nor 1")


def welcome_content(event: Event) -> JsonObject | None:
    """Return the content of the welcome that ``event`` asks for; None if it asks for none."""
    if not isinstance(event, Subscribed):
        # W4: an unsubscribe sends nothing.
        return None
    if event.topic == DELIMITER:
        # Ours: as first frame it would be taken for the delimiter by everybody who subscribes
        # to everything; any stranger could break their parsing.
        return None
    try:
        return {"subscription": event.topic.decode("utf-8")}
    except UnicodeDecodeError:
        # W3: a topic that is not UTF-8 cannot be named in JSON: no welcome.
        return None


def welcome(event: Subscribed, content: JsonObject, header: JsonObject) -> Message:
    """Build the welcome for ``event``.

    W2: the first frame is the topic itself, so that exactly the topic's subscribers get it; for
    the empty topic there is none. ``parent_header`` is ``{}``: a JSON null there crashes
    jupyter_console on the first message it sees.
    """
    return Message(
        header=header,
        parent_header={},
        content=content,
        identities=[event.topic] if event.topic else [],
    )
