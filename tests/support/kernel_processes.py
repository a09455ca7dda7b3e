"""The installed kernel in its own process, started with the command of its kernelspec."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

from jupyter_client.kernelspec import KernelSpecManager

from .waits import DEADLINE, poll_until

KEY = "a-very-secret-key-of-the-tests"


class KernelProcess:
    """A kernel's process."""

    def __init__(self, startup_file: Path | None, environment: dict, *arguments: str):
        argv = list(KernelSpecManager().get_kernel_spec("echo-handshake").argv)
        assert argv[0] == "python", "the wheel's kernelspec must not contain an absolute path"
        argv[0] = sys.executable  # as jupyter_client replaces a plain `python`
        argv = [word.replace("{connection_file}", str(startup_file)) for word in argv]
        if startup_file is None:
            argv = argv[:-2]
        self.popen = subprocess.Popen(
            [*argv, *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    @property
    def pid(self) -> int:
        return self.popen.pid

    def wait_for_end(self, timeout: float = DEADLINE) -> tuple[int, str]:
        """Return (exit status, stderr) when the process has ended; ``timeout`` in seconds."""
        _, stderr = self.popen.communicate(timeout=timeout)
        return self.popen.returncode, stderr

    def kill(self) -> None:
        if self.popen.poll() is None:
            os.killpg(self.popen.pid, signal.SIGKILL)
        self.popen.communicate(timeout=DEADLINE)


def ends_with_one_line(
    process: KernelProcess, status: int, *words: str, timeout: float = DEADLINE
) -> str:
    """Check that the process ends with one line on stderr, without traceback and key.

    Returns the line.
    """
    returncode, stderr = process.wait_for_end(timeout)
    lines = stderr.splitlines()
    assert len(lines) == 1, stderr
    assert returncode == status, stderr
    assert lines[0].startswith("echokernel: ")
    for word in words:
        assert word in lines[0], lines[0]
    assert KEY not in stderr
    assert "Traceback" not in stderr
    return lines[0]


def start_classic(folder: Path, start, *arguments: str, key: str = KEY, **keys) -> dict:
    """Start a kernel on a connection file with ports 0; return the file as the kernel rewrites it.

    ``start`` is the fixture of that name, or a function with the same arguments.
    """
    path = folder / "connection.json"
    path.write_text(json.dumps({"key": key, **keys}))
    path.chmod(0o600)
    start(path, *arguments)

    def read_ports():
        connection = json.loads(path.read_text())
        return connection if connection.get("shell_port") else None

    return poll_until(read_ports, "the kernel has rewritten its connection file")


def mode_of(path: Path) -> int:
    """Return the permission bits of a file."""
    return stat.S_IMODE(os.stat(path).st_mode)
