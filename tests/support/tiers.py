"""Which tests the README's command runs, and which only the full suite runs.

The full suite is `.ci/run`, or any run with ``ECHOKERNEL_TEST_EVERYTHING=1``. A module that is
named on the command line always runs: ``pytest tests/server``.
"""

from __future__ import annotations

import os
from pathlib import Path

EVERYTHING = "ECHOKERNEL_TEST_EVERYTHING"
"""Environment variable: run all tests; an absent program or package is a failure."""

TESTS = Path(__file__).parents[1]

FULL_SUITE_ONLY = {
    "abuse": "attacks and floods",
    "examples/test_plot_page.py": "a browser",
    "launcher/test_failures.py": "kernels that hang until a deadline",
    "launcher/test_many.py": "many launches beside other load",
    "launcher/test_notebook_tools.py": "papermill, nbmake, Voilà",
    "launcher/test_restart.py": "restarts of many kernels",
    "launcher/test_selection.py": "kernels that hang until a deadline",
    "launcher/test_xeus.py": "a kernel of another language",
    "runtime/iopub/test_flow_control.py": "floods of output",
    "runtime/test_ipykernel_suite.py": "ipykernel's own test suite",
    "runtime/test_ipython_cells.py": "signals at exact moments: four tests at a time disturb them",
    "runtime/test_kernel_suite.py": "jupyter_kernel_test's suite",
    "runtime/test_other_kernels.py": "kernels of other authors",
    "server": "servers and browsers",
    "testing/test_fakes.py": "kernels that wait until a deadline",
    "tools/test_stress.py": "many launches beside other load",
}
"""Folder or module below ``tests/`` -> what it needs."""


def is_selected(path: Path, arguments: list[str]) -> bool:
    """Return True if a test module runs in this session.

    Args:
        path: of the module.
        arguments: of pytest's command line: files, folders, node ids.
    """
    tier = next((TESTS / name for name in FULL_SUITE_ONLY if is_at(path, TESTS / name)), None)
    if tier is None or os.environ.get(EVERYTHING):
        return True
    return any(is_at(Path(argument.partition("::")[0]).resolve(), tier) for argument in arguments)


def is_at(path: Path, place: Path) -> bool:
    """Return True if ``path`` is ``place``, or below it."""
    return path == place or place in path.parents
