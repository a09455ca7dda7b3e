"""``echokernel install``: write the kernelspec into a Jupyter data folder.

The wheel installs a kernelspec whose ``argv`` starts with ``python``: the environment that runs
Jupyter. This command writes one that names *this* environment's Python, for a Jupyter that runs in
another environment.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from . import arguments

KERNEL_NAME = "echo-handshake"


def install(argv: Sequence[str]) -> int:
    """Run the command with these arguments; return its exit status."""
    options = _parse(argv)
    from jupyter_client.kernelspec import KernelSpecManager

    try:
        shipped = shipped_kernelspec()
        spec = kernelspec(shipped / "kernel.json", options)
    except (OSError, ValueError) as error:
        return _fail(f"{error}; install echokernel again with pip")
    try:
        with tempfile.TemporaryDirectory() as parent:
            copy = Path(parent) / KERNEL_NAME
            shutil.copytree(shipped, copy)
            (copy / "kernel.json").write_text(json.dumps(spec, indent=1), encoding="utf-8")
            prefix = str(options.prefix) if options.prefix else None
            destination = KernelSpecManager().install_kernel_spec(
                str(copy), options.name, user=options.user, prefix=prefix
            )
    except OSError as error:
        return _fail(
            f"the kernelspec cannot be written: {_reason(error)}; choose another folder with"
            " --user, --sys-prefix or --prefix"
        )
    print(f"Installed kernelspec {options.name} in {destination}")
    return 0


def _fail(message: str) -> int:
    print(f"echokernel install: {message}", file=sys.stderr)
    return 1


def _reason(error: OSError) -> str:
    """Return where the operating system refused what, on one line."""
    if error.filename:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, shutil.Error):  # Of copytree: a list of (source, destination, reason).
        return str(error.args[0][0][2])
    return str(error)


def kernelspec(shipped: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return the content of a ``kernel.json`` for this environment.

    Args:
        shipped: the ``kernel.json`` of the wheel.
        options: the command line.
    """
    spec: dict[str, Any] = json.loads(shipped.read_text(encoding="utf-8"))
    spec["argv"][0] = sys.executable
    if options.display_name:
        spec["display_name"] = options.display_name
    if options.no_provisioner:
        del spec["metadata"]["kernel_provisioner"]
    return spec


def shipped_kernelspec() -> Path:
    """Return the kernelspec folder that the wheel installed.

    Raises:
        FileNotFoundError: echokernel was not installed with pip.
    """
    try:
        files = metadata.files("echokernel") or []
    except metadata.PackageNotFoundError:
        files = []
    for file in files:
        if file.name == "kernel.json" and file.parent.name == KERNEL_NAME:
            return Path(str(file.locate())).resolve().parent
    raise FileNotFoundError("this installation of echokernel has no kernelspec")


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="echokernel install",
        description="Write the kernelspec of the echo kernel, with this environment's Python, into"
        " a Jupyter data folder.",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--user", action="store_true", help="for the current user")
    where.add_argument("--prefix", type=arguments.folder,
                       help="for the environment in the folder PREFIX")  # fmt: skip
    where.add_argument("--sys-prefix", action="store_const", dest="prefix", const=sys.prefix,
                       help="for this environment")  # fmt: skip
    parser.add_argument("--name", type=arguments.kernel_name, default=KERNEL_NAME,
                        help="default: %(default)s")  # fmt: skip
    parser.add_argument("--display-name", type=arguments.display_name, metavar="NAME",
                        help="name of the kernel in user interfaces")  # fmt: skip
    parser.add_argument("--no-provisioner", action="store_true",
                        help="write a kernelspec for a Jupyter whose environment does not have"
                        " echokernel: such a Jupyter hides kernelspecs that name a missing"
                        " provisioner; the kernel is then started with ports that Jupyter"
                        " chooses")  # fmt: skip
    return parser.parse_args(argv)
