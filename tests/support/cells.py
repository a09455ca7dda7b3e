"""Cells run on kernels of other authors: start one, execute, look at what became of it."""

from __future__ import annotations

from typing import NamedTuple

import pytest

from echokernel.conformance.raw_client import RawClient
from echokernel.conformance.raw_messages import BUSY, IDLE

from . import KERNEL_PATH
from .kernel_processes import start_classic


def defect(what: str) -> pytest.MarkDecorator:
    """Mark what does not work yet; a test that passes all the same fails, and loses its mark."""
    return pytest.mark.xfail(strict=True, reason=what)


class CellResult(NamedTuple):
    """What became of one cell."""

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
    """Start a kernel class in a process of its own; return a client that knows the process."""
    processes = []

    def start_it(path):
        words = ("--kernel-class", kernel_class, *arguments)
        # Else debugpy, which IPython's kernel imports, warns on stderr as soon as it is loaded.
        quiet = {"PYDEVD_DISABLE_FILE_VALIDATION": "1"}
        processes.append(start(path, *words, **quiet, **KERNEL_PATH, **environment))

    client = RawClient(context, start_classic(tmp_path, start_it))
    [client.process] = processes
    return client


def begin_cell(client, code, says="asleep", **content) -> str:
    """Execute a cell that says ``says`` when its code runs; return its msg_id then."""
    msg_id = client.execute(code, **content)
    heard = ""
    while says not in heard:
        got = client.receive_publication()
        assert got["parent_header"]["msg_id"] == msg_id
        heard += got["content"].get("text", "")
    return msg_id


def run_cell(client, code, answers=(), **content) -> CellResult:
    """Execute a cell to its end; ``answers`` are typed in when it asks."""
    msg_id = client.execute(code, allow_stdin=bool(answers), **content)
    for answer in answers:
        asked = client.receive_on("stdin")
        assert asked["parent_header"]["msg_id"] == msg_id
        client.send("input_reply", {"value": answer}, "stdin")
    reply = client.receive_reply(msg_id)["content"]
    busy, *published, idle = client.receive_until_idle(msg_id)
    assert (busy, idle) == (BUSY, IDLE)
    if published and published[0][0] == "execute_input":
        assert published.pop(0)[1]["code"] == code
    return CellResult(reply, published)


def finish_cell(client, msg_id) -> CellResult:
    """Wait for the end of a cell that `begin_cell` began; what it said before is not repeated."""
    reply = client.receive_reply(msg_id)["content"]
    *published, idle = client.receive_until_idle(msg_id)
    assert idle == IDLE
    return CellResult(reply, published)
