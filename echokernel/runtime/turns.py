"""How long one task keeps the event loop before timers and other tasks run."""

from __future__ import annotations

import asyncio
import time

TURN_SECONDS = 0.005


class Turn:
    """One task's share of its event loop's time."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        self._ends = time.monotonic() + TURN_SECONDS

    @property
    def is_over(self) -> bool:
        return time.monotonic() > self._ends

    async def end_if_over(self) -> None:
        """Let other tasks run if the turn is over; then begin another."""
        if self.is_over:
            await asyncio.sleep(0)
            self.restart()
