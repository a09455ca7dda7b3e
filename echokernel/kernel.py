"""THE FILE YOU CHANGE: the echo language. Everything else serves any language.

Copy it, rename the class, describe your language, and run code in ``do_execute``. Each ``do_``
method may be ``async`` or not; for a method that you leave out, ipykernel gives a plain reply.
To start your kernel: ``echokernel.run_kernel("your_package.kernel:YourKernel")``.
"""

import re
from collections import deque
from fnmatch import fnmatchcase

from echokernel import Kernel, __version__, echo_comms


class EchoKernel(Kernel):
    """Echoes each cell."""

    implementation = "echokernel"
    implementation_version = __version__
    banner = "Echo: each cell is printed"
    language_info = {"name": "echo", "version": "1", "mimetype": "text/plain",
                     "file_extension": ".txt", "pygments_lexer": "text"}  # fmt: skip

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.cells = []  # (execution count, text) of each cell that asked to be remembered
        echo_comms.register_targets(self.comm_manager)  # without comms: leave it out

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
        return {"status": "complete"}  # any text can be echoed

    def do_complete(self, code, cursor_pos):
        """Complete the word at the cursor with words of earlier cells."""
        prefix = re.search(r"\w*$", code[:cursor_pos])[0]
        words = {w for _, cell in self.cells for w in re.findall(r"\w+", cell)}
        return {
            "status": "ok",
            "matches": sorted(w for w in words if prefix and w.startswith(prefix)),
            "cursor_start": cursor_pos - len(prefix),
            "cursor_end": cursor_pos,
            "metadata": {},
        }

    def do_inspect(self, code, cursor_pos, detail_level=0, omit_sections=()):
        """Show the last cell: this language has nothing else to inspect."""
        return {"found": bool(self.cells), **text(self.cells[-1][1] if self.cells else None)}

    def do_history(self, hist_access_type, output=False, raw=True, start=0, stop=None, n=None,
                   pattern="*", unique=False, **_):  # fmt: skip
        """Return (session, line, text) of earlier cells; the output is the input."""
        cells = self.cells
        if hist_access_type == "range":
            cells = [(i, c) for i, c in cells if start <= i and (stop is None or i < stop)]
        if hist_access_type == "search":
            cells = [(i, c) for i, c in cells if fnmatchcase(c, pattern)]
        if unique:
            cells = list({c: (i, c) for i, c in cells}.values())
        last = deque(cells, maxlen=n)  # None: all
        return {"status": "ok", "history": [(0, i, (c, c) if output else c) for i, c in last]}


def text(value):
    """Wrap a text as the result of an expression or an inspection; None: an empty result."""
    data = {} if value is None else {"text/plain": value}
    return {"status": "ok", "data": data, "metadata": {}}
