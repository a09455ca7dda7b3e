"""The benchmark's own virtual environment: created on first use, again when its inputs change.

This module runs where nothing is installed yet, so it imports only the standard library. The
checkout is installed editable: the benchmark always measures the current source.
"""

from __future__ import annotations

import compileall
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import NoReturn

from progress import show_progress

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent
FOLDER = HERE / ".venv"
STAMP = FOLDER / "inputs.txt"
"""Written last: an environment without this file is incomplete."""


class EnvironmentFailed(Exception):
    """The environment could not be created; the message names the command that failed."""


def reexecute(script: Path, arguments: list[str]) -> NoReturn:
    """Replace this process by ``script --here`` in the benchmark's environment.

    Raises:
        EnvironmentFailed: the environment does not exist and cannot be created.
    """
    python = FOLDER / "bin" / "python"
    if not _is_current():
        _create(python)
    os.execv(python, [str(python), str(script), "--here", *arguments])


def compile_checkout() -> None:
    """Compile the measured source.

    Where Python may not write byte code (most containers), compiling would add 0.8 s to the start
    of every kernel.
    """
    compileall.compile_dir(CHECKOUT / "echokernel", quiet=1)
    compileall.compile_dir(HERE, maxlevels=0, quiet=1)


def _inputs() -> str:
    """Return the inputs of an environment; a different text requires a new environment."""
    project = (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
    return f"{sys.version}\n{CHECKOUT}\n{project}"


def _is_current() -> bool:
    try:
        return STAMP.read_text(encoding="utf-8") == _inputs()
    except OSError:
        return False


def _create(python: Path) -> None:
    show_progress(f"creating an environment in {FOLDER}: one or two minutes (--here avoids it)")
    shutil.rmtree(FOLDER, ignore_errors=True)
    venv.create(FOLDER, with_pip=True, symlinks=True)
    command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
               "--editable", f"{CHECKOUT}[bench]"]  # fmt: skip
    if status := subprocess.run(command, stdout=sys.stderr).returncode:
        raise EnvironmentFailed(f"{' '.join(command)} exited with status {status}")
    # The status is ignored: some packages contain files that are not meant to compile.
    subprocess.run([python, "-m", "compileall", "-qq", FOLDER / "lib"])
    STAMP.write_text(_inputs(), encoding="utf-8")
    show_progress(f"created {FOLDER}; delete it to get newer versions of the peers")
