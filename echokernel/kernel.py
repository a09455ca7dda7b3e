"""THE FILE YOU CHANGE: the echo language. Everything else serves any language.

Copy it, rename the class, describe your language, and run code in ``do_execute``. Each ``do_``
method may be ``async`` or not; leave one out and ipykernel's plain answer is given. To start
your kernel: ``echokernel.runtime.app.launch("your_package.kernel:YourKernel")``.
"""

import re
from collections import deque
from fnmatch import fnmatchcase

from . import __version__, echo_comms
from .runtime.kernelbase import Kernel


class EchoKernel(Kernel):
    """Says back what it is told."""

    implementation = "echokernel"
    implementation_version = __version__
    banner = "Echo: what you say comes back"
    language_info = {"name": "echo", "version": "1", "mimetype": "text/plain",
                     "file_extension": ".txt"}  # fmt: skip

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.cells = []  # (execution count, text) of each cell that asked to be remembered
        echo_comms.offer(self.comm_manager)  # leave it out if your language has no comms

    def do_execute(self, code, silent, store_history=True, user_expressions=None, **_):
        """Run one cell: publish its output, then return the reply's content."""
        if not silent and code:
            self.send_response(self.iopub_socket, "stream", {"name": "stdout", "text": code})
        if store_history:
            self.cells.append((self.execution_count, code))
        return {
            "status": "ok",
            "execution_count": self.execution_count,
            "payload": [],
            "user_expressions": {n: text(e) for n, e in (user_expressions or {}).items()},
        }

    def do_is_complete(self, code):
        return {"status": "complete"}  # whatever is said can be said back

    def do_complete(self, code, cursor_pos):
        """Offer the words of earlier cells that begin like the one at the cursor."""
        begun = re.search(r"\w*$", code[:cursor_pos])[0]
        words = {w for _, cell in self.cells for w in re.findall(r"\w+", cell)}
        return {
            "status": "ok",
            "matches": sorted(w for w in words if begun and w.startswith(begun)),
            "cursor_start": cursor_pos - len(begun),
            "cursor_end": cursor_pos,
            "metadata": {},
        }

    def do_inspect(self, code, cursor_pos, detail_level=0, omit_sections=()):
        """Show the last cell: all there is to know in this language."""
        return {"found": bool(self.cells), **text(self.cells[-1][1] if self.cells else None)}

    def do_history(self, hist_access_type, output=False, raw=True, start=0, stop=None, n=None,
                   pattern="*", unique=False, **_):  # fmt: skip
        """Return (session, line, text) of earlier cells; what came out is what went in."""
        found = self.cells
        if hist_access_type == "range":
            found = [(i, c) for i, c in found if start <= i and (stop is None or i < stop)]
        if hist_access_type == "search":
            found = [(i, c) for i, c in found if fnmatchcase(c, pattern)]
        if unique:
            found = list({c: (i, c) for i, c in found}.values())
        last = deque(found, maxlen=n)  # None: all
        return {"status": "ok", "history": [(0, i, (c, c) if output else c) for i, c in last]}


def text(said):
    """Wrap a text as the result of an expression or an inspection; None: nothing to show."""
    data = {} if said is None else {"text/plain": said}
    return {"status": "ok", "data": data, "metadata": {}}
