"""Parsers of command-line values that several commands use; each error is a sentence."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path

from ..protocol import option_values

MAX_COUNT = 100_000

NAME_PATTERN = re.compile(r"[A-Za-z0-9._-]+")
"""The rule of jupyter_client 8, `_kernel_name_pat`.
https://github.com/jupyter/jupyter_client/blob/master/jupyter_client/kernelspec.py"""


def seconds(text: str) -> float:
    """Return a positive number of seconds.

    Raises:
        argparse.ArgumentTypeError: ``text`` is not one.
    """
    try:
        return option_values.seconds(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def count(text: str) -> int:
    """Return a positive whole number.

    Raises:
        argparse.ArgumentTypeError: ``text`` is not one.
    """
    try:
        value = int(text)
    except ValueError:
        value = 0
    if not 0 < value <= MAX_COUNT:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a whole number between 1 and {MAX_COUNT}"
        )
    return value


def kernel_name(text: str) -> str:
    """Return the name of a kernelspec in lower case, as jupyter_client writes it.

    Raises:
        argparse.ArgumentTypeError: ``text`` is not a valid name.
    """
    # jupyter_client 8 accepts "..", and removes the folder of that name before it installs.
    if not NAME_PATTERN.fullmatch(text) or not text.strip("."):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a name for a kernelspec; use ASCII letters, digits, '.', '-' and '_'"
        )
    return text.lower()


def display_name(text: str) -> str:
    """Return a name for user interfaces.

    Raises:
        argparse.ArgumentTypeError: ``text`` is empty.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError("the name is empty; leave the option out for the default")
    return text


def folder(text: str) -> Path:
    """Return the absolute path of a folder, which need not exist; ``~`` is a home directory.

    Raises:
        argparse.ArgumentTypeError: ``text`` is empty, or names an unknown user.
    """
    if not text:
        raise argparse.ArgumentTypeError("the path is empty; name a folder, '.' is the current one")
    path = os.path.expanduser(text)  # Path.expanduser would also expand "./~".
    if path.startswith("~"):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not in a known home directory; './{text}' is a folder of that name"
        )
    return Path(path).absolute()
