"""jupyter console on a pseudo-terminal."""

from __future__ import annotations

import os
import sys

import pexpect

from .waits import DEADLINE

EXIT_ATTEMPTS = 10


def open_console(*words: str, **options) -> pexpect.spawn:
    """Start ``jupyter console`` with these arguments; ``options`` are pexpect's."""
    return pexpect.spawn(
        sys.executable,
        ["-m", "jupyter_console", *words],
        encoding="utf-8",
        timeout=3 * DEADLINE,
        dimensions=(40, 200),
        env={**os.environ, "TERM": "dumb", "PROMPT_TOOLKIT_NO_CPR": "1"},
        **options,
    )


def exit_console(console: pexpect.spawn) -> None:
    """Press Ctrl-D, confirm, and wait for the end of the console."""
    # The console shows its prompt shortly before it reads single keys.
    for _ in range(EXIT_ATTEMPTS):
        console.send("\x04")
        if console.expect(["exit", pexpect.TIMEOUT], 1) == 0:
            break
    else:
        raise AssertionError(f"the console does not react to Ctrl-D: {console.before}")
    console.sendline("y")
    console.expect(pexpect.EOF)
