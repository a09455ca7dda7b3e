"""JupyterLab in a real Chromium on kernels that were started by a handshake.

Clicks start every action. Results are read from JupyterLab's model of the notebook, which it would
save: a cell outside the view has no text on the page.
"""

import json
import os

import nbformat
import pytest
from support import optional
from support.browser import PAGE_TIME, Page, chromium
from support.servers import CAUSE, NO_GATE, THIEF, TOKEN, WELCOMING, Server
from support.waits import DEADLINE, poll_until

optional.module("jupyterlab")
By = optional.module("selenium.webdriver.common.by").By

pytestmark = pytest.mark.timeout(600)  # a browser on a slow machine

LAB = ["--LabApp.expose_app_in_browser=True", "--LabApp.labextensions_path=[]"]
NO_NEWS = "@jupyterlab/apputils-extension/notification.jupyterlab-settings"


@pytest.fixture(scope="module")
def server(request, tmp_path_factory):
    """JupyterLab; a test's parameter adds arguments to its command line."""
    folder = tmp_path_factory.mktemp("lab")
    words = [*LAB, *getattr(request, "param", [])]
    settings = folder / "settings" / NO_NEWS
    settings.parent.mkdir(parents=True)
    settings.write_text('{"fetchNews": "false", "checkForUpdates": false}')
    started = Server(
        folder / "server", "jupyterlab", *words, JUPYTERLAB_SETTINGS_DIR=str(folder / "settings")
    )
    started.scripted()
    yield started
    started.stop()


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.fixture
def lab(driver, server, request):
    tab = Lab(driver, server)
    yield tab
    tab.end(request.node.name)


HELPERS = """
window.panel = () => [...jupyterapp.shell.widgets("main")][0];
window.kernel = () => panel().sessionContext.session?.kernel;
window.cells = () => panel().content.model.toJSON().cells;
window.connection = () => ({
  status: kernel()?.status, websocket: kernel()?.connectionStatus,
  session: kernel()?._kernelSession,
  unsent: kernel()?._pendingMessages?.map(message => message.header.msg_type),
});
window.ended = {};
jupyterapp.commands.commandExecuted.connect((_, {id, result}) => {
  ended[id] = null;
  result.then(() => { ended[id] = "ended"; }, error => { ended[id] = String(error); });
});
"""


class Lab(Page):
    """A browser on JupyterLab, with a notebook in front."""

    SHOWN = "[document.body.innerText, window.cells?.(), window.connection?.()]"

    def __init__(self, driver, server):
        super().__init__(driver)
        self.server = server

    # --- actions of a user -----------------------------------------------------------------------

    def open(self, notebook):
        """Open a notebook by its address, as from a bookmark; no other document is open then."""
        self.show(notebook)
        self.await_page()
        self.await_kernel()

    def show(self, notebook):
        self.driver.get(f"{self.server.url}lab/tree/{notebook}?reset&token={TOKEN}")

    def open_tab(self, notebook):
        """Open a notebook in a new browser tab, which becomes the front tab."""
        self.driver.switch_to.new_window("tab")
        self.open(notebook)

    def await_page(self):
        loaded = "!!document.querySelector('.jp-NotebookPanel .jp-Cell')"
        self.wait_for(loaded, "a notebook", PAGE_TIME)
        self.js(HELPERS)

    def await_kernel(self):
        connected = "panel().sessionContext.isReady && kernel()?.connectionStatus === 'connected'"
        self.wait_for(connected, "the kernel is connected")
        self.js("jupyterapp.shell.activateById(panel().id)")  # a new tab has no focus

    def click(self, command):
        """Click a button of the notebook's toolbar."""
        selector = f".jp-NotebookPanel:not(.lm-mod-hidden) [data-command='{command}']"
        self.driver.find_element(By.CSS_SELECTOR, selector).click()

    def answer_dialog(self, *words):
        """Wait for a dialog with these words, click its default button, wait until it closes."""
        # The button appears before the text.
        find = "(window.dialog = document.querySelector('.jp-Dialog'))?.innerText"
        contains_words = f"{json.dumps(words)}.every(word => dialog.innerText.includes(word))"
        self.wait_for(f"{find} && {contains_words}", f"a dialog with {words}")
        self.driver.find_element(By.CSS_SELECTOR, ".jp-Dialog .jp-mod-accept").click()
        self.wait_for("!dialog.isConnected", "the dialog closes")

    def await_end(self, command, timeout=DEADLINE):
        ended = self.wait_for(f"ended['{command}']", f"{command} ends", timeout)
        assert ended == "ended"

    def start_all(self):
        self.js("jupyterapp.commands.execute('notebook:run-all-cells')")

    def run_all(self):
        """Use the menu's command; it ends when JupyterLab has run all cells."""
        self.start_all()
        self.await_end("notebook:run-all-cells")

    def restart_and_run_all(self):
        self.js("delete ended['notebook:restart-run-all']")
        self.click("notebook:restart-run-all")
        self.answer_dialog("Do you want to restart the kernel")
        self.await_end("notebook:restart-run-all")

    def write(self, sources):
        """Replace the sources of the cells."""
        self.js(
            "arguments[0].forEach((source, i) =>"
            " panel().content.model.cells.get(i).sharedModel.setSource(source))",
            sources,
        )

    # --- results ---------------------------------------------------------------------------------

    def cells(self):
        """Return (execution count, outputs) of the code cells: texts, or names of errors."""
        return [
            (cell["execution_count"], [o.get("text", o.get("ename")) for o in cell["outputs"]])
            for cell in self.js("return cells()")
            if cell["cell_type"] == "code"
        ]

    def texts(self):
        """Return the outputs on the page."""
        return self.js(
            "return [...document.querySelectorAll('.jp-OutputArea-output')].map(e => e.innerText)"
        )

    def status(self):
        return self.js("return kernel().status")

    def process(self):
        return self.server.process(self.js("return kernel().id"))

    def shell_port(self):
        return self.server.ports(self.js("return kernel().id"))["shell_port"]


@pytest.fixture
def notebook(server, request):
    """Write a notebook: ``notebook(kernel, *sources)`` returns its name."""

    def write(kernel, *sources, title=None):
        name = f"{request.node.name}.ipynb"
        spec = {"name": kernel, "display_name": kernel}
        document = nbformat.v4.new_notebook(metadata={"kernelspec": spec})
        if title:
            document.cells.append(nbformat.v4.new_markdown_cell(title))
        document.cells += [nbformat.v4.new_code_cell(source) for source in sources]
        nbformat.write(document, server.root / name)
        return name

    return write


def numbered(texts):
    return [(number, [text]) for number, text in enumerate(texts, 1)]


def test_run_all_shows_every_output(lab, notebook):
    """L1: JupyterLab opens a notebook and starts its kernel with a registration file.

    This test takes the README's picture, ``docs/jupyterlab.png``.
    """
    title = "# A kernel that echoes"
    texts = ["hello from JupyterLab", "my ports are my own choice", "no output of mine is missed"]
    lab.open(notebook("echo-handshake", *texts, title=title))
    assert os.path.basename(lab.process().cmdline()[-1]).startswith("registration-")
    lab.run_all()
    assert lab.cells() == numbered(texts)
    poll_until(lambda: lab.texts() == texts, "the page shows the outputs")
    assert lab.status() == "idle"


def test_restart_and_run_all_loses_no_output(lab, notebook):
    """L6, W6: in twenty runs, no output is missing when JupyterLab has run all cells."""
    lab.open(notebook("echo-handshake", *["once"] * 10))
    seen = {lab.process()}
    for turn in range(20):
        texts = [f"run {turn}, cell {number}" for number in range(10)]
        lab.write(texts)
        lab.restart_and_run_all()
        assert lab.cells() == numbered(texts)
        assert lab.process() not in seen
        seen.add(lab.process())


def test_restart_and_run_all_follows_a_stolen_port(lab, notebook, server):
    """L6: the browser tab connects to the new port."""
    lab.open(notebook(server.scripted("robbed", THIEF, NO_GATE), *["say one"] * 3))
    for turn in range(2):
        texts = [f"run {turn}, cell {number}" for number in range(3)]
        lab.write([f"say {text}" for text in texts])
        port = lab.shell_port()
        lab.restart_and_run_all()
        assert lab.cells() == numbered([f"{text}\n" for text in texts])
        assert lab.shell_port() != port


def test_a_refreshed_tab_receives_further_outputs(lab, notebook):
    """W2: after a refresh, the tab shows the kernel's state and receives its outputs."""
    name = notebook("scripted", "say before", "sleep 60")
    lab.open(name)
    lab.start_all()
    lab.wait_for("JSON.stringify(cells()).includes('asleep\\\\n')", "asleep")
    lab.click("docmanager:save")
    lab.await_end("docmanager:save")
    process = lab.process()
    lab.driver.refresh()
    lab.await_page()
    lab.await_kernel()
    lab.click("notebook:interrupt-kernel")
    # No earlier state can be checked: JupyterLab does not show a running cell of another tab.
    lab.wait_for("kernel().status === 'idle'", "the cell has ended")
    assert lab.process() == process
    assert lab.cells() == [(1, ["before\n"]), (None, ["asleep\n"])]
    lab.write(["say again", "say and again"])
    lab.run_all()
    assert lab.cells() == [(3, ["again\n"]), (4, ["and again\n"])]


def test_the_interrupt_button(lab, notebook):
    """The toolbar's interrupt button ends the cell, and the kernel runs further cells."""
    lab.open(notebook("scripted", "say one", "sleep 60", "say never"))
    lab.start_all()
    lab.wait_for("JSON.stringify(cells()).includes('asleep\\\\n')", "asleep")
    lab.click("notebook:interrupt-kernel")
    lab.await_end("notebook:run-all-cells")
    assert lab.cells() == [(1, ["one\n"]), (2, ["asleep\n", "KeyboardInterrupt"]), (None, [])]
    lab.write(["say one", "say two", "say three"])
    lab.run_all()
    assert lab.cells() == [(3, ["one\n"]), (4, ["two\n"]), (5, ["three\n"])]


def test_a_crashed_kernel_is_replaced(lab, notebook):
    """L6: JupyterLab reports that the kernel died, and the next kernel is connected."""
    lab.open(notebook("scripted", "say hello", "crash"))
    old = lab.process()
    lab.start_all()
    lab.answer_dialog("appears to have died. It will restart automatically")
    lab.write(["say one", "say two"])
    lab.run_all()
    assert lab.cells() == numbered(["one\n", "two\n"])
    assert lab.process() != old


def test_a_dialog_reports_why_a_kernel_died_at_its_start(lab, notebook, server):
    """L4: JupyterLab's dialog contains the cause."""
    lab.show(notebook(server.dying(), "never"))
    lab.answer_dialog(*CAUSE)


# --- with echokernel's websocket connection and kernel manager -----------------------------------


with_welcoming_server = pytest.mark.parametrize(
    "server", [WELCOMING], ids=["welcoming"], indirect=True
)


@with_welcoming_server
def test_restart_and_run_all_loses_no_output_if_websockets_wait(lab, notebook):
    """S2, W6: websockets that wait for the welcome lose no output, either."""
    test_restart_and_run_all_loses_no_output(lab, notebook)


@with_welcoming_server
def test_two_tabs_stay_connected(lab, notebook):
    """W2, L6: each tab has its outputs; a restart in one tab leaves the other connected."""
    texts = ["one", "two", "three"]
    name = notebook("echo-handshake", *texts)
    lab.open(name)
    lab.run_all()
    process = lab.process()
    lab.open_tab(name)
    first, second = lab.driver.window_handles
    assert lab.process() == process
    lab.run_all()
    assert lab.cells() == [(4, ["one"]), (5, ["two"]), (6, ["three"])]
    lab.js(COUNT_WELCOMES)
    lab.driver.switch_to.window(first)
    lab.restart_and_run_all()
    assert lab.cells() == numbered(texts)
    lab.driver.switch_to.window(second)
    lab.wait_for("welcomes", "this tab is subscribed again")
    lab.run_all()
    assert lab.cells() == [(4, ["one"]), (5, ["two"]), (6, ["three"])]


COUNT_WELCOMES = """
window.welcomes = 0;
kernel().anyMessage.connect((_, {msg}) => { welcomes += msg.header.msg_type === "iopub_welcome"; });
"""
