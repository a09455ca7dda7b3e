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

KERNEL_NAME = "echo-handshake"


def install(argv: Sequence[str]) -> int:
    """Run the command with these arguments; return its exit status."""
    options = _parse(argv)
    from jupyter_client.kernelspec import KernelSpecManager

    try:
        with tempfile.TemporaryDirectory() as folder:
            copy = Path(folder) / KERNEL_NAME
            shutil.copytree(shipped_kernelspec(), copy)
            spec = kernelspec(copy / "kernel.json", options)
            (copy / "kernel.json").write_text(json.dumps(spec, indent=1), encoding="utf-8")
            destination = KernelSpecManager().install_kernel_spec(
                str(copy), options.name, user=options.user, prefix=options.prefix
            )
    except (OSError, ValueError) as error:
        print(f"echokernel install: {error}", file=sys.stderr)
        return 1
    print(f"Installed kernelspec {options.name} in {destination}")
    return 0


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
    for file in metadata.files("echokernel") or []:
        if file.name == "kernel.json" and file.parent.name == KERNEL_NAME:
            return Path(str(file.locate())).resolve().parent
    raise FileNotFoundError(
        "this installation of echokernel has no kernelspec; install it with pip"
    )


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="echokernel install",
        description="Write the kernelspec of the echo kernel, with this environment's Python, into"
        " a Jupyter data folder.",
    )
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--user", action="store_true", help="for the current user")
    where.add_argument("--prefix", help="for the environment in the folder PREFIX")
    where.add_argument("--sys-prefix", action="store_const", dest="prefix", const=sys.prefix,
                       help="for this environment")  # fmt: skip
    parser.add_argument("--name", default=KERNEL_NAME, help="default: %(default)s")
    parser.add_argument("--display-name", help="name of the kernel in user interfaces")
    parser.add_argument("--no-provisioner", action="store_true",
                        help="write a kernelspec for a Jupyter whose environment does not have"
                        " echokernel: such a Jupyter hides kernelspecs that name a missing"
                        " provisioner; the kernel is then started with ports that Jupyter"
                        " chooses")  # fmt: skip
    return parser.parse_args(argv)
