"""``echokernel`` and ``python -m echokernel``: run a kernel, or one of the other commands.

Only the first word can name a command; without a command, ``run`` gets all the words. A command is
imported when it runs: a kernel binds its sockets before anything heavy is loaded.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import __version__

PROGRAM = "echokernel"

COMMANDS = {
    "run": "run a kernel until it is shut down (the default)",
    "doctor": "explain how each kernelspec starts, and its faults",
    "install": "install the echo kernel's kernelspec for a Jupyter",
    "stress": "count the launches that fail while ports are taken",
}
"""Name -> the line of ``--help``."""

OPTIONS = ("-h", "--help", "--version")
"""The options of the program itself; all others are options of ``run``."""

USAGE_ERROR = 2
"""Exit status, the same as argparse's."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first word names; return the exit status.

    Args:
        argv: command line without the program's name; None: this process's.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or (words[0].startswith("-") and words[0] not in OPTIONS):
        words.insert(0, "run")
    first, rest = words[0], words[1:]
    if first == "run":
        return _run(rest)  # Before the parser is built, which takes 1 ms of each start.
    if first not in COMMANDS and first not in OPTIONS:
        print(f"{PROGRAM}: error: {_unknown_command(first)}", file=sys.stderr)
        return USAGE_ERROR
    return _call(_parser().parse_args([first]).command, rest)


def _parser() -> argparse.ArgumentParser:
    """Return the parser of the first word; each command parses the other words."""
    parser = argparse.ArgumentParser(
        prog=PROGRAM,
        description="Run a kernel that is started by a handshake (JEP 66), or a command for such"
        " kernels.",
        epilog=f"Each command has --help. `{PROGRAM} -f FILE` is short for `{PROGRAM} run -f"
        " FILE`.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, line in COMMANDS.items():
        commands.add_parser(name, help=line, add_help=False)
    return parser


def _run(words: list[str]) -> int:
    from .runtime import app, serving

    return app.run_app(serving.DEFAULT_KERNEL, words, serving.WholeKernel(), command="run")


def _call(command: str, words: list[str]) -> int:
    match command:
        case "doctor":
            from .tools.doctor import doctor

            return doctor(words)
        case "install":
            from .tools.install import install

            return install(words)
        case "stress":
            from .tools.stress.command import stress

            return stress(words)
    raise AssertionError(f"{command} is in COMMANDS only")


def _unknown_command(word: str) -> str:
    import difflib

    similar = difflib.get_close_matches(word, COMMANDS, n=1)
    advice = (
        f"did you mean {similar[0]}?" if similar else f"the commands are {', '.join(COMMANDS)};"
    )
    return f"{word!r} is not a command; {advice} `{PROGRAM} --help` explains the commands"


if __name__ == "__main__":
    sys.exit(main())
