"""``echokernel`` and ``python -m echokernel``: start a kernel, or run a command."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that ``argv`` starts with, else start a kernel; return the exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    # Imported when needed: a kernel binds its sockets before anything heavy is loaded.
    match words:
        case ["doctor", *rest]:
            from .tools.doctor import doctor

            return doctor(rest)
        case ["install", *rest]:
            from .tools.install import install

            return install(rest)
        case ["stress", *rest]:
            from .tools.stress.command import stress

            return stress(rest)
    from .runtime.serving import run_kernel

    commands = " Other commands, each with --help: echokernel doctor, install, stress."
    return run_kernel(argv=words, epilog=commands)


if __name__ == "__main__":
    sys.exit(main())
