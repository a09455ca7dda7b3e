"""A temporary home directory for everything that the suite starts.

Programs write into the home directory of their user without being asked: bash its history, IPython
its profile, matplotlib and fontconfig their caches, Chromium its crash reports. The suite starts
all of them, and must leave the user's own files alone.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

USER_HOME = "ECHOKERNEL_TEST_USER_HOME"
"""Environment variable with the user's home directory."""

ELSEWHERE = (
    *("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"),
    *("HISTFILE", "IPYTHONDIR", "MPLCONFIGDIR"),
    *("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR"),
)
"""Variables that name folders or files which would otherwise be in the home directory."""


def user_home() -> Path:
    return Path(os.environ[USER_HOME])


SETTINGS = (".config/pip", ".pip", "Library/Application Support/pip")
"""Folders that are copied: the package index that a user has set is used by the tests, too."""

BASHRC = "[ -t 0 ] && stty -echo\n"
"""Settings for bash: no echo, as metakernel and bash_kernel need it.

They start bash on a terminal whose echo they have turned off. In about 15 of 100 starts the echo is
on again when bash reads its first line (metakernel 1.0.7, pexpect 4.9, bash 5.2), and each cell is
repeated in its output. A user's own ``.bashrc`` hides this if it takes a while.
"""


class TemporaryHome:
    """The environment's home directory until `end`."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="ek-home-", ignore_cleanup_errors=True)
        self._before = dict(os.environ)
        os.environ[USER_HOME] = str(Path.home())
        os.environ["HOME"] = self._folder.name
        for name in ELSEWHERE:
            os.environ.pop(name, None)
        self._entries = set(os.listdir(user_home()))
        (Path.home() / ".bashrc").write_text(BASHRC)
        for settings in SETTINGS:
            if (user_home() / settings).is_dir():
                shutil.copytree(user_home() / settings, Path.home() / settings)

    def new_entries(self) -> list[str]:
        """Return what is in the user's home directory and was not there before."""
        return sorted(set(os.listdir(user_home())) - self._entries)

    def end(self) -> None:
        """Restore the environment; remove the temporary directory."""
        os.environ.clear()
        os.environ.update(self._before)
        self._folder.cleanup()
