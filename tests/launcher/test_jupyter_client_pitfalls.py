"""Behaviour of jupyter_client that a provisioner must work around.

Other tests of this folder cover the behaviour that concerns restarts, failures or the start mode.
"""

import json
import os
import sys
import threading

import pytest
from jupyter_client import KernelManager
from jupyter_client.connect import LocalPortCache
from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel
from support.kernelspecs import handshake_metadata
from support.managers import fake_kernelspec, start_manager, stop_manager
from support.programs import run_python
from support.waits import DEADLINE


def test_the_ports_of_a_running_kernel_are_reserved(kernelspecs, tmp_path):
    """L8: jupyter_client must not give these ports to a classic kernel.

    During a restart they are free, and only jupyter_client's cache of used ports excludes them.
    """
    name, _ = fake_kernelspec(kernelspecs, tmp_path / "notes")
    manager = start_manager(name)
    assert set(manager.ports) <= LocalPortCache.instance().currently_used_ports
    ports = manager.ports
    stop_manager(manager, now=True)
    assert not set(ports) & LocalPortCache.instance().currently_used_ports


@pytest.mark.parametrize(
    ("start_mode", "expected"),
    [("signed-frame", ["missing", "complete"]), ("rewrite", ["complete"])],
)
def test_a_restart_never_exposes_a_partial_connection_file(start_mode, expected, kernelspecs):
    """L5, H6: each read of the connection file during a restart gives the complete file or none.

    After a handshake the kernel removes its file at its shutdown; the next file is complete when it
    appears. With `rewrite` the file belongs to the manager and always exists. jupyter_client by
    itself removes the file before each restart.
    """
    argv = [sys.executable, "-m", "echokernel", "-f", "{connection_file}"]
    kernelspecs("echo", argv=argv, metadata=handshake_metadata(handshake=start_mode))
    manager = start_manager("echo")
    path, states = manager.connection_file, []
    polled, started, ended = threading.Event(), threading.Event(), threading.Event()

    def read():
        try:
            with open(path) as file:
                return "complete" if json.load(file)["shell_port"] else "without ports"
        except FileNotFoundError:
            return "missing"
        except ValueError:
            return "half"

    def read_continuously():
        while not ended.is_set():
            is_last = started.is_set()
            state = read()
            if states[-1:] != [state]:
                states.append(state)
            polled.set()
            if is_last:
                ended.set()

    manager.shutdown_kernel(restart=True)
    reading = threading.Thread(target=read_continuously)
    reading.start()
    try:
        assert polled.wait(DEADLINE)
        manager.start_kernel()
    finally:
        started.set()
        reading.join()
    stop_manager(manager)
    assert states == expected


def test_no_file_is_written_into_the_current_directory(tmp_path, monkeypatch, runtime_dir):
    """L5: `start_new_kernel` names no connection file; it is written into the runtime directory."""
    current = tmp_path / "current"
    current.mkdir()
    monkeypatch.chdir(current)
    manager = start_manager("echo-handshake")
    folder, name = os.path.split(manager.connection_file)
    assert (folder, name) == (str(runtime_dir), f"kernel-{manager.kernel_id}.json")
    assert os.listdir(current) == []
    # After a restart, the manager still names the kernel's file.
    manager.restart_kernel(now=True)
    assert manager.connection_file == os.path.join(folder, name)
    stop_manager(manager)


def test_a_provisioner_that_is_not_installed_hides_a_kernelspec(kernelspecs):
    """jupyter_client hides a kernelspec whose provisioner is not installed.

    `echokernel install --no-provisioner` writes a kernelspec without this problem.
    """
    metadata = handshake_metadata()
    metadata["kernel_provisioner"]["provisioner_name"] = "a-provisioner-that-is-not-installed"
    kernelspecs("hidden", argv=[sys.executable], metadata=metadata)
    assert "hidden" not in KernelSpecManager().get_all_specs()
    with pytest.raises(NoSuchKernel):
        KernelManager(kernel_name="hidden").start_kernel()
    code = "import jupyter_client as j; j.KernelManager().start_kernel()"
    completed = run_python("-c", code, JUPYTER_DEFAULT_PROVISIONER_NAME="not-installed")
    assert completed.returncode != 0, "the variable does not affect python3"
