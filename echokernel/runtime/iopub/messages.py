"""The messages that the publisher itself makes: welcomes, ``starting`` and notices."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from datetime import datetime, timezone

from ...protocol import subscriptions
from ...protocol.headers import header
from ...protocol.subscriptions import Subscribed
from ...protocol.wire import (
    DELIMITER,
    PARENT_HEADER,
    JsonObject,
    Message,
    Signer,
    pack_json,
    pack_message,
)


class PublisherMessages:
    """Makes and signs them.

    Args:
        signer: of the kernel's key.
        session: session id for the headers.
        kernel_topic: prefix of the kernel's own topics, such as ``kernel.<id>``.
    """

    def __init__(self, signer: Signer, session: str, kernel_topic: str) -> None:
        self._signer = signer
        self._session = session
        self._status_topic = f"{kernel_topic}.status".encode()
        self._count = itertools.count()
        self._starting_sent = False

    def welcome(self, event: subscriptions.Event) -> list[bytes] | None:
        """Return the welcome for a subscription (W2); None if ``event`` gets none."""
        content = subscriptions.welcome_content(event)
        if content is None or not isinstance(event, Subscribed):
            return None
        message = subscriptions.welcome(event, content, self._header(subscriptions.WELCOME))
        return pack_message(message, self._signer)

    def starting(self, event: Subscribed) -> list[bytes] | None:
        """Return ``status: starting``, once, for the first subscriber that receives it (W5).

        This is ours; ark does the same.
        """
        if self._starting_sent or not self._status_topic.startswith(event.topic):
            return None
        self._starting_sent = True
        content = {"execution_state": "starting"}
        message = Message(self._header("status"), content=content, identities=[self._status_topic])
        return pack_message(message, self._signer)

    def notice(self, text: str, about: Sequence[bytes]) -> list[bytes]:
        """Return ``text`` as output on stderr of the request to which ``about`` belongs."""
        parent = b"{}"
        if DELIMITER in about:
            parent = bytes(about[list(about).index(DELIMITER) + PARENT_HEADER])
        parts = [
            pack_json(self._header("stream")),
            parent,
            b"{}",
            pack_json({"name": "stderr", "text": text}),
        ]
        return [b"stream.stderr", DELIMITER, self._signer.sign(parts), *parts]

    def _header(self, msg_type: str) -> JsonObject:
        return header(
            msg_type,
            msg_id=f"{self._session}_iopub_{next(self._count)}",
            session=self._session,
            date=datetime.now(timezone.utc).isoformat(),
        )
