"""A language that plots: a cell ``3 1 4 1 5`` is drawn, on comms of two kinds.

- ``plot``, persistent: the kernel opens it for each cell. The kernel owns the drawing, and a page
  only shows it; the comm stays open when every page is closed.
- ``cursor``, ordinary: a page opens it to send the position of its mouse. The comm has no use
  without the page, and ends with the page's subscription.
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
        except ValueError as error:
            content = {"ename": "ValueError", "evalue": str(error), "traceback": [str(error)]}
            if not silent:
                self.send_response(self.iopub_socket, "error", content)
            return {"status": "error", "execution_count": self.execution_count, **content}
        if values:
            await self.plot(values)
        return {"status": "ok", "execution_count": self.execution_count,
                "payload": [], "user_expressions": {}}  # fmt: skip

    async def plot(self, values):
        plot = comm.create_comm(target_name="plot", data={"svg": draw(values)}, persistent=True)
        self.plots[plot.comm_id] = values
        plot.on_request("svg", lambda params: draw(values))  # for pages that open later
        plot.on_close(lambda message: self.plots.pop(plot.comm_id))
        try:
            # A kernel can send requests, too. This one ends even if the page is closed.
            await plot.request("shown", timeout=5)
        except (CommDisconnected, TimeoutError) as error:
            self.log.info("the plot is not shown: %s", error)

    def cursor_opened(self, cursor, message):
        def moved(params):
            plot, x = params
            return nearest(self.plots[plot], x)

        cursor.on_request("moved", moved)
        cursor.on_close(lambda message: self.log.info("the cursor's page is closed"))


def numbers(code):
    """Return the numbers in a cell."""
    values = [float(word) for word in code.split()]
    if len(values) == 1 or not all(map(math.isfinite, values)):
        raise ValueError("a plot needs two numbers or more, none of them infinite")
    return values


def step(values):
    """Return the distance of two values in the drawing, in pixels."""
    return WIDTH / (len(values) - 1)


def nearest(values, x):
    """Return the value whose place in the drawing is nearest to ``x``, in pixels."""
    index = round(x / step(values))
    return values[min(max(index, 0), len(values) - 1)]


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
