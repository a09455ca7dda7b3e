"""Files that hold a key: read with a bound, written atomically and for their owner only, removed.

A kernel that reads a file while it is being written fails to start (jupyter_client#861), so
everything is written beside its place and moved there.
"""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import threading
from pathlib import Path

from .protocol import startup
from .protocol.errors import StartupFileError
from .protocol.startup import StartupFile
from .protocol.wire import JsonObject

MAX_STARTUP_FILE = 1024 * 1024
"""Bytes; a startup file has about 500. ``-f /dev/zero`` must not fill the memory."""


def read_startup_file(name: str) -> StartupFile:
    """Read the file that ``-f`` names.

    Raises:
        StartupFileError: F3.
    """
    path = Path(name)
    if not path.exists() and path.name == name:
        # As in ipykernel, a bare name may also be that of a file in the runtime directory.
        path = runtime_dir() / name
    try:
        with path.open("rb") as file:
            text = file.read(MAX_STARTUP_FILE + 1)
    except (OSError, ValueError) as error:
        problem = getattr(error, "strerror", None) or str(error)
        raise StartupFileError(name, None, f"cannot be read: {problem}") from None
    if len(text) > MAX_STARTUP_FILE:
        raise StartupFileError(name, None, f"larger than {MAX_STARTUP_FILE} bytes")
    return startup.parse(text, str(path))


def runtime_dir() -> Path:
    """Return where Jupyter keeps connection files."""
    from jupyter_core.paths import jupyter_runtime_dir

    return Path(jupyter_runtime_dir())


def write_private(path: str | os.PathLike[str], data: JsonObject) -> None:
    """Write ``data`` as JSON to ``path``: mode 0600 from creation, atomic (L5, H6).

    Raises:
        OSError: the folder cannot be made or written; ``path`` is as it was.
    """
    target = Path(path)
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # mkstemp: 0600 from the first moment. The dot keeps it out of `kernel-*.json`, where
    # `--existing` would find it.
    handle, beside = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(data, file, indent=1)
        os.replace(beside, target)
    except BaseException:
        os.unlink(beside)
        raise


def prepare_folder(target: Path) -> None:
    """Make sure that a file can be put at ``target``.

    Raises:
        OSError: it cannot.
    """
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Only an attempt tells: permission bits say nothing to root, or on a read-only mount.
    handle, probe = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=".tmp")
    os.close(handle)
    os.unlink(probe)


class CleanupFiles:
    """Files that must not outlive the kernel; removed once, by the thread that ends it."""

    def __init__(self) -> None:
        self._paths: set[str] = set()
        self._owner = os.getpid()
        # Reentrant: a signal handler may remove them while the main thread adds one.
        self._lock = threading.RLock()

    def add(self, path: str | Path) -> None:
        """Remove ``path`` when the kernel ends, whether it is there by then or not."""
        with self._lock:
            self._paths.add(str(path))

    def discard(self, path: str | Path) -> None:
        """Take back `add`."""
        with self._lock:
            self._paths.discard(str(path))

    def remove(self) -> None:
        """Remove them now; not if a child that user code forked asks, e.g. killed by SIGTERM."""
        if os.getpid() != self._owner:
            return
        with self._lock:
            for path in self._paths:
                with contextlib.suppress(OSError):
                    os.unlink(path)
            self._paths.clear()
