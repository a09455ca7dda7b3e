"""The plot example's page in a real Chromium, over a real jupyter_server."""

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
    """The server as the example's README starts it."""
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
    opened.shows(plots=0, cursors=1)
    yield opened
    opened.end(request.node.name)
    for kernel in server.get("api/kernels"):
        server.rest("DELETE", f"api/kernels/{kernel['id']}")


class PlotPage(Page):
    """A person who looks at plot.html."""

    def __init__(self, driver, server):
        super().__init__(driver)
        self.server = server

    def open(self):
        self.driver.get(f"{self.server.url}static/plot.html?token={TOKEN}")

    def leave(self):
        self.driver.get("about:blank")

    def plot(self, code):
        field = self.driver.find_element(By.NAME, "code")
        field.clear()
        field.send_keys(code)
        self.driver.find_element(By.TAG_NAME, "button").click()

    def shows(self, plots, cursors):
        """Wait until so many plots are seen, and so many comms are open at the kernel."""
        line = f"plots (persistent): {plots}, cursors (ordinary): {cursors}"
        counted = f"document.getElementById('comms').innerText.endsWith('{line}')"
        drawn = f"document.querySelectorAll('#plots svg polyline').length === {plots}"
        self.wait_for(f"{counted} && {drawn}", line, PAGE_TIME)

    def drawings(self):
        """Return the plots' ids and points, in their order on the page."""
        return self.js(
            "return [...document.querySelectorAll('#plots > div')].map("
            "plot => [plot.id, plot.querySelector('polyline').getAttribute('points')])"
        )

    def point(self, at, plot=0):
        """Move the mouse to a point of a plot, as a part of its width."""
        seen = self.driver.find_elements(By.CSS_SELECTOR, "#plots svg")[plot]
        from_centre = round((at - 0.5) * seen.size["width"])
        # The pointer may be there already, from before the page was loaded: that is no move.
        moves = ActionChains(self.driver).move_to_element(seen)
        moves.move_to_element_with_offset(seen, from_centre, 1).perform()

    def says(self, text):
        self.wait_for(f"document.getElementById('said').innerText === {json.dumps(text)}", text)

    def cursor(self):
        """Return the id of this tab's cursor."""
        return self.js("return sessionStorage.cursor")

    def connection(self):
        """Return how a client without a server connects to the kernel."""
        [kernel] = self.server.get("api/kernels")
        return json.loads((self.server.runtime / f"kernel-{kernel['id']}.json").read_text())


def test_a_reload(page):
    """C3, C6: what was plotted is there again, each as it was; the cursor is still the same."""
    page.plot("3 1 4")
    page.shows(plots=1, cursors=1)
    page.plot("-10 30 20 0 10")
    page.shows(plots=2, cursors=1)
    drawn, cursor = page.drawings(), page.cursor()
    assert [points for _, points in drawn] == [
        "0,33.3333 200,100 400,0",
        "0,100 100,0 200,25 300,75 400,50",
    ]
    page.point(0.98, plot=0)
    page.says("value: 4")
    page.driver.refresh()
    page.shows(plots=2, cursors=1)
    assert page.drawings() == drawn
    assert page.cursor() == cursor
    page.point(0.53, plot=0)
    page.says("value: 1")
    page.point(0.27, plot=1)
    page.says("value: 30")
    page.plot("1 2")
    page.shows(plots=3, cursors=1)


def test_a_direct_client_leaves(page, context):
    """C4: whose subscription ends by name loses its cursor, a grace period later, and no plot.

    C2: the page's own is open for as long as the server is subscribed, whoever looks at it.
    """
    page.plot("3 1 4")
    page.shows(plots=1, cursors=1)
    [(plot, points)] = page.drawings()
    topics = (b"session.direct", b"kernel.", b"comm-mouse")
    direct = CommClient(context, page.connection(), topics, "direct")
    direct.open("mouse", "cursor")
    page.shows(plots=1, cursors=2)
    assert direct.result("mouse", "moved", plot, 0) == 3
    page.leave()
    onlooker = CommClient(context, page.connection())
    direct.close()
    onlooker.closed("mouse")
    assert "<svg" in onlooker.result(plot, "svg")
    onlooker.close()
    page.open()
    page.shows(plots=1, cursors=1)
    assert page.drawings() == [[plot, points]]
    page.point(0.02)
    page.says("value: 3")


def test_a_closed_tab(page):
    """C7: both show every plot, each has a cursor of its own; that of a closed tab stays.

    It is the server that is subscribed, and it does not tell the kernel which page has left.
    """
    page.plot("3 1 4")
    page.shows(plots=1, cursors=1)
    first = page.driver.current_window_handle
    page.driver.switch_to.new_window("tab")
    page.open()
    page.shows(plots=1, cursors=2)
    page.point(0.98)
    page.says("value: 4")
    page.plot("1 2")
    page.shows(plots=2, cursors=2)
    page.driver.close()
    page.driver.switch_to.window(first)
    page.shows(plots=2, cursors=2)
    page.point(0.98, plot=1)
    page.says("value: 2")


def test_a_mistake(page):
    """It is told, and the next cell is plotted."""
    page.plot("3 one 4")
    page.says("could not convert string to float: 'one'")
    page.plot("3 nan")
    page.says("a plot needs two numbers or more, none of them infinite")
    page.plot("3 1 4")
    page.shows(plots=1, cursors=1)


def test_a_wrong_token(driver, server):
    """It says what to do."""
    page = PlotPage(driver, server)
    driver.get(f"{server.url}static/plot.html?token=wrong")
    page.says("kernels: 403 Forbidden; is ?token= right?")
