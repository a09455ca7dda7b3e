"""Files that contain a key: read with a bound, written for their owner only, removed.

What a file means is decided in `protocol.startup`. A kernel that reads a half-written file fails to
start, so each file is written under another name and then renamed.
https://github.com/jupyter/jupyter_client/issues/861
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
"""Bytes. A startup file has about 500; ``-f /dev/zero`` must not exhaust the memory."""


def read_startup_file(name: str) -> StartupFile:
    """Read the file that ``-f`` names.

    Raises:
        StartupFileError: the file cannot be read or used (F3).
    """
    path = Path(name)
    if not path.exists() and path.name == name:
        # ipykernel also looks up a bare file name in the runtime directory (F5).
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
    """Return the folder of Jupyter's connection files."""
    from jupyter_core.paths import jupyter_runtime_dir

    return Path(jupyter_runtime_dir())


def write_private(path: str | os.PathLike[str], data: JsonObject) -> None:
    """Write a JSON file atomically, with mode 0600 from its creation (H6, L5).

    Args:
        path: of the file; missing folders are created.
        data: the content.

    Raises:
        OSError: the file cannot be written; ``path`` is unchanged.
    """
    target = Path(path)
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # mkstemp creates the file with mode 0600. `jupyter console --existing` looks for
    # `kernel-*.json`, and the dot hides the temporary file from it.
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=".tmp")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(data, file, indent=1)
        os.replace(temporary, target)
    except BaseException:
        os.unlink(temporary)
        raise


def prepare_folder(target: Path) -> None:
    """Create the folder of ``target``, and check that a file can be written there.

    Raises:
        OSError: no file can be written there.
    """
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # Only an attempt is reliable: permission bits do not apply to root or to a read-only mount.
    handle, probe = tempfile.mkstemp(dir=target.parent, prefix=".", suffix=".tmp")
    os.close(handle)
    os.unlink(probe)


class CleanupFiles:
    """The files that must not outlive the kernel; removed by the thread that ends the process."""

    def __init__(self) -> None:
        self._paths: set[str] = set()
        self._owner = os.getpid()
        # Reentrant: a signal handler can remove the files while the main thread adds one.
        self._lock = threading.RLock()

    def add(self, path: str | Path) -> None:
        """Remove ``path`` when the kernel ends, if the file exists then."""
        with self._lock:
            self._paths.add(str(path))

    def discard(self, path: str | Path) -> None:
        """Keep ``path`` when the kernel ends: undo `add`."""
        with self._lock:
            self._paths.discard(str(path))

    def remove(self) -> None:
        """Remove the files now. In a child that user code forked, this does nothing."""
        if os.getpid() != self._owner:
            return
        with self._lock:
            for path in self._paths:
                with contextlib.suppress(OSError):
                    os.unlink(path)
            self._paths.clear()
