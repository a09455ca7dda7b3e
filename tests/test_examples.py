"""The examples run as their READMEs say."""

from __future__ import annotations

import json
import shutil
import sys
import uuid
from pathlib import Path

import nbformat
import pytest
from comm_peers import CommClient
from conftest import start_classic
from nbclient import NotebookClient
from test_comms_jupyter import TOKEN, Page, Server

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Install an example's kernelspec for this test: ``install(folder, name)``."""
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))

    def install_one(folder, name):
        target = tmp_path / "jupyter" / "kernels" / name
        shutil.copytree(EXAMPLES / folder / "kernelspec", target)
        spec = json.loads((target / "kernel.json").read_text())
        assert spec["argv"][0] == "python"
        spec["argv"][0] = sys.executable  # as jupyter_client reads it, whatever is on PATH
        (target / "kernel.json").write_text(json.dumps(spec))

    return install_one


# --- IPython ------------------------------------------------------------------------------------


def test_the_ipython_notebook(install, monkeypatch):
    """ipywidgets in a notebook, on ipykernel's own class."""
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    install("ipython_kernel", "ipython-handshake")
    notebook = nbformat.read(EXAMPLES / "ipython_kernel" / "widgets.ipynb", as_version=4)
    NotebookClient(notebook, timeout=60).execute()
    _, made, looked = notebook.cells
    assert "application/vnd.jupyter.widget-view+json" in made.outputs[0].data
    assert looked.outputs[0].data["text/plain"] == "3"


# --- the plot kernel ----------------------------------------------------------------------------


async def test_plots_across_a_refresh(install, monkeypatch, tmp_path):
    """The page's part is played by a websocket; the server gives out the page itself."""
    monkeypatch.setenv("PYTHONPATH", str(EXAMPLES / "plot_kernel"))
    install("plot_kernel", "plot")
    server = Server(tmp_path, f"--ServerApp.extra_static_paths=['{EXAMPLES / 'plot_kernel'}']")
    try:
        page = server.text(f"static/plot.html?token={TOKEN}")
        assert page == (EXAMPLES / "plot_kernel" / "plot.html").read_text()
        kernel_id = server.call("POST", "api/kernels", {"name": "plot"})["id"]
        session = uuid.uuid4().hex
        async with Page(server, kernel_id, session) as page:
            await page.send("comm_open", {"comm_id": "mouse", "target_name": "cursor", "data": {}})
            await page.send("execute_request", {"code": "3 1 4", "silent": False})
            opened = (await page.next(lambda m: m["msg_type"] == "comm_open"))["content"]
            assert "<polyline" in opened["data"]["svg"]
            plot = opened["comm_id"]
            asked = await page.next(lambda m: m["content"].get("data", {}).get("method") == "shown")
            answer = {"jsonrpc": "2.0", "id": asked["content"]["data"]["id"], "result": True}
            await page.send("comm_msg", {"comm_id": plot, "data": answer})
            await page.next(lambda m: m["msg_type"] == "execute_reply")
        async with Page(server, kernel_id, session) as page:
            assert await page.comms() == {"mouse", plot}
            assert await page.answer_to(await page.ask(plot, "svg")) == opened["data"]["svg"]
            assert await page.answer_to(await page.ask("mouse", "moved", [399])) == 4
        server.call("DELETE", f"api/kernels/{kernel_id}")
    finally:
        server.end()


def test_the_cursor_ends_with_its_page(context, tmp_path, start):
    """C2, C3: without a server between: the plot stays, the cursor does not."""

    def start_it(path, *options):
        folder = str(EXAMPLES / "plot_kernel")
        start(path, "--kernel-class", "plot_kernel:PlotKernel", *options, PYTHONPATH=folder)

    connection = start_classic(tmp_path, start_it, "--comm-grace-period=0.3")
    stays = CommClient(context, connection)
    leaves = CommClient(context, connection, (b"session.them", b"kernel."), "them")
    leaves.open("mouse", "cursor")
    leaves.execute("3 1 4")
    plot = stays.next(lambda m: m["msg_type"] == "comm_open")["content"]["comm_id"]
    stays.answer(plot, stays.asked(plot)["id"], True)
    leaves.close()
    stays.closed("mouse")
    assert stays.comms() == {plot}
    assert "<svg" in stays.result(plot, "svg")
    stays.close()
