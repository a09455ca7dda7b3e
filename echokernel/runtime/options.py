"""The command line that starts a kernel, and the name under which it reports errors."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..protocol import flow_control
from ..protocol.flow_control import FlowLimits
from ..protocol.startup import port_range
from .registration import HANDSHAKE_TIMEOUT
from .sockets import Keepalive, keepalive


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
    """Parse the command line; a wrong one ends the process with status 2.

    Args:
        argv: without the program's name; None: this process's.
        kernel_class: the default of ``--kernel-class``.
        command: the word after the program's name; empty: there is none.
    """
    class_name = kernel_class if isinstance(kernel_class, str) else kernel_class.__name__
    class_name = class_name.replace(":", ".").rpartition(".")[2]
    parser = argparse.ArgumentParser(
        prog=f"{program_name()} {command}".rstrip(),
        description="Start a kernel. Without -f it runs by hand, with its own connection file.",
        epilog=f"Settings of the kernel's class can follow, such as --{class_name}.ident=me.",
        allow_abbrev=False,
    )
    parser.add_argument("-f", dest="startup_file", metavar="FILE",
                        help="startup file: connection or registration file")  # fmt: skip
    parser.add_argument("--kernel-class", default=kernel_class, metavar="MODULE:CLASS",
                        help=f"any ipykernel kernel class (default: {class_name})")  # fmt: skip
    parser.add_argument("--ip", help="address to bind instead of the startup file's")
    parser.add_argument("--port-range", type=port_range, metavar="LOW-HIGH",
                        help="ports to choose from (default: the system's choice)")  # fmt: skip
    parser.add_argument("--handshake-timeout", type=_seconds, metavar="SECONDS",
                        default=HANDSHAKE_TIMEOUT,
                        help="how long to wait for the receipt (default: %(default)g)")  # fmt: skip
    parser.add_argument("--log-level", default="WARNING", choices=["DEBUG", "INFO", "WARNING",
                        "ERROR", "CRITICAL"], type=str.upper, help="default: WARNING")  # fmt: skip
    parser.add_argument("--capture-fd-output", default=True,
                        action=argparse.BooleanOptionalAction,
                        help="publish what C code and child processes write to stdout and"
                        " stderr")  # fmt: skip
    parser.add_argument("--switch-interval", type=_seconds, metavar="SECONDS",
                        help="how long a thread that computes keeps others waiting, for the whole"
                        " process (default: Python's, 0.005)")  # fmt: skip
    parser.add_argument("--iopub-keepalive", type=keepalive, default=Keepalive(),
                        metavar="IDLE,INTERVAL,COUNT",
                        help="TCP keepalive of IOPub in seconds and probes, or off: when a client"
                        " is missed whose host vanished (default: 10,5,3)")  # fmt: skip
    parser.add_argument("--comm-grace-period", type=_grace, metavar="SECONDS",
                        help="how long comms that nobody listens to any more stay open"
                        " (default: 1)")  # fmt: skip
    parser.add_argument("--comm-lifecycle", default=None, action=argparse.BooleanOptionalAction,
                        help="let comms and their requests end when nobody listens any"
                        " more")  # fmt: skip
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


def _grace(text: str) -> float:
    return 0.0 if float(text) == 0 else _seconds(text)


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 < value < 1e6:
        raise ValueError(text)
    return value
