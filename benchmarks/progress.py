"""Where the benchmark tells how far it is: on stderr, the results alone go to stdout."""

from __future__ import annotations

import sys


def say(text: str, passing: bool = False) -> None:
    """Tell of the progress; on a terminal, what is ``passing`` is overwritten by the next line."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="" if passing else "\n", file=sys.stderr, flush=True)
    else:
        print(text, file=sys.stderr, flush=True)
