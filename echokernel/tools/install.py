"""``echokernel install``: put the kernelspec where this user's or that environment's Jupyter looks.

The wheel installs one by itself, whose ``argv`` starts with plain ``python``: the environment
that runs Jupyter. This command writes one that names *this* environment's Python, for a Jupyter
that runs in another.
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
    """Run the command; return its exit status."""
    options = _parse(argv)
    from jupyter_client.kernelspec import KernelSpecManager

    try:
        with tempfile.TemporaryDirectory() as folder:
            made = Path(folder) / KERNEL_NAME
            shutil.copytree(shipped_kernelspec(), made)
            spec = kernelspec(made / "kernel.json", options)
            (made / "kernel.json").write_text(json.dumps(spec, indent=1), encoding="utf-8")
            where = KernelSpecManager().install_kernel_spec(
                str(made), options.name, user=options.user, prefix=options.prefix
            )
    except (OSError, ValueError) as error:
        print(f"echokernel install: {error}", file=sys.stderr)
        return 1
    print(f"Installed kernelspec {options.name} in {where}")
    return 0


def kernelspec(shipped: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Return the shipped kernelspec as ``options`` want it."""
    spec: dict[str, Any] = json.loads(shipped.read_text(encoding="utf-8"))
    spec["argv"][0] = sys.executable
    if options.display_name:
        spec["display_name"] = options.display_name
    if options.no_provisioner:
        del spec["metadata"]["kernel_provisioner"]
    return spec


def shipped_kernelspec() -> Path:
    """Return the folder that the wheel installed.

    Raises:
        FileNotFoundError: this package was not installed with pip.
    """
    for file in metadata.files("echokernel") or []:
        if file.name == "kernel.json" and file.parent.name == KERNEL_NAME:
            return Path(str(file.locate())).resolve().parent
    raise FileNotFoundError("the kernelspec of echokernel is not installed; use pip install")


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="echokernel install", description=__doc__)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--user", action="store_true", help="for this user")
    where.add_argument("--prefix", help="for the environment in PREFIX")
    where.add_argument("--sys-prefix", action="store_const", dest="prefix", const=sys.prefix,
                       help="for this environment")  # fmt: skip
    parser.add_argument("--name", default=KERNEL_NAME, help="default: %(default)s")
    parser.add_argument("--display-name", help="what people see")
    parser.add_argument("--no-provisioner", action="store_true",
                        help="for a Jupyter whose environment lacks echokernel: without its"
                        " provisioner such a Jupyter hides the kernelspec; start the classic"
                        " way there")  # fmt: skip
    return parser.parse_args(argv)
