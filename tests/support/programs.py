"""Programs of users, run until they exit."""

from __future__ import annotations

import os
import subprocess
import sys

BIN = os.path.dirname(sys.executable)
ECHOKERNEL = os.path.join(BIN, "echokernel")


def run_program(*words: str, timeout: float = 100, **environment: str):
    """Run a program; return its exit status, stdout and stderr as a CompletedProcess.

    Args:
        words: the command line.
        timeout: seconds after which the program is killed.
        environment: variables beside those of the test.

    Raises subprocess.TimeoutExpired.
    """
    return subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", **environment},
    )


def run_python(*words: str, **options):
    """Run this environment's Python; arguments and result as ``run_program``."""
    return run_program(sys.executable, *words, **options)
