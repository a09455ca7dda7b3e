"""What ``echokernel stress`` tells: the summary, the table, the progress."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import IO

from ...protocol.wire import JsonObject
from ..doctor import CLASSIC
from .workers import FAILED, HUNG, OK

HANDSHAKE = "handshake"
"""Our provisioner, which does what the kernelspec says."""


@dataclass(frozen=True)
class Row:
    """What came of the launches one way; times in seconds, None where no launch succeeded."""

    way: str
    launches: int
    failures: int
    hangs: int
    median_start: float | None
    ratio: float | None

    @property
    def well(self) -> bool:
        return not self.failures and not self.hangs


def summary(records: Sequence[JsonObject], ways: Sequence[str]) -> list[Row]:
    """Return a row for each way; the ratio is that of median starts to the first way's."""
    rows: list[Row] = []
    for way in ways:
        mine = [record for record in records if record["way"] == way]
        count = Counter(record["outcome"] for record in mine)
        times = [record["seconds"] for record in mine if record["outcome"] == OK]
        median = statistics.median(times) if times else None
        first = rows[0].median_start if rows else median
        ratio = median / first if median and first else None
        rows.append(Row(way, len(mine), count[FAILED], count[HUNG], median, ratio))
    return rows


def table(rows: Sequence[Row]) -> str:
    """Return ``rows`` as an aligned table."""
    cells = [["", "launches", "failures", "hangs", "median start", "ratio"]]
    for row in rows:
        start = "-" if row.median_start is None else f"{row.median_start:.2f} s"
        ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
        cells.append([row.way, str(row.launches), str(row.failures), str(row.hangs), start, ratio])
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    return "\n".join(
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
        for line in cells
    )


def report(
    title: str,
    rows: Sequence[Row],
    records: Sequence[JsonObject],
    chosen: tuple[str, str],
    taken: int | None,
) -> str:
    """Return everything that goes to stdout.

    Args:
        chosen: (way, why) of the handshake's row.
        taken: how many ports the load took; None if there was none.
    """
    lines = [title, "", table(rows), ""]
    if any(row.way == HANDSHAKE for row in rows):
        way, why = chosen
        same = " (no handshake: see --ways for others)" if way == CLASSIC else ""
        lines.append(f"{HANDSHAKE}: started by {way}{same}, because {why}")
    if taken is not None:
        lines.append(f"the load took {taken} ports")
    causes = Counter((r["way"], r["cause"]) for r in records if r["outcome"] != OK)
    lines += [f"{way}, {count} x: {why}" for (way, why), count in causes.most_common()]
    return "\n".join(lines).rstrip()


class Progress:
    """How far it is, on stderr: a bar on a terminal, else a line now and then."""

    WIDTH = 30

    def __init__(self, total: int, ways: Sequence[str], out: IO[str]) -> None:
        self._total = total
        self._done = 0
        self._lost = dict.fromkeys(ways, 0)
        self._out = out
        self._terminal = out.isatty()

    def step(self, record: JsonObject) -> None:
        """Take note of one launch."""
        self._done += 1
        self._lost[record["way"]] += record["outcome"] != OK
        lost = ", ".join(f"{way} {count}" for way, count in self._lost.items())
        text = f"{self._done}/{self._total} launches; lost: {lost}"
        last = self._done == self._total
        if self._terminal:
            bar = ("#" * (self._done * self.WIDTH // self._total)).ljust(self.WIDTH, ".")
            self._out.write(f"\r\x1b[K[{bar}] {text}" + "\n" * last)
        elif last or self._done % max(1, self._total // 10) == 0:
            self._out.write(f"{text}\n")
        self._out.flush()
