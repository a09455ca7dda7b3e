"""``echokernel`` and ``python -m echokernel``: start a kernel, or run a command."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run ``install`` if ``argv`` starts with it, else start a kernel; return the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    # Imported when needed: a kernel binds its sockets before anything heavy is loaded.
    if words and words[0] == "install":
        from .install import install

        return install(words[1:])
    from .app import launch

    return launch(argv=words)


if __name__ == "__main__":
    sys.exit(main())
