"""The suite leaves the user's home directory alone."""

import uuid
from pathlib import Path

import psutil
from support.cells import run_cell, start_kernel_class
from support.home import TemporaryHome, user_home
from support.waits import wait_for_exit


def history_in(home):
    file = home / ".bash_history"
    return file.read_text(errors="replace") if file.exists() else ""


def test_bash_keeps_its_history_in_the_temporary_home(context, tmp_path, start):
    """The shell behind bash_kernel appends its cells to a history when it ends."""
    cell = f"echo {uuid.uuid4()}"
    client = start_kernel_class("bash_kernel.kernel:BashKernel", context, tmp_path, start)
    run_cell(client, cell)
    shells = psutil.Process(client.process.pid).children(recursive=True)
    client.shut_down()
    client.close()
    client.process.wait_for_end()
    for shell in shells:
        wait_for_exit(shell.pid)
    assert cell in history_in(Path.home())
    assert cell not in history_in(user_home())


def test_the_home_of_this_session():
    assert Path.home().name.startswith("ek-home-")
    assert Path.home() != user_home()


def test_an_entry_in_the_users_home_is_found(tmp_path, monkeypatch):
    """What conftest.py reports at the end of the session."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "settings"))
    home = TemporaryHome()
    assert user_home() == tmp_path
    (Path.home() / ".in-the-temporary-one").touch()
    (tmp_path / ".in-the-users").touch()
    assert home.new_entries() == [".in-the-users"]
    home.end()
    assert Path.home() == tmp_path
