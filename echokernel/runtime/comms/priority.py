"""Which shell messages need not wait behind a cell that waits: see `shell.ShellLoop`."""

from __future__ import annotations

from ...protocol.wire import CONTENT, HEADER, peek
from ..message_queue import Frames

COMM_MESSAGES = ("comm_open", "comm_msg", "comm_close")


def is_comm_message(frames: Frames) -> bool:
    """Return True for a comm message; it is not verified yet."""
    return peek(frames, HEADER).get("msg_type") in COMM_MESSAGES


def is_response(frames: Frames) -> bool:
    """Return True for a response to a request that the kernel sent over a comm."""
    if peek(frames, HEADER).get("msg_type") != "comm_msg":
        return False
    from ...protocol import json_rpc  # here: a kernel starts faster without it

    return json_rpc.is_response(peek(frames, CONTENT).get("data"))
