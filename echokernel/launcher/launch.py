"""One launch of a kernel, from the first attempt to the last: its clock, its deadline, its story.

It waits, judges and tells; the processes are the provisioner's.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from ..protocol.errors import KernelDied, LaunchError, LaunchTimeout
from ..protocol.startup import Ports
from .selection import Choice, Way
from .stderr_tail import StderrTail
from .strategies import Attempt

Error = TypeVar("Error", bound=LaunchError)

EXIT_POLL = 0.02
"""Seconds between looks whether the process has ended."""

REWRITE_TRIES = 3
"""Starts by rewrite, where somebody takes a port that the kernel was to keep."""


class Launch:
    """What is known of one launch.

    Args:
        kernel_name: for errors.
        choice: the first way to try.
        timeout: seconds until the kernel must be up (L4).
        guess_timeout: seconds that a guess may take (L7).

    Attributes:
        choice: the way that is being tried.
        keep_ports: whether the next attempt is to keep the last ports.
        given_up: nothing more is to be tried.
    """

    def __init__(
        self, kernel_name: str, choice: Choice, timeout: float, guess_timeout: float
    ) -> None:
        self.choice = choice
        self.keep_ports = True
        self.given_up = False
        self._kernel_name = kernel_name
        self._timeout = timeout
        self._guess_timeout = guess_timeout
        self._started = time.monotonic()
        self._tried: list[Way] = []
        self._failures: list[str] = []

    @property
    def is_first(self) -> bool:
        """Whether no attempt has failed yet."""
        return not self._failures

    @property
    def has_taught(self) -> bool:
        """Whether the way that is being tried was not known to be right before."""
        return self.choice.is_guess or len(set(self._tried)) > 1

    def begin_attempt(self) -> None:
        """Note that the way of ``choice`` is tried now."""
        self._tried.append(self.choice.way)

    def start_clock(self, environment: Mapping[str, str]) -> None:
        """The process starts now (L4).

        ``KERNEL_LAUNCH_TIMEOUT`` is what Jupyter's gateways put into a launch's environment.

        Raises:
            LaunchError: it is no number.
        """
        self._started = time.monotonic()
        given = environment.get("KERNEL_LAUNCH_TIMEOUT", "")
        try:
            self._timeout = float(given) if given else self._timeout
        except ValueError:
            problem = f"KERNEL_LAUNCH_TIMEOUT={given!r} is not a number of seconds"
            raise self.error(LaunchError, problem) from None

    async def await_ports(
        self, attempt: Attempt, poll: Callable[[], Awaitable[int | None]], tail: StderrTail
    ) -> Ports:
        """Wait for the kernel's ports, the end of its process, or the deadline (L4).

        Args:
            poll: returns the exit status of the process, None while it lives.

        Raises:
            LaunchError: no ports will come.
        """
        limit, waited = self._started + self._timeout, self._timeout
        patience = time.monotonic() + self._guess_timeout
        if self.choice.is_guess and patience < limit:
            limit, waited = patience, self._guess_timeout
        while True:
            ports = await attempt.wait(EXIT_POLL)
            if ports is not None:
                return ports
            if attempt.concluded:
                # An exception, not a cancellation: that would leave `km.ready` pending.
                raise self.error(LaunchError, "the launch was given up")
            status = await poll()
            if status is not None:
                problem = f"the kernel {ending(status)} before it {attempt.way.told}"
                raise self.error(KernelDied, problem, status, await tail.read_to_end())
            if attempt.failure is not None:
                raise self.error(LaunchError, attempt.failure, None, tail.text())
            if time.monotonic() > limit:
                problem = f"the kernel did not {attempt.way.tell} within {waited:g} s"
                raise self.error(LaunchTimeout, problem, None, tail.text())

    def try_another(self, attempt: Attempt, error: BaseException) -> bool:
        """Choose what follows a failed attempt; return False if nothing does (L7)."""
        kernel_failed = isinstance(error, KernelDied | LaunchTimeout) or attempt.failure
        too_late = time.monotonic() > self._started + self._timeout
        if not kernel_failed or self.given_up or too_late:
            return False
        if attempt.may_lack_ports and self._tried.count(Way.REWRITE) < REWRITE_TRIES:
            self.keep_ports = False
        elif not self.choice.is_guess:
            return False
        elif attempt.rewrote:
            self.choice = Choice(Way.REWRITE, is_guess=True)
        else:
            self.choice = Choice(Way.CLASSIC, is_guess=False)
        self._failures.append(getattr(error, "problem", ""))
        return True

    def lesson(self) -> str:
        """Say in one line how this kernel starts from now on, and why."""
        failures = "".join(f"; {problem}" for problem in self._failures)
        return f"{self._kernel_name}: started by {self.choice.way}, and so from now on{failures}"

    def error(
        self,
        kind: type[Error],
        problem: str,
        exit_status: int | None = None,
        stderr_tail: str = "",
    ) -> Error:
        """Return an error that tells what was tried, and for how long (L4)."""
        ways = ", then ".join(str(way) for way in self._tried)
        return kind(
            problem,
            tried=f"{self._kernel_name} by {ways}",
            elapsed=time.monotonic() - self._started,
            exit_status=exit_status,
            stderr_tail=stderr_tail,
        )


def ending(status: int) -> str:
    """Say how a process ended: ``exited with status 2``, ``was killed by SIGKILL``."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"
