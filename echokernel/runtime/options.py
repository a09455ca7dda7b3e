"""The command line that starts a kernel, and the program name in its messages.

Nothing is started here: the result is an `Options`.
"""

from __future__ import annotations

import argparse
import functools
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from ..protocol import flow_control
from ..protocol.flow_control import FlowLimits
from ..protocol.option_values import seconds
from ..protocol.startup import port_range
from .registration import HANDSHAKE_TIMEOUT
from .sockets import Keepalive, keepalive

T = TypeVar("T")


@dataclass(frozen=True)
class Options:
    """The parsed command line; names and meanings are those of ``--help``."""

    startup_file: str | None
    kernel_class: str | type
    ip: str | None
    port_range: range | None
    handshake_timeout: float
    log_level: str
    capture_fd_output: bool
    switch_interval: float | None
    iopub_keepalive: Keepalive | None
    comm_grace_period: float | None
    comm_lifecycle: bool | None
    flow_limits: FlowLimits
    config: list[str]


def program_name() -> str:
    """Return the name of the running program: the package of ``python -m``, or the script."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    name = str(spec.name).removesuffix(".__main__") if spec else "__main__"
    # A folder or archive with a __main__.py, such as a console script on Windows, has that name.
    return Path(sys.argv[0]).stem if name == "__main__" else name


def parse_command_line(
    argv: Sequence[str] | None,
    kernel_class: str | type,
    command: str = "",
) -> Options:
    """Parse the command line; an error in it ends the process with status 2.

    Args:
        argv: without the program's name; None: this process's.
        kernel_class: the default of ``--kernel-class``.
        command: the word after the program's name; empty: there is none.

    Raises:
        SystemExit: the command line is wrong, or it asks for ``--help``.
    """
    parser = _create_parser(kernel_class, command)
    known, config = parser.parse_known_args(argv)
    for argument in config:
        if not (argument.startswith("--") and "." in argument and "=" in argument):
            parser.error(f"unrecognized argument: {argument} (settings: --Class.name=value)")
    try:
        limits = flow_control.parse_settings([a for a in config if flow_control.is_setting(a)])
    except ValueError as error:
        parser.error(str(error))
    config = [argument for argument in config if not flow_control.is_setting(argument)]
    return Options(flow_limits=limits, config=config, **vars(known))


def _create_parser(kernel_class: str | type, command: str) -> argparse.ArgumentParser:
    class_name = kernel_class if isinstance(kernel_class, str) else kernel_class.__name__
    class_name = class_name.replace(":", ".").rpartition(".")[2]
    parser = argparse.ArgumentParser(
        prog=f"{program_name()} {command}".rstrip(),
        description="Start a kernel. Without -f, the kernel writes its own connection file.",
        epilog=f"Settings of the kernel's class can follow, such as --{class_name}.ident=me.",
        allow_abbrev=False,
    )
    parser.add_argument("-f", dest="startup_file", metavar="FILE",
                        help="startup file: connection or registration file")  # fmt: skip
    parser.add_argument("--kernel-class", default=kernel_class, metavar="MODULE:CLASS",
                        help=f"any ipykernel kernel class (default: {class_name})")  # fmt: skip
    parser.add_argument("--ip", help="address to bind instead of the startup file's")
    parser.add_argument("--port-range", type=_argument(port_range), metavar="LOW-HIGH",
                        help="ports to choose from (default: any free port)")  # fmt: skip
    parser.add_argument("--handshake-timeout", type=_argument(seconds), metavar="SECONDS",
                        default=HANDSHAKE_TIMEOUT,
                        help="time to wait for the receipt (default: %(default)g)")  # fmt: skip
    parser.add_argument("--log-level", default="WARNING", choices=["DEBUG", "INFO", "WARNING",
                        "ERROR", "CRITICAL"], type=str.upper, help="default: WARNING")  # fmt: skip
    parser.add_argument("--capture-fd-output", default=True,
                        action=argparse.BooleanOptionalAction,
                        help="publish the output of C code and child processes on stdout and"
                        " stderr")  # fmt: skip
    parser.add_argument("--switch-interval", type=_argument(seconds), metavar="SECONDS",
                        help="thread switch interval of the process, as in"
                        " sys.setswitchinterval (default: Python's, 0.005)")  # fmt: skip
    parser.add_argument("--iopub-keepalive", type=_argument(keepalive), default=Keepalive(),
                        metavar="IDLE,INTERVAL,COUNT",
                        help="TCP keepalive of IOPub: seconds before the first probe, seconds"
                        " between probes, number of probes; or off (default: 10,5,3)")  # fmt: skip
    parser.add_argument("--comm-grace-period", metavar="SECONDS",
                        type=_argument(functools.partial(seconds, allow_zero=True)),
                        help="time that comms without a subscriber stay open"
                        " (default: 1)")  # fmt: skip
    parser.add_argument("--comm-lifecycle", default=None, action=argparse.BooleanOptionalAction,
                        help="end comms and their requests when no subscriber remains")  # fmt: skip
    return parser


def _argument(parse: Callable[[str], T]) -> Callable[[str], T]:
    """Return ``parse`` as an argparse type, so that argparse prints the text of its ValueError.

    Without it, argparse prints only the name of the Python function.
    """

    def parse_argument(text: str) -> T:
        try:
            return parse(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return parse_argument
