"""Which way to start a kernel (L7): what its kernelspec says, and what trying has shown.

What the provisioner's configuration says is done, and nothing else is tried. Without it the
first answer is a guess: it is tried for a bounded time, and if the kernel does not know that way,
another follows. What worked is remembered for each kernelspec, as long as this process lives.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from ..protocol.startup import Form


class Way(Enum):
    """How a kernel's launcher comes to know its ports; the names are those of L7."""

    SIGNED_FRAME = Form.SIGNED_FRAME.value
    HANDSHAKE_REQUEST = Form.HANDSHAKE_REQUEST.value
    REWRITE = "rewrite"  # the kernel chooses, and writes them into its connection file
    CLASSIC = "none"  # the launcher chose them

    @property
    def form(self) -> Form | None:
        """The form of the handshake; None for a way without one."""
        return Form(self.value) if self in (Way.SIGNED_FRAME, Way.HANDSHAKE_REQUEST) else None

    @property
    def tell(self) -> str:
        """What the kernel does to tell its ports, for an error's sentence."""
        if self.form:
            return "register its ports"
        return "write its ports" if self is Way.REWRITE else "answer"

    @property
    def told(self) -> str:
        """The same, when it was done."""
        if self.form:
            return "registered its ports"
        return "wrote its ports" if self is Way.REWRITE else "answered"

    def __str__(self) -> str:
        if self is Way.REWRITE:
            return "rewrite of its connection file"
        return f"the {self.value} handshake" if self.form else "the classic way"


KNOWN_REWRITERS = ("ipykernel", "ipykernel_launcher", "bash_kernel")
"""``python -m MODULE`` whose kernels write their ports back, tried with ports 0.

Never by trial for a kernel that nobody knows: one that binds 0 and keeps it to itself (ark) would
run where no client finds it, until the time is up.
"""


@dataclass(frozen=True)
class Choice:
    """A way to start a kernel; a guess may turn out wrong, and another way follows then."""

    way: Way
    is_guess: bool


_worked: dict[tuple[str, ...], Way] = {}


def choose(
    kernel_spec: Any, configured: str | None, rewriters: Sequence[str] = KNOWN_REWRITERS
) -> Choice:
    """Return how to start the kernel of this kernelspec (L7).

    Args:
        kernel_spec: jupyter_client's ``KernelSpec``.
        configured: the provisioner's ``handshake`` setting, the value of a `Way`, or None.
        rewriters: modules that are known to write their ports back.
    """
    if configured is not None:
        return Choice(Way(configured), is_guess=False)
    if (way := _worked.get(_name(kernel_spec))) is not None:
        return Choice(way, is_guess=False)
    # Never a version below 5.6: ipykernel 7.4 advertises 5.5 and has no handshake. And the number
    # alone is no proof either.
    if protocol_version(kernel_spec) >= (5, 6):
        return Choice(Way.SIGNED_FRAME, is_guess=True)
    if _module(kernel_spec.argv) in rewriters:
        return Choice(Way.REWRITE, is_guess=True)
    return Choice(Way.CLASSIC, is_guess=False)


def remember(kernel_spec: Any, way: Way) -> None:
    """Start this kernelspec's kernels so from now on: it worked."""
    _worked[_name(kernel_spec)] = way


def protocol_version(kernel_spec: Any) -> tuple[int, ...]:
    """Return the kernelspec's ``kernel_protocol_version``; () if it says none."""
    said = getattr(kernel_spec, "kernel_protocol_version", None)
    if said is None:  # older jupyter_clients know no such field, and drop it
        with contextlib.suppress(OSError, ValueError, AttributeError, TypeError):
            text = (Path(kernel_spec.resource_dir) / "kernel.json").read_text(encoding="utf-8")
            said = json.loads(text).get("kernel_protocol_version")
    parts = str(said or "").split(".")
    return tuple(int(part) for part in parts) if all(p.isdecimal() for p in parts) else ()


def _name(kernel_spec: Any) -> tuple[str, ...]:
    return (kernel_spec.resource_dir, *kernel_spec.argv)


def _module(argv: Sequence[str]) -> str | None:
    """Return MODULE of ``python ... -m MODULE ...``; None if there is none."""
    with contextlib.suppress(ValueError, IndexError):
        return argv[list(argv).index("-m") + 1]
    return None
