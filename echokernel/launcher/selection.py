"""The start mode of a kernel: what its kernelspec says, and what earlier launches have shown (L7).

A configured start mode is used without an alternative. Otherwise the mode may be a guess. A guess
is tried for a bounded time, and another mode follows if it fails. The mode that worked is
remembered for each kernelspec, as long as this process lives.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from enum import Enum
from typing import Any

from ..protocol.startup import Form


class StartMode(Enum):
    """How the launcher gets to know the kernel's ports; the values are those of L7."""

    SIGNED_FRAME = Form.SIGNED_FRAME.value
    HANDSHAKE_REQUEST = Form.HANDSHAKE_REQUEST.value
    REWRITE = "rewrite"  # The kernel chooses them and writes them into its connection file.
    CLASSIC = "none"  # The launcher chooses them.

    @property
    def form(self) -> Form | None:
        """The form of the handshake, or None for a mode without a handshake."""
        is_handshake = self in (StartMode.SIGNED_FRAME, StartMode.HANDSHAKE_REQUEST)
        return Form(self.value) if is_handshake else None

    @property
    def verb(self) -> str:
        """What the kernel does when it is up, in the infinitive, for error messages."""
        if self.form:
            return "register its ports"
        return "write its ports" if self is StartMode.REWRITE else "answer"

    @property
    def past(self) -> str:
        """`verb` in the past tense."""
        if self.form:
            return "registered its ports"
        return "wrote its ports" if self is StartMode.REWRITE else "answered"

    def __str__(self) -> str:
        return "classic" if self is StartMode.CLASSIC else self.value


KNOWN_REWRITERS = ("ipykernel", "ipykernel_launcher", "bash_kernel")
"""Modules (``python -m MODULE``) whose kernels write their ports into their connection file.

The rewrite mode is never tried with other kernels. A kernel that binds port 0 and does not write
the port into the file, such as ark, would run where no client finds it.
"""

HANDSHAKE_VERSION = (5, 6)
"""The first ``kernel_protocol_version`` that means a handshake. A lower version must not count:
ipykernel 7.4 advertises 5.5 and has no handshake.
https://jupyter-client.readthedocs.io/en/stable/messaging.html"""

_learned: dict[tuple[str, ...], StartMode] = {}


def choose(
    kernel_spec: Any, configured: str | None, rewriters: Sequence[str] = KNOWN_REWRITERS
) -> tuple[StartMode, bool]:
    """Return the start mode for a kernelspec, and whether it is a guess (L7).

    Args:
        kernel_spec: jupyter_client's ``KernelSpec``.
        configured: the provisioner's ``handshake`` setting, which is the value of a `StartMode`.
        rewriters: modules whose kernels write their ports into their connection file.
    """
    if configured is not None:
        return StartMode(configured), False
    if (learned := _learned.get(_definition(kernel_spec))) is not None:
        return learned, False
    if protocol_version(kernel_spec) >= HANDSHAKE_VERSION:
        return StartMode.SIGNED_FRAME, True
    if _module(kernel_spec.argv) in rewriters:
        return StartMode.REWRITE, True
    return StartMode.CLASSIC, False


def remember(kernel_spec: Any, mode: StartMode) -> None:
    """Use this start mode for the kernelspec from now on, because it worked.

    Args:
        kernel_spec: jupyter_client's ``KernelSpec``.
        mode: the start mode that worked.
    """
    _learned[_definition(kernel_spec)] = mode


def protocol_version(kernel_spec: Any) -> tuple[int, ...]:
    """Return the kernelspec's ``kernel_protocol_version``, or () if it has none."""
    parts = str(kernel_spec.kernel_protocol_version or "").split(".")
    return tuple(int(part) for part in parts) if all(p.isdecimal() for p in parts) else ()


def _definition(kernel_spec: Any) -> tuple[str, ...]:
    return (kernel_spec.resource_dir, *kernel_spec.argv)


def _module(argv: Sequence[str]) -> str | None:
    """Return MODULE of ``python ... -m MODULE ...``, or None."""
    with contextlib.suppress(ValueError, IndexError):
        return argv[list(argv).index("-m") + 1]
    return None
