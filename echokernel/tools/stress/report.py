"""The output of ``echokernel stress``: the summary, the table and the progress."""

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
"""The mode in which HandshakeProvisioner starts the kernel as its kernelspec says."""


@dataclass(frozen=True)
class Row:
    """The results of all launches in one mode.

    Attributes:
        mode: the start mode, or `HANDSHAKE`.
        launches: number of launches.
        failures: number of launches that failed.
        hangs: number of launches that reached the timeout.
        median_start: seconds, or None if no launch succeeded.
        ratio: of the median start to that of the first mode, or None.
    """

    mode: str
    launches: int
    failures: int
    hangs: int
    median_start: float | None
    ratio: float | None

    @property
    def ok(self) -> bool:
        """True if each launch succeeded."""
        return not self.failures and not self.hangs


def summarize(records: Sequence[JsonObject], modes: Sequence[str]) -> list[Row]:
    """Return one row for each mode.

    Args:
        records: one record for each launch, as `workers` prints them.
        modes: the modes, in the order of the rows.
    """
    rows: list[Row] = []
    for mode in modes:
        matching = [record for record in records if record["mode"] == mode]
        outcomes = Counter(record["outcome"] for record in matching)
        times = [record["seconds"] for record in matching if record["outcome"] == OK]
        median = statistics.median(times) if times else None
        first = rows[0].median_start if rows else median
        ratio = median / first if median and first else None
        rows.append(Row(mode, len(matching), outcomes[FAILED], outcomes[HUNG], median, ratio))
    return rows


def table(rows: Sequence[Row]) -> str:
    """Return the rows as an aligned table."""
    cells = [["", "launches", "failures", "hangs", "median start", "ratio"]]
    for row in rows:
        start = "-" if row.median_start is None else f"{row.median_start:.2f} s"
        ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
        cells.append([row.mode, str(row.launches), str(row.failures), str(row.hangs), start, ratio])
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
    ports_taken: int | None,
) -> str:
    """Return everything that the command prints on stdout.

    Args:
        title: the first line.
        rows: the summary.
        records: one record for each launch.
        chosen: (start mode, reason) of the row `HANDSHAKE`.
        ports_taken: number of ports that the load took; None if there was no load.
    """
    lines = [title, "", table(rows), ""]
    if any(row.mode == HANDSHAKE for row in rows):
        mode, reason = chosen
        hint = " (no handshake; see --modes for other start modes)" if mode == CLASSIC else ""
        lines.append(f"{HANDSHAKE}: the start mode is {mode}{hint}, because {reason}")
    if ports_taken is not None:
        lines.append(f"the load took {ports_taken} ports")
    causes = Counter((r["mode"], r["cause"]) for r in records if r["outcome"] != OK)
    lines += [f"{mode}, {count} x: {cause}" for (mode, cause), count in causes.most_common()]
    return "\n".join(lines).rstrip()


class Progress:
    """The progress of the run: a bar on a terminal, otherwise one line for each tenth.

    Args:
        total: number of launches in the whole run.
        modes: the modes of the run.
        out: where to write, usually stderr.
    """

    WIDTH = 30

    def __init__(self, total: int, modes: Sequence[str], out: IO[str]) -> None:
        self._total = total
        self._done = 0
        self._failed = dict.fromkeys(modes, 0)
        self._out = out
        self._is_terminal = out.isatty()

    def step(self, record: JsonObject) -> None:
        """Count one launch and write the progress."""
        self._done += 1
        self._failed[record["mode"]] += record["outcome"] != OK
        failed = ", ".join(f"{mode} {count}" for mode, count in self._failed.items())
        text = f"{self._done}/{self._total} launches; failed: {failed}"
        is_last = self._done == self._total
        if self._is_terminal:
            bar = ("#" * (self._done * self.WIDTH // self._total)).ljust(self.WIDTH, ".")
            self._out.write(f"\r\x1b[K[{bar}] {text}" + "\n" * is_last)
        elif is_last or self._done % max(1, self._total // 10) == 0:
            self._out.write(f"{text}\n")
        self._out.flush()
