"""The examples, run as their READMEs describe."""

from __future__ import annotations

import shutil

import nbformat
from nbclient import NotebookClient
from support import CHECKOUT
from support.comm_clients import CommClient, Observer
from support.kernel_processes import start_classic

EXAMPLES = CHECKOUT / "examples"


# --- IPython ------------------------------------------------------------------------------------


def test_ipywidgets_work_on_ipythons_kernel_class(tmp_path, monkeypatch):
    """The example's notebook runs on ipykernel's own class."""
    monkeypatch.setenv("PYDEVD_DISABLE_FILE_VALIDATION", "1")
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    example = EXAMPLES / "ipython_kernel"
    installed = tmp_path / "jupyter" / "kernels" / "ipython-handshake"
    shutil.copytree(example / "kernelspec", installed)
    notebook = nbformat.read(example / "widgets.ipynb", as_version=4)
    NotebookClient(notebook, timeout=60).execute()
    _, slider, value = notebook.cells
    assert "application/vnd.jupyter.widget-view+json" in slider.outputs[0].data
    assert value.outputs[0].data["text/plain"] == "3"


# --- the plot kernel ----------------------------------------------------------------------------


def test_plots_survive_the_last_subscriber(context, tmp_path, start):
    """C2, C3: the plot stays, and the cursor is closed. test_plot_page.py uses a browser."""

    def start_plot_kernel(path, *options):
        folder = str(EXAMPLES / "plot_kernel")
        start(path, "--kernel-class", "plot_kernel:PlotKernel", *options, PYTHONPATH=folder)

    connection = start_classic(tmp_path, start_plot_kernel, "--comm-grace-period=0.3")
    observer = Observer(context, connection)
    page = CommClient(context, connection)
    page.open("mouse", "cursor")
    page.execute("3 1 4")
    opened = page.next(lambda m: m["msg_type"] == "comm_open")["content"]
    plot = opened["comm_id"]
    page.answer(plot, page.asked(plot)["id"], True)
    assert page.result("mouse", "moved", plot, 399) == 4
    page.close()
    observer.sees(plot)
    page = CommClient(context, connection)
    assert page.result(plot, "svg") == opened["data"]["svg"]
    page.close()
    observer.close()
