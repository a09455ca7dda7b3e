"""What the core does about user code's output: nothing, it goes to the process's own streams.

`output.streams.PublishedOutput` takes the place of `PlainOutput` where output is published.
"""

from __future__ import annotations

import logging
import sys
from typing import Any

log = logging.getLogger("echokernel")


class PlainOutput:
    """Output that is not published."""

    def set_parent(self, message: dict[str, Any]) -> None:
        """Relate the output that is written from now on to the request ``message``."""

    def send_gathered(self) -> None:
        """Publish the text that has been printed, before something else is published."""

    def flush(self) -> None:
        """Flush the streams; user code may have replaced them by any object."""
        for stream in (sys.stdout, sys.stderr):
            try:
                if stream is not None:
                    stream.flush()
            except Exception as error:
                log.warning("cannot flush %r: %s", stream, error)
