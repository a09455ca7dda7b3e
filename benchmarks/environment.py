"""The benchmark's own virtual environment: made on first use, and made anew when it must be.

Only the standard library may be imported here: this runs where nothing is installed yet. The
checkout is installed editable, so what is measured is always the source as it stands.
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

from progress import say

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent
FOLDER = HERE / ".venv"
STAMP = FOLDER / "made-for.txt"
"""Written last: an environment without it was not finished."""


class CannotBeMade(Exception):
    """The environment could not be made; says which command failed."""


def reexecute(script: Path, arguments: list[str]) -> NoReturn:
    """Replace this process by ``script --here`` in the benchmark's environment.

    Raises:
        CannotBeMade: there is none, and it cannot be made.
    """
    python = FOLDER / "bin" / "python"
    if not _is_current():
        _make(python)
    # Environments that forbid Python to write byte code (containers, mostly) would add the
    # compiler's 0.8 s to the start of every kernel.
    compileall.compile_dir(CHECKOUT / "echokernel", quiet=1)
    compileall.compile_dir(HERE, maxlevels=0, quiet=1)
    os.execv(python, [str(python), str(script), "--here", *arguments])


def _wanted() -> str:
    """Return what an environment is made for; another answer asks for another environment."""
    project = (CHECKOUT / "pyproject.toml").read_text(encoding="utf-8")
    return f"{sys.version}\n{CHECKOUT}\n{project}"


def _is_current() -> bool:
    try:
        return STAMP.read_text(encoding="utf-8") == _wanted()
    except OSError:
        return False


def _make(python: Path) -> None:
    say(f"making an environment in {FOLDER} (a minute or two; --here uses the running one instead)")
    shutil.rmtree(FOLDER, ignore_errors=True)
    venv.create(FOLDER, with_pip=True, symlinks=True)
    _run([str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
          "--editable", f"{CHECKOUT}[bench]"])  # fmt: skip
    # Its status says nothing: some packages carry files that are not meant to compile.
    subprocess.run([python, "-m", "compileall", "-qq", FOLDER / "lib"])
    STAMP.write_text(_wanted(), encoding="utf-8")
    say(f"made {FOLDER}; delete it to have newer versions of the peers")


def _run(command: list[str]) -> None:
    # What pip prints goes where the progress goes; stdout is for the results.
    if status := subprocess.run(command, stdout=sys.stderr).returncode:
        raise CannotBeMade(f"{' '.join(command)} ended with status {status}")
