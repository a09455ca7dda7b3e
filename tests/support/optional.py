"""Optional requirements of tests: a test skips with a reason for the user, and fails in CI."""

import importlib
import os
import shutil
from types import ModuleType
from typing import NoReturn

import pytest

from support.tiers import EVERYTHING


def module(name: str, extra: str = "lab") -> ModuleType:
    """Import a module of ``pip install '.[extra]'``; without it, skip the test module."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name.partition(".")[0]:
            raise  # installed, but broken
        missing(f"{name} is not installed: pip install '.[{extra}]'")


def program(name: str, *, debian: str) -> str:
    """Return the path of a program; without it, skip the test module."""
    return shutil.which(name) or missing(
        f"{name} is not installed; on Debian: apt-get install {debian}"
    )


def missing(reason: str) -> NoReturn:
    """Skip the test module that is being imported; in CI, fail."""
    if os.environ.get(EVERYTHING):
        pytest.fail(f"{reason} ({EVERYTHING} is set)", pytrace=False)
    pytest.skip(reason, allow_module_level=True)
