"""Stock clients on echokernel's kernel: ``python docs/clients_table.py`` prints the table.

A cell is "yes" if the tests that are named here passed. They drive the installed program from
outside. A cell without tests is empty.

``python docs/clients_table.py REPORT`` runs no test: it reads a report of
``pytest --junitxml=REPORT``.
"""

import os
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).parents[1]
COLUMNS = {
    "starts": "starts by a handshake",
    "restarts": "its restarts",
    "killed": "kernel killed: the next one is connected",
    "stolen": "restart while a port is stolen",
    "cause": "says why a kernel died at its start",
}
CLIENTS = {  # distribution: (label, tests)
    "jupyter_console": (
        "`jupyter console`",
        {
            "starts": ["test_stock_clients::test_jupyter_console_starts_a_kernel_by_a_handshake"],
            "cause": ["test_stock_clients::test_jupyter_console_reports_why_its_kernel_died"],
        },
    ),
    "nbclient": (
        "nbclient, `jupyter execute`",
        {
            "starts": ["test_stock_clients::test_jupyter_execute_runs_every_cell"],
            "cause": ["test_notebook_tools::test_jupyter_execute_reports_why_its_kernel_died"],
        },
    ),
    "papermill": (
        "papermill",
        {
            "starts": ["test_notebook_tools::test_papermill_starts_a_kernel_by_a_handshake"],
            "cause": ["test_notebook_tools::test_papermill_reports_why_its_kernel_died"],
        },
    ),
    "nbmake": (
        "nbmake, pytest-xdist",
        {"starts": ["test_notebook_tools::test_one_variable_starts_every_kernel_of_nbmake"]},
    ),
    "voila": (
        "Voilà",
        {"starts": ["test_notebook_tools::test_voila_starts_a_kernel_for_each_visit"]},
    ),
    "jupyter_server": (
        "jupyter_server, REST and websocket",
        {
            "starts": [
                "test_jupyter_server::test_start_execute_and_shut_down",
                "test_jupyter_server::test_kernels_start_and_end_concurrently",
            ],
            "restarts": [
                "test_jupyter_server::test_websockets_stay_connected_after_a_restart",
                "test_jupyter_server::test_the_activity_monitor_follows_a_restart",
            ],
            "killed": [
                "test_jupyter_server::test_a_websocket_works_after_an_autorestart",
                "test_jupyter_server::test_supervision_ends_with_dead",
            ],
            "stolen": ["test_jupyter_server::test_a_restart_replaces_a_stolen_port"],
            "cause": [
                "test_jupyter_server::test_the_reply_for_a_session_reports_why_its_kernel_died"
            ],
        },
    ),
    "jupyterlab": (
        "JupyterLab, in Chromium",
        {
            "starts": ["test_jupyterlab::test_run_all_shows_every_output"],
            "restarts": ["test_jupyterlab::test_restart_and_run_all_loses_no_output"],
            "killed": ["test_jupyterlab::test_a_crashed_kernel_is_replaced"],
            "stolen": ["test_jupyterlab::test_restart_and_run_all_follows_a_stolen_port"],
            "cause": ["test_jupyterlab::test_a_dialog_reports_why_a_kernel_died_at_its_start"],
        },
    ),
}


def run(names, report):
    """Run the tests, and write their results into the file ``report``."""
    modules = {path.stem: path for path in (HERE / "tests").rglob("test_*.py")}
    nodes = [f"{modules[module]}::{test}" for module, _, test in (n.partition("::") for n in names)]
    subprocess.run(
        [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *nodes],
        cwd=HERE,
        env={**os.environ, "ECHOKERNEL_TEST_EVERYTHING": "1"},  # an absent program is a failure
        stdout=sys.stderr,
        check=False,
    )


def read(report):
    """Return {test: True if it passed with all of its parameters}."""
    passed = {}
    for case in ElementTree.parse(report).iter("testcase"):
        module = case.get("classname").rpartition(".")[2]
        name = f"{module}::{case.get('name').partition('[')[0]}"
        failed = any(case.find(kind) is not None for kind in ("failure", "error", "skipped"))
        passed[name] = passed.get(name, True) and not failed
    return passed


def cell(names, passed):
    """Return the text of the cell for these tests."""
    if not names:
        return ""
    return "yes" if all(passed[name] for name in names) else "no"


def main(report=None):
    names = {name for _, cells in CLIENTS.values() for tests in cells.values() for name in tests}
    if report is None:
        with TemporaryDirectory() as folder:
            report = Path(folder) / "report.xml"
            run(sorted(names), report)
            passed = read(report)
    else:
        passed = read(report)
    if unknown := names - set(passed):
        sys.exit(f"these tests were not run: {', '.join(sorted(unknown))}")
    print("|", *(f"| {label}" for label in COLUMNS.values()), "|")
    print("|---" * (len(COLUMNS) + 1) + "|")
    for distribution, (client, tests) in CLIENTS.items():
        cells = [cell(tests.get(column, []), passed) for column in COLUMNS]
        print(f"| {client} {version(distribution)}", *(f"| {text}" for text in cells), "|")
    return 0 if all(passed[name] for name in names) else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
