"""The limits of flow control on IOPub (P3): one object, which tests and users can set.

On the command line: ``--FlowLimits.backlog_messages=1000``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

SETTING = "--FlowLimits."


@dataclass(frozen=True, kw_only=True)
class FlowLimits:
    """How much may wait, and for how long.

    Attributes:
        queued_messages: messages that may wait for the publisher; then a sender waits.
        queued_bytes: bytes in large messages that may wait likewise.
        backlog_messages: messages that one subscriber may be behind. A small message costs
            0.9 KB, shared by all subscribers that are behind.
        backlog_bytes: bytes that one subscriber may be behind.
        high_water_mark: ``ZMQ_SNDHWM`` of IOPub, messages; ZeroMQ's default of 1,000 loses output
            when a client pauses. It must exceed ``backlog_messages``, so that messages that are
            not output still fit. libzmq learns only every half of the mark that a subscriber has
            received messages: a queue can be full for it that is only half as long.
            https://libzmq.readthedocs.io/en/latest/zmq_setsockopt.html
        held_messages: status messages, and as many others, that are held for a subscriber that
            does not read.
        patience: seconds without progress, beyond the backlog, after which a subscriber counts as
            not reading.
    """

    queued_messages: int = 10_000
    queued_bytes: int = 64 * 1024 * 1024
    backlog_messages: int = 100_000
    backlog_bytes: int = 256 * 1024 * 1024
    high_water_mark: int = 130_000
    held_messages: int = 10_000
    patience: float = 3.0


def is_setting(argument: str) -> bool:
    """Return True if a command-line argument sets a limit."""
    return argument.startswith(SETTING)


def parse_settings(arguments: Sequence[str]) -> FlowLimits:
    """Return the limits with the changes of ``--FlowLimits.NAME=NUMBER`` arguments.

    Raises:
        ValueError: an unknown name, or a value out of range.
    """
    types = {field.name: float if field.name == "patience" else int for field in fields(FlowLimits)}
    changes: dict[str, float] = {}
    for argument in arguments:
        name, _, text = argument.removeprefix(SETTING).partition("=")
        if name not in types:
            raise ValueError(f"{argument}: there is no limit {name!r}; use {', '.join(types)}")
        try:
            value = types[name](text)
        except ValueError:
            value = 0
        if not 0 < value < 2**31:
            raise ValueError(f"{argument}: {text!r} is not a number above 0 and below 2**31")
        changes[name] = value
    return FlowLimits(**changes)  # type: ignore[arg-type]
