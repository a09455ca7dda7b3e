"""The project's tasks, for developers and CI: ``python tasks.py lint types test``.

Run it with the Python of an environment that has ``pip install -e '.[dev]'``. A task that fails
ends the run with its exit status. Only the standard library is imported.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parent
DIST = ROOT / "dist"
PYTEST = ("pytest", "-n", "3", "--dist", "loadfile")
"""The command for the tests in the README. Tests mostly wait, so three at a time suit two cores."""

PYTEST_ALL = ("pytest", "-n", "2", "--dist", "loadfile")
"""Floods, browsers and servers keep a core busy each."""

START = """
import sys
from jupyter_client.manager import start_new_kernel

manager, client = start_new_kernel(kernel_name="echo-handshake")
try:
    messages = []
    reply = client.execute_interactive("hello", timeout=60, output_hook=messages.append)
finally:
    client.stop_channels()
    manager.shutdown_kernel()
text = "".join(m["content"]["text"] for m in messages if m["msg_type"] == "stream")
print(reply["content"]["status"], repr(text), type(manager.provisioner).__name__)
sys.exit((reply["content"]["status"], text.strip()) != ("ok", "hello"))
"""
"""Start the installed kernel through jupyter_client and execute one cell."""


def lint() -> None:
    """Check style and format."""
    run("ruff", "check", ".")
    run("ruff", "format", "--check", ".")


def types() -> None:
    """Check types."""
    run("mypy")


def test() -> None:
    """Run the tests as the README does; absent programs are skipped with a reason."""
    run(*PYTEST)


def test_all() -> None:
    """Run every test; an absent program or package is a failure. Needs Chromium."""
    artefacts = Path(os.environ.get("ECHOKERNEL_ARTEFACTS", ROOT / "build" / "artefacts"))
    artefacts.mkdir(parents=True, exist_ok=True)
    report = artefacts / "tests.xml"
    variables = {"ECHOKERNEL_TEST_EVERYTHING": "1", "ECHOKERNEL_ARTEFACTS": str(artefacts)}
    run(*PYTEST_ALL, f"--junitxml={report}", **variables)
    table = run("python", "docs/clients_table.py", str(report), capture=True)
    (artefacts / "clients.md").write_text(table, encoding="utf-8")
    print(table)


def build() -> None:
    """Build sdist and wheel; install each elsewhere and start its kernel from a third place."""
    shutil.rmtree(DIST, ignore_errors=True)
    run("python", "-m", "build", "--outdir", str(DIST))
    for archive in sorted(DIST.iterdir()):
        with environment("kernel") as kernel, environment("client") as client:
            pip_install(kernel, str(archive))
            pip_install(client, "jupyter_client")
            folder = kernel.parent
            found = run_in(kernel, folder, "-c", "import echokernel; print(echokernel.__file__)")
            assert Path(found).is_relative_to(kernel), f"echokernel comes from {found}"
            print(f"{archive.name}, by its own environment:", run_in(kernel, folder, "-c", START))
            run_in(kernel, folder, "-m", "echokernel", "install", "--no-provisioner",
                   "--prefix", str(client))  # fmt: skip
            print(f"{archive.name}, by another one:", run_in(client, client.parent, "-c", START))


def lowest() -> None:
    """Run the tests on the lowest versions that the package declares."""
    pins = [f"{name}=={low}" for name, low in requirements() if low]
    with environment("lowest") as env:
        constraints = env.parent / "constraints.txt"
        constraints.write_text("\n".join(pins), encoding="utf-8")
        pip_install(env, "-c", str(constraints), f"{ROOT}[test]")
        print("\n".join(pins))
        run(*PYTEST, env=env)


def newest() -> None:
    """Run the tests on the newest upstream versions, pre-releases and later majors included."""
    names = [name for name, _ in requirements()]
    with environment("newest") as env:
        pip_install(env, f"{ROOT}[test]")
        pip_install(env, "--upgrade", "--pre", *names)  # beyond ceilings: pip only warns
        print(run_in(env, env.parent, "-m", "pip", "list"))
        run(*PYTEST, env=env)


TASKS: dict[str, Callable[[], None]] = {
    "lint": lint,
    "types": types,
    "test": test,
    "test-all": test_all,
    "build": build,
    "lowest": lowest,
    "newest": newest,
}


def requirements() -> Iterator[tuple[str, str | None]]:
    """Yield (name, lower bound) of each dependency of the installed package, without extras."""
    for line in importlib.metadata.requires("echokernel") or ():
        specifiers, _, marker = line.partition(";")
        if "extra" not in marker:
            low = re.search(r">=\s*([^,\s]+)", specifiers)
            yield re.split(r"[\s<>=!~\[(]", specifiers, maxsplit=1)[0], low[1] if low else None


@contextmanager
def environment(name: str) -> Iterator[Path]:
    """Make a virtual environment in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix=f"echokernel-{name}-") as folder:
        path = Path(folder).resolve() / "env"
        venv.create(path, with_pip=True)
        yield path


def programs(env: Path) -> Path:
    return env / ("Scripts" if os.name == "nt" else "bin")


def pip_install(env: Path, *arguments: str) -> None:
    run("python", "-m", "pip", "install", "--quiet", *arguments, env=env)
    # pip compiles, but not where PYTHONDONTWRITEBYTECODE is set; kernels then start 0.8 s later.
    run("python", "-m", "compileall", "-q", str(env), env=env, check=False, capture=True)


def run_in(env: Path, folder: Path, *arguments: str) -> str:
    """Run an environment's Python in ``folder``, without the user's Jupyter; return its output."""
    isolated = {"HOME": str(folder), "JUPYTER_PATH": "", "PYTHONPATH": ""}
    return run("python", *arguments, env=env, folder=folder, capture=True, **isolated).strip()


def run(
    program: str,
    *arguments: str,
    env: Path | None = None,
    folder: Path = ROOT,
    check: bool = True,
    capture: bool = False,
    **variables: str,
) -> str:
    """Run a program of an environment (default: this Python's); return what it printed.

    Raises:
        subprocess.CalledProcessError: its exit status is not 0.
    """
    place = programs(env) if env else Path(sys.executable).parent
    found = shutil.which(program, path=str(place))
    if found is None:
        sys.exit(f"{program} is not in {place}; run: pip install -e '.[dev]'")
    if not capture:
        print("$", program, *arguments, flush=True)
    done = subprocess.run(
        [found, *arguments],
        cwd=folder,
        env=os.environ | variables,
        check=check,
        stdout=subprocess.PIPE if capture else None,
        text=True,
    )
    return done.stdout or ""


def main() -> int:
    parser = argparse.ArgumentParser(
        description="\n".join(f"{name:9} {task.__doc__}" for name, task in TASKS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("tasks", nargs="+", choices=TASKS, metavar="TASK", help=", ".join(TASKS))
    for name in parser.parse_args().tasks:
        began = time.monotonic()
        try:
            TASKS[name]()
        except subprocess.CalledProcessError as error:
            print(f"== {name}: failed ({error.returncode})", file=sys.stderr, flush=True)
            return error.returncode if error.returncode > 0 else 1
        print(f"== {name}: {time.monotonic() - began:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
