"""The plot example's page in a real Chromium, on a real jupyter_server."""

import json
import shutil

import pytest
from support import CHECKOUT, optional
from support.browser import PAGE_TIME, Page, chromium
from support.comm_clients import CommClient
from support.servers import TOKEN, Server

By = optional.module("selenium.webdriver.common.by").By
ActionChains = optional.module("selenium.webdriver").ActionChains

pytestmark = pytest.mark.timeout(300)  # a browser on a slow machine

PLOT = CHECKOUT / "examples" / "plot_kernel"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """The server, started as the example's README describes."""
    static = f"--ServerApp.extra_static_paths=['{PLOT}']"
    folder = tmp_path_factory.mktemp("plot")
    started = Server(folder, "jupyter_server", static, PYTHONPATH=str(PLOT))
    shutil.copytree(PLOT / "kernelspec", started.data / "kernels" / "plot")
    yield started
    started.stop()


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture
def page(driver, server, request):
    """The page, on a kernel that it has started."""
    opened = PlotPage(driver, server)
    opened.open()
    opened.wait_for_counts(plots=0, cursors=1)
    yield opened
    opened.end(request.node.name)
    for kernel in server.get("api/kernels"):
        server.rest("DELETE", f"api/kernels/{kernel['id']}")


class PlotPage(Page):
    """A user of plot.html."""

    def __init__(self, driver, server):
        super().__init__(driver)
        self.server = server

    def open(self):
        self.driver.get(f"{self.server.url}static/plot.html?token={TOKEN}")

    def navigate_away(self):
        self.driver.get("about:blank")

    def plot(self, code):
        field = self.driver.find_element(By.NAME, "code")
        field.clear()
        field.send_keys(code)
        self.driver.find_element(By.TAG_NAME, "button").click()

    def wait_for_counts(self, plots, cursors):
        """Wait until so many plots are drawn, and so many comms are open in the kernel."""
        line = f"plots (persistent): {plots}, cursors (ordinary): {cursors}"
        counted = f"document.getElementById('comms').innerText.endsWith('{line}')"
        drawn = f"document.querySelectorAll('#plots svg polyline').length === {plots}"
        self.wait_for(f"{counted} && {drawn}", line, PAGE_TIME)

    def drawings(self):
        """Return the ids and points of the plots, in their order on the page."""
        return self.js(
            "return [...document.querySelectorAll('#plots > div')].map("
            "plot => [plot.id, plot.querySelector('polyline').getAttribute('points')])"
        )

    def point(self, at, plot=0):
        """Move the mouse to a point of a plot; ``at`` is a fraction of its width."""
        drawing = self.driver.find_elements(By.CSS_SELECTOR, "#plots svg")[plot]
        from_centre = round((at - 0.5) * drawing.size["width"])
        # The pointer can already be at this point, which would cause no event: move it twice.
        moves = ActionChains(self.driver).move_to_element(drawing)
        moves.move_to_element_with_offset(drawing, from_centre, 1).perform()

    def wait_for_message(self, text):
        self.wait_for(f"document.getElementById('message').innerText === {json.dumps(text)}", text)

    def cursor(self):
        """Return the id of this tab's cursor."""
        return self.js("return sessionStorage.cursor")

    def connection(self):
        """Return the content of the kernel's connection file, for a client without a server."""
        [kernel] = self.server.get("api/kernels")
        return json.loads((self.server.runtime / f"kernel-{kernel['id']}.json").read_text())


def test_a_reload_keeps_plots_and_cursor(page):
    """C3, C6: every plot is unchanged, and the tab uses its cursor again."""
    page.plot("3 1 4")
    page.wait_for_counts(plots=1, cursors=1)
    page.plot("-10 30 20 0 10")
    page.wait_for_counts(plots=2, cursors=1)
    drawn, cursor = page.drawings(), page.cursor()
    assert [points for _, points in drawn] == [
        "0,33.3333 200,100 400,0",
        "0,100 100,0 200,25 300,75 400,50",
    ]
    page.point(0.98, plot=0)
    page.wait_for_message("value: 4")
    page.driver.refresh()
    page.wait_for_counts(plots=2, cursors=1)
    assert page.drawings() == drawn
    assert page.cursor() == cursor
    page.point(0.53, plot=0)
    page.wait_for_message("value: 1")
    page.point(0.27, plot=1)
    page.wait_for_message("value: 30")
    page.plot("1 2")
    page.wait_for_counts(plots=3, cursors=1)


def test_a_presence_topic_ends_the_cursor_of_its_client(page, context):
    """C4: a grace period after its disconnection, the client's cursor is closed, but no plot.

    C2: the page's cursor stays open as long as the server is subscribed.
    """
    page.plot("3 1 4")
    page.wait_for_counts(plots=1, cursors=1)
    [(plot, points)] = page.drawings()
    topics = (b"session.direct", b"kernel.", b"comm-mouse")
    direct = CommClient(context, page.connection(), topics, "direct")
    direct.open("mouse", "cursor")
    page.wait_for_counts(plots=1, cursors=2)
    assert direct.result("mouse", "moved", plot, 0) == 3
    page.navigate_away()
    observer = CommClient(context, page.connection())
    direct.close()
    observer.closed("mouse")
    assert "<svg" in observer.result(plot, "svg")
    observer.close()
    page.open()
    page.wait_for_counts(plots=1, cursors=1)
    assert page.drawings() == [[plot, points]]
    page.point(0.02)
    page.wait_for_message("value: 3")


def test_a_closed_tab_closes_no_cursor(page):
    """C7: two tabs show every plot, with a cursor each; the cursor of a closed tab stays open.

    The server is the subscriber, and does not report to the kernel which tab was closed.
    """
    page.plot("3 1 4")
    page.wait_for_counts(plots=1, cursors=1)
    first = page.driver.current_window_handle
    page.driver.switch_to.new_window("tab")
    page.open()
    page.wait_for_counts(plots=1, cursors=2)
    page.point(0.98)
    page.wait_for_message("value: 4")
    page.plot("1 2")
    page.wait_for_counts(plots=2, cursors=2)
    page.driver.close()
    page.driver.switch_to.window(first)
    page.wait_for_counts(plots=2, cursors=2)
    page.point(0.98, plot=1)
    page.wait_for_message("value: 2")


def test_an_invalid_cell_is_reported(page):
    """The page shows the error, and the next cell is plotted."""
    page.plot("3 one 4")
    page.wait_for_message("could not convert string to float: 'one'")
    page.plot("3 nan")
    page.wait_for_message("a plot needs two numbers or more, none of them infinite")
    page.plot("3 1 4")
    page.wait_for_counts(plots=1, cursors=1)


def test_a_wrong_token_is_reported(driver, server):
    """The page states how to correct the address."""
    page = PlotPage(driver, server)
    driver.get(f"{server.url}static/plot.html?token=wrong")
    page.wait_for_message("kernels: 403 Forbidden; is ?token= right?")
