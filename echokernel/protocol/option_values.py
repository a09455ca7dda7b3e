"""Values of command-line options that several processes parse; each error is a sentence.

The parser of port ranges is in `startup`, since registration files have them, too.
"""

from __future__ import annotations

import math

MAX_SECONDS = 1_000_000
"""Eleven days; a larger value is a mistake."""


def seconds(text: str, *, allow_zero: bool = False) -> float:
    """Parse a number of seconds.

    Args:
        text: of the option.
        allow_zero: whether 0 is a valid number.

    Raises:
        ValueError: ``text`` is not a number, or out of range.
    """
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if 0 < value < MAX_SECONDS or (allow_zero and value == 0):
        return value
    lowest = "0 or more" if allow_zero else "above 0"
    raise ValueError(f"{text!r} is not a number of seconds ({lowest}, below {MAX_SECONDS})")
