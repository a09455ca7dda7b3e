"""One launch of a kernel, from the first attempt to the last: its clock, its deadline, its history.

A `Launch` waits for ports, decides about retries and makes the errors. Processes are not started or
killed here.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from ..protocol.errors import KernelDied, LaunchError, LaunchTimeout
from ..protocol.startup import Ports
from .selection import StartMode
from .stderr_tail import StderrTail
from .strategies import StartStrategy

Error = TypeVar("Error", bound=LaunchError)

EXIT_POLL_INTERVAL = 0.02
"""Seconds between two checks whether the process has ended."""

REWRITE_ATTEMPTS = 3
"""Attempts in the rewrite mode while another process takes ports that the kernel was to keep."""


class Launch:
    """The state of one launch.

    Args:
        kernel_name: for error messages.
        mode: the start mode of the first attempt.
        is_guess: another start mode may follow if this one fails (L7).
        timeout: seconds until the kernel must be up (L4).
        guess_timeout: seconds for an attempt whose start mode is a guess (L7).

    Attributes:
        mode: the start mode of the current attempt.
        keep_ports: the next attempt prefers the last ports (L6).
        aborted: no further attempt is made.
    """

    def __init__(
        self,
        kernel_name: str,
        mode: StartMode,
        *,
        is_guess: bool,
        timeout: float,
        guess_timeout: float,
    ) -> None:
        self.mode = mode
        self.keep_ports = True
        self.aborted = False
        self._kernel_name = kernel_name
        self._is_guess = is_guess
        self._timeout = timeout
        self._guess_timeout = guess_timeout
        self._started = time.monotonic()
        self._tried: list[StartMode] = []
        self._problems: list[str] = []

    @property
    def is_first_attempt(self) -> bool:
        """True if no attempt has failed yet."""
        return not self._problems

    @property
    def learned(self) -> bool:
        """True if the success of the current start mode is a new fact."""
        return self._is_guess or len(set(self._tried)) > 1

    def begin_attempt(self) -> None:
        """Record that the current start mode is tried now."""
        self._tried.append(self.mode)

    def start_clock(self, environment: Mapping[str, str]) -> None:
        """Start the clock, because the process starts now (L4).

        Jupyter's gateways set ``KERNEL_LAUNCH_TIMEOUT`` in the environment of a launch.

        Args:
            environment: the environment variables of the kernel's process.

        Raises:
            LaunchError: ``KERNEL_LAUNCH_TIMEOUT`` is not a number.
        """
        self._started = time.monotonic()
        value = environment.get("KERNEL_LAUNCH_TIMEOUT", "")
        try:
            self._timeout = float(value) if value else self._timeout
        except ValueError:
            problem = f"KERNEL_LAUNCH_TIMEOUT={value!r} is not a number of seconds"
            raise self.error(LaunchError, problem) from None

    async def await_ports(
        self,
        strategy: StartStrategy,
        poll: Callable[[], Awaitable[int | None]],
        tail: StderrTail,
    ) -> Ports:
        """Wait for the kernel's ports, the end of its process, or the deadline (L4).

        Args:
            strategy: the strategy of the current attempt.
            poll: returns the exit status of the process, or None while it lives.
            tail: the last lines of the process's stderr.

        Raises:
            KernelDied: the process ended.
            LaunchTimeout: the deadline passed.
            LaunchError: the launch was aborted, or the strategy failed.
        """
        deadline, limit = self._started + self._timeout, self._timeout
        guess_deadline = time.monotonic() + self._guess_timeout
        if self._is_guess and guess_deadline < deadline:
            deadline, limit = guess_deadline, self._guess_timeout
        while True:
            ports = await strategy.wait(EXIT_POLL_INTERVAL)
            if ports is not None:
                return ports
            if strategy.closed:
                # Not a cancellation: jupyter_client would leave the manager's `ready` pending.
                raise self.error(LaunchError, "the launch was aborted by a shutdown or a cleanup")
            status = await poll()
            if status is not None:
                problem = f"the kernel {describe_exit(status)} before it {strategy.mode.past}"
                raise self.error(KernelDied, problem, status, await tail.read_to_end())
            if strategy.failure is not None:
                raise self.error(LaunchError, strategy.failure, None, tail.text())
            if time.monotonic() > deadline:
                problem = f"the kernel did not {strategy.mode.verb} within {limit:g} s"
                raise self.error(LaunchTimeout, problem, None, tail.text())

    def plan_retry(self, strategy: StartStrategy, error: BaseException) -> bool:
        """Choose the start mode of the next attempt; return False if there is none (L7).

        Args:
            strategy: the strategy that has failed.
            error: the exception that ended the attempt.
        """
        kernel_failed = isinstance(error, KernelDied | LaunchTimeout) or strategy.failure
        too_late = time.monotonic() > self._started + self._timeout
        if not kernel_failed or self.aborted or too_late:
            return False
        if strategy.ports_contested and self._tried.count(StartMode.REWRITE) < REWRITE_ATTEMPTS:
            self.keep_ports = False
        elif not self._is_guess:
            return False
        elif strategy.wrote_ports:
            self.mode = StartMode.REWRITE
        else:
            self.mode, self._is_guess = StartMode.CLASSIC, False
        self._problems.append(getattr(error, "problem", ""))
        return True

    def summary(self) -> str:
        """Return one line for the log: the start mode that worked, and the failures before it."""
        failures = "".join(
            f"; {mode} failed: {problem}"
            for mode, problem in zip(self._tried, self._problems, strict=False)
        )
        return (
            f"{self._kernel_name}: start mode {self.mode} works and is used from now on{failures}"
        )

    def error(
        self,
        kind: type[Error],
        problem: str,
        exit_status: int | None = None,
        stderr_tail: str = "",
    ) -> Error:
        """Return an error that includes the start modes that were tried and the elapsed time (L4).

        Args:
            kind: the class of the error.
            problem: what failed.
            exit_status: of the kernel's process, or None while it lives.
            stderr_tail: the last lines that the process wrote to stderr.
        """
        modes = ", then ".join(str(mode) for mode in self._tried)
        return kind(
            problem,
            tried=f"{self._kernel_name} with start mode {modes}",
            elapsed=time.monotonic() - self._started,
            exit_status=exit_status,
            stderr_tail=stderr_tail,
        )


def describe_exit(status: int) -> str:
    """Return how a process ended: ``exited with status 2``, ``was killed by SIGKILL``."""
    if status >= 0:
        return f"exited with status {status}"
    try:
        return f"was killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"was killed by signal {-status}"
