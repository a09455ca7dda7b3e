"""Parsers of command-line values that several commands use; each error is a sentence."""

from __future__ import annotations

import argparse

MAX_SECONDS = 1e6
"""Eleven days; a larger value is a mistake."""

MAX_COUNT = 100_000


def seconds(text: str) -> float:
    """Return a positive number of seconds.

    Raises:
        argparse.ArgumentTypeError: ``text`` is not one.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < MAX_SECONDS:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not a number of seconds between 0 and {MAX_SECONDS:.0f}"
        )
    return value


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
