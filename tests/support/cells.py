"""Cells on a kernel: start the kernel, execute cells, return their replies and output."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from echokernel.conformance.raw_client import RawClient
from echokernel.conformance.raw_messages import BUSY, IDLE

from . import KERNEL_PATH
from .kernel_processes import start_classic


def defect(reason: str) -> pytest.MarkDecorator:
    """Mark a test that must fail because of a defect. When it passes, the mark must go."""
    return pytest.mark.xfail(strict=True, reason=reason)


class CellResult(NamedTuple):
    """Reply and output of one cell."""

    reply: dict
    published: list[tuple]  # (msg_type, content) between the input and idle

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.published]

    def text(self, name: str = "stdout") -> str:
        return "".join(c["text"] for k, c in self.published if k == "stream" and c["name"] == name)

    def data(self, kind: str) -> list[dict]:
        """Return the mime bundles of the messages of one kind."""
        return [content["data"] for msg_type, content in self.published if msg_type == kind]

    @property
    def result(self) -> str | None:
        """The last expression's value, as text."""
        bundles = self.data("execute_result")
        return bundles[0]["text/plain"] if bundles else None


def start_kernel_class(
    kernel_class, context, tmp_path, start, *arguments, **environment
) -> RawClient:
    """Start a kernel class in its own process; return a client with a ``process`` attribute."""
    processes = []

    def start_kernel(path):
        words = ("--kernel-class", kernel_class, *arguments)
        # Otherwise debugpy, which IPython's kernel imports, prints a warning on stderr.
        quiet = {"PYDEVD_DISABLE_FILE_VALIDATION": "1"}
        processes.append(start(path, *words, **quiet, **KERNEL_PATH, **environment))

    client = RawClient(context, start_classic(tmp_path, start_kernel))
    [client.process] = processes
    return client


def begin_cell(client, code, prints="asleep", **content) -> str:
    """Execute a cell, wait until it has printed ``prints``, and return its msg_id."""
    msg_id = client.execute(code, **content)
    text = ""
    while prints not in text:
        message = client.receive_publication()
        assert message["parent_header"]["msg_id"] == msg_id
        text += message["content"].get("text", "")
    return msg_id


def run_cell(client, code, answers=(), **content) -> CellResult:
    """Execute a cell to its end; ``answers`` are the replies to its input requests."""
    msg_id = client.execute(code, allow_stdin=bool(answers), **content)
    for answer in answers:
        input_request = client.receive_on("stdin")
        assert input_request["parent_header"]["msg_id"] == msg_id
        client.send("input_reply", {"value": answer}, "stdin")
    reply = client.receive_reply(msg_id)["content"]
    busy, *published, idle = client.receive_until_idle(msg_id)
    assert (busy, idle) == (BUSY, IDLE)
    if published and published[0][0] == "execute_input":
        assert published.pop(0)[1]["code"] == code
    return CellResult(reply, published)


def finish_cell(client, msg_id) -> CellResult:
    """Wait for the end of a cell that `begin_cell` began; return its reply and further output."""
    reply = client.receive_reply(msg_id)["content"]
    *published, idle = client.receive_until_idle(msg_id)
    assert idle == IDLE
    return CellResult(reply, published)
