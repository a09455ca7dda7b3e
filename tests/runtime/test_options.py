"""options.py: a wrong command line ends the kernel's process with a sentence for the user."""

import subprocess
import sys

import pytest

TIMEOUT = 60  # seconds; only a hang takes that long
RANGE = "is not a port range such as 50000-50100"
KEEPALIVE = "is not a keepalive such as 10,5,3, or off"
SECONDS = "is not a number of seconds (above 0, below 1000000)"
SECONDS_OR_ZERO = "is not a number of seconds (0 or more, below 1000000)"


def run(*arguments):
    command = [sys.executable, "-m", "echokernel", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)


@pytest.mark.parametrize(
    ("option", "value", "problem"),
    [
        ("--port-range", "9-1", RANGE),
        ("--port-range", "50000", RANGE),
        ("--port-range", "0-5", RANGE),
        ("--port-range", "", RANGE),
        ("--iopub-keepalive", "10,5", KEEPALIVE),
        ("--iopub-keepalive", "10,5,0", KEEPALIVE),
        ("--iopub-keepalive", "on", KEEPALIVE),
        ("--handshake-timeout", "0", SECONDS),
        ("--handshake-timeout", "-1", SECONDS),
        ("--handshake-timeout", "soon", SECONDS),
        ("--handshake-timeout", "nan", SECONDS),
        ("--switch-interval", "0", SECONDS),
        ("--switch-interval", "inf", SECONDS),
        ("--switch-interval", "5ms", SECONDS),
        ("--comm-grace-period", "-0.5", SECONDS_OR_ZERO),
        ("--comm-grace-period", "1e6", SECONDS_OR_ZERO),
        ("--comm-grace-period", "", SECONDS_OR_ZERO),
    ],
)
def test_a_wrong_value_is_refused_with_a_sentence(option, value, problem):
    """The line names the option, quotes the value and says what would be right."""
    result = run(option, value)
    assert result.returncode == 2
    assert result.stdout == ""
    usage, _, error = result.stderr.rstrip("\n").rpartition("\n")
    assert error == f"echokernel run: error: argument {option}: {value!r} {problem}"
    assert usage.startswith("usage: echokernel ")
    assert "error" not in usage
    assert "Traceback" not in usage


def test_the_values_at_the_edges_are_accepted():
    """``--help`` is processed last: an error in a value would have precedence."""
    result = run(
        *("--port-range", "1-65535", "--iopub-keepalive", "1,1,1", "--handshake-timeout", "0.001"),
        *("--switch-interval", "999999", "--comm-grace-period", "0", "--help"),
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("usage: echokernel ")
