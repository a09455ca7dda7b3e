"""A language that plots: a cell ``3 1 4 1 5`` is drawn, on comms that behave differently.

- ``plot``, persistent: the kernel opens it for each cell. The drawing is the kernel's, a page only
  shows it; it stays when every page is closed.
- ``cursor``, ordinary: a page opens it to tell where its mouse is. It makes no sense without the
  page, and ends with it.
"""

import comm

from echokernel.app import launch
from echokernel.kernelbase import Kernel
from echokernel.protocol.errors import CommDisconnected

WIDTH, HEIGHT = 400, 100


class PlotKernel(Kernel):
    implementation = "plot"
    implementation_version = "1"
    banner = "Plots numbers"
    language_info = {"name": "plot", "mimetype": "text/plain", "file_extension": ".plot"}

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.values = []
        self.cursors = {}
        comms = self.comm_manager
        comms.register_target("plot", lambda opened, message: opened.close(), persistent=True)
        comms.register_target("cursor", self.cursor_opened)

    async def do_execute(self, code, silent, store_history=True, user_expressions=None, **_):
        self.values = [float(word) for word in code.split()]
        plot = comm.create_comm(target_name="plot", data={"svg": draw(self.values)})
        plot.on_request("svg", lambda params: draw(self.values))  # what a new page asks for
        plot.on_request("zoom", lambda params: draw(self.values[: int(params[0])]))
        try:
            # Kernels ask, too: how wide is it over there? It ends, whatever becomes of the page.
            await plot.request("shown", timeout=5)
        except (CommDisconnected, TimeoutError) as nobody:
            self.log.info("the plot is not shown: %s", nobody)
        return {"status": "ok", "execution_count": self.execution_count,
                "payload": [], "user_expressions": {}}  # fmt: skip

    def cursor_opened(self, cursor, message):
        self.cursors[cursor.comm_id] = None

        def moved(params):
            at = int(params[0] / WIDTH * len(self.values))
            self.cursors[cursor.comm_id] = self.values[min(at, len(self.values) - 1)]
            return self.cursors[cursor.comm_id]

        cursor.on_request("moved", moved)
        cursor.on_close(lambda message: self.cursors.pop(cursor.comm_id))


def draw(values):
    top = max([*values, 1])
    step = WIDTH / max(len(values) - 1, 1)
    points = " ".join(f"{i * step:g},{HEIGHT - v / top * HEIGHT:g}" for i, v in enumerate(values))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}">'
        f'<polyline fill="none" stroke="teal" points="{points}"/></svg>'
    )


if __name__ == "__main__":
    launch(PlotKernel)
