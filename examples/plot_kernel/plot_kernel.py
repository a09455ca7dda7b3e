"""A language that plots: a cell ``3 1 4 1 5`` is drawn, on comms that behave differently.

- ``plot``, persistent: the kernel opens it for each cell. The drawing is the kernel's, a page only
  shows it; it stays when every page is closed.
- ``cursor``, ordinary: a page opens it to tell where its mouse is. It makes no sense without the
  page, and ends when the page's subscription does.
"""

import math

import comm

from echokernel import CommDisconnected, Kernel, run_kernel

WIDTH, HEIGHT = 400, 100  # pixels


class PlotKernel(Kernel):
    implementation = "plot"
    implementation_version = "1"
    banner = "Plots numbers"
    language_info = {"name": "plot", "mimetype": "text/plain", "file_extension": ".plot"}

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.plots = {}  # id of each plot's comm: its values
        self.comm_manager.register_target("cursor", self.cursor_opened)

    async def do_execute(self, code, silent, store_history=True, user_expressions=None, **_):
        try:
            values = numbers(code)
        except ValueError as mistake:
            error = {"ename": "ValueError", "evalue": str(mistake), "traceback": [str(mistake)]}
            if not silent:
                self.send_response(self.iopub_socket, "error", error)
            return {"status": "error", "execution_count": self.execution_count, **error}
        if values:
            await self.plot(values)
        return {"status": "ok", "execution_count": self.execution_count,
                "payload": [], "user_expressions": {}}  # fmt: skip

    async def plot(self, values):
        plot = comm.create_comm(target_name="plot", data={"svg": draw(values)}, persistent=True)
        self.plots[plot.comm_id] = values
        plot.on_request("svg", lambda params: draw(values))  # what a page asks that comes later
        plot.on_close(lambda message: self.plots.pop(plot.comm_id))
        try:
            # Kernels ask, too: is it seen over there? It ends, whatever becomes of the page.
            await plot.request("shown", timeout=5)
        except (CommDisconnected, TimeoutError) as nobody:
            self.log.info("the plot is not shown: %s", nobody)

    def cursor_opened(self, cursor, message):
        def moved(params):
            plot, x = params
            return nearest(self.plots[plot], x)

        cursor.on_request("moved", moved)
        cursor.on_close(lambda message: self.log.info("the cursor's page has left"))


def numbers(code):
    """Read a cell."""
    values = [float(word) for word in code.split()]
    if len(values) == 1 or not all(map(math.isfinite, values)):
        raise ValueError("a plot needs two numbers or more, none of them infinite")
    return values


def step(values):
    """Return how many pixels apart they are drawn."""
    return WIDTH / (len(values) - 1)


def nearest(values, x):
    """Return the value that is drawn nearest to ``x``, in pixels."""
    at = round(x / step(values))
    return values[min(max(at, 0), len(values) - 1)]


def draw(values):
    low, high = min(values), max(values)
    scale = HEIGHT / (high - low or 1)
    x = step(values)
    points = " ".join(f"{i * x:g},{(high - v) * scale:g}" for i, v in enumerate(values))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}">'
        f'<polyline fill="none" stroke="teal" points="{points}"/></svg>'
    )


if __name__ == "__main__":
    run_kernel(PlotKernel)
