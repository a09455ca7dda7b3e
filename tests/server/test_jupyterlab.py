"""JupyterLab in a real Chromium on kernels that were started by a handshake.

A person's clicks start everything; what came of it is read from JupyterLab's own model of the
notebook, which is what it would save: a cell that is out of view has no text on the page.
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
    """JupyterLab; a test's parameter is for its command line."""
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
    used = Lab(driver, server)
    yield used
    used.end(request.node.name)


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
    """A browser on JupyterLab; the notebook in front."""

    SEEN = "[document.body.innerText, window.cells?.(), window.connection?.()]"

    def __init__(self, driver, server):
        super().__init__(driver)
        self.server = server

    # --- what a person does ----------------------------------------------------------------------

    def open(self, notebook):
        """Open a notebook by its address, as from a bookmark; nothing else is open then."""
        self.show(notebook)
        self.await_page()
        self.await_kernel()

    def show(self, notebook):
        self.driver.get(f"{self.server.url}lab/tree/{notebook}?reset&token={TOKEN}")

    def open_tab(self, notebook):
        """Open it in another tab of the browser, which comes to the front."""
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
        """Read the dialog, click its button in colour, wait until it is gone."""
        # Its button is there before its text.
        find = "(window.dialog = document.querySelector('.jp-Dialog'))?.innerText"
        said = f"{json.dumps(words)}.every(word => dialog.innerText.includes(word))"
        self.wait_for(f"{find} && {said}", f"a dialog that says {words}")
        self.driver.find_element(By.CSS_SELECTOR, ".jp-Dialog .jp-mod-accept").click()
        self.wait_for("!dialog.isConnected", "the dialog is gone")

    def await_end(self, command, timeout=DEADLINE):
        ended = self.wait_for(f"ended['{command}']", f"{command} ends", timeout)
        assert ended == "ended"

    def start_all(self):
        self.js("jupyterapp.commands.execute('notebook:run-all-cells')")

    def run_all(self):
        """Use the menu's command; JupyterLab itself says when everything has been run."""
        self.start_all()
        self.await_end("notebook:run-all-cells")

    def restart_and_run_all(self):
        self.js("delete ended['notebook:restart-run-all']")
        self.click("notebook:restart-run-all")
        self.answer_dialog("Do you want to restart the kernel")
        self.await_end("notebook:restart-run-all")

    def write(self, sources):
        """Replace what the cells say."""
        self.js(
            "arguments[0].forEach((source, i) =>"
            " panel().content.model.cells.get(i).sharedModel.setSource(source))",
            sources,
        )

    # --- what a person sees ----------------------------------------------------------------------

    def cells(self):
        """Return (execution count, outputs) of the code cells; an output is a text or an error."""
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

    def make(kernel, *sources, title=None):
        name = f"{request.node.name}.ipynb"
        spec = {"name": kernel, "display_name": kernel}
        made = nbformat.v4.new_notebook(metadata={"kernelspec": spec})
        if title:
            made.cells.append(nbformat.v4.new_markdown_cell(title))
        made.cells += [nbformat.v4.new_code_cell(source) for source in sources]
        nbformat.write(made, server.root / name)
        return name

    return make


def numbered(texts):
    return [(number, [text]) for number, text in enumerate(texts, 1)]


def test_run_all(lab, notebook):
    """L1: JupyterLab opens a notebook; its kernel was started by a registration file.

    The README's picture is this test's: ``docs/jupyterlab.png``.
    """
    title = "# A kernel that echoes"
    said = ["hello from JupyterLab", "my ports are my own choice", "no output of mine is missed"]
    lab.open(notebook("echo-handshake", *said, title=title))
    assert os.path.basename(lab.process().cmdline()[-1]).startswith("registration-")
    lab.run_all()
    assert lab.cells() == numbered(said)
    poll_until(lambda: lab.texts() == said, "they are on the page as well")
    assert lab.status() == "idle"


def test_restart_and_run_all(lab, notebook):
    """L6, W6: twenty times; no output is missing when JupyterLab says that all cells have run."""
    lab.open(notebook("echo-handshake", *["once"] * 10))
    seen = {lab.process()}
    for turn in range(20):
        said = [f"run {turn}, cell {number}" for number in range(10)]
        lab.write(said)
        lab.restart_and_run_all()
        assert lab.cells() == numbered(said)
        assert lab.process() not in seen
        seen.add(lab.process())


def test_restart_and_run_all_while_a_port_is_stolen(lab, notebook, server):
    """L6: the page follows its kernel to the new port."""
    lab.open(notebook(server.scripted("robbed", THIEF, NO_GATE), *["say one"] * 3))
    for turn in range(2):
        said = [f"run {turn}, cell {number}" for number in range(3)]
        lab.write([f"say {text}" for text in said])
        port = lab.shell_port()
        lab.restart_and_run_all()
        assert lab.cells() == numbered([f"{text}\n" for text in said])
        assert lab.shell_port() != port


def test_refresh_while_a_cell_runs(lab, notebook):
    """W2: the page that comes back sees what the kernel does, and hears its next outputs."""
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
    # Not earlier: until a cell ends, JupyterLab does not say that another page has started it.
    lab.wait_for("kernel().status === 'idle'", "the cell has ended")
    assert lab.process() == process
    assert lab.cells() == [(1, ["before\n"]), (None, ["asleep\n"])]
    lab.write(["say again", "say and again"])
    lab.run_all()
    assert lab.cells() == [(3, ["again\n"]), (4, ["and again\n"])]


def test_interrupt(lab, notebook):
    """The toolbar's square button."""
    lab.open(notebook("scripted", "say one", "sleep 60", "say never"))
    lab.start_all()
    lab.wait_for("JSON.stringify(cells()).includes('asleep\\\\n')", "asleep")
    lab.click("notebook:interrupt-kernel")
    lab.await_end("notebook:run-all-cells")
    assert lab.cells() == [(1, ["one\n"]), (2, ["asleep\n", "KeyboardInterrupt"]), (None, [])]
    lab.write(["say one", "say two", "say three"])
    lab.run_all()
    assert lab.cells() == [(3, ["one\n"]), (4, ["two\n"]), (5, ["three\n"])]


def test_a_cell_that_crashes_its_kernel(lab, notebook):
    """L6: JupyterLab says that the kernel died; the next one is connected."""
    lab.open(notebook("scripted", "say hello", "crash"))
    old = lab.process()
    lab.start_all()
    lab.answer_dialog("appears to have died. It will restart automatically")
    lab.write(["say one", "say two"])
    lab.run_all()
    assert lab.cells() == numbered(["one\n", "two\n"])
    assert lab.process() != old


def test_a_kernel_that_dies_at_its_start(lab, notebook, server):
    """L4: the dialog shows the cause."""
    lab.show(notebook(server.dying(), "never"))
    lab.answer_dialog(*CAUSE)


# --- with our websocket connection and kernel manager --------------------------------------------


with_ours = pytest.mark.parametrize("server", [WELCOMING], ids=["welcoming"], indirect=True)


@with_ours
def test_restart_and_run_all_with_websockets_that_wait(lab, notebook):
    """S2, W6: the same."""
    test_restart_and_run_all(lab, notebook)


@with_ours
def test_two_tabs(lab, notebook):
    """W2, L6: both have their outputs; a restart by the one leaves the other connected."""
    said = ["one", "two", "three"]
    name = notebook("echo-handshake", *said)
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
    assert lab.cells() == numbered(said)
    lab.driver.switch_to.window(second)
    lab.wait_for("welcomes", "this tab is subscribed again")
    lab.run_all()
    assert lab.cells() == [(4, ["one"]), (5, ["two"]), (6, ["three"])]


COUNT_WELCOMES = """
window.welcomes = 0;
kernel().anyMessage.connect((_, {msg}) => { welcomes += msg.header.msg_type === "iopub_welcome"; });
"""
