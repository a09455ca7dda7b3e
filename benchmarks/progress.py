"""Progress on stderr; stdout has the results alone."""

from __future__ import annotations

import sys


def show_progress(text: str, transient: bool = False) -> None:
    """Print a line; on a terminal the next line overwrites a ``transient`` one."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="" if transient else "\n", file=sys.stderr, flush=True)
    else:
        print(text, file=sys.stderr, flush=True)
