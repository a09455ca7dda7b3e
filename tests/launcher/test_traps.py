"""The traps of stock Jupyter (LAUNCHER_NOTES.md), each with the test that fails without its remedy.

====  ============================================================================================
trap  test
====  ============================================================================================
1     test_restart: test_a_blocking_client_stays_connected (ports are kept),
      test_there_is_no_kernel_to_talk_to_while_it_restarts (they changed)
2     test_selection: test_ports_that_a_user_pinned_are_taken; here:
      test_trap_2_a_classic_kernel_gets_no_port_of_ours
3     test_restart: test_autorestart; here: test_trap_3_no_reader_sees_half_a_file
4     here: test_trap_4_no_file_in_the_current_directory; test_provisioner: test_start_new_kernel
5     test_selection: test_unmodified_ipykernel_by_rewrite
6     test_restart: test_an_autorestart_that_fails_ends_with_dead
7     test_failures: test_trap_7_*, test_cleanup_*; test_provisioner:
      test_a_start_that_is_cancelled
8     test_failures: test_trap_8_*, test_the_launcher_is_killed,
      test_the_event_loop_goes_away_during_a_launch
9     here: test_trap_9_where_the_provisioner_is_not_installed; test_stock_clients:
      test_echokernel_install (the install without it)
10    test_many
11    test_provisioner: test_strangers_do_not_end_or_stall_a_launch
12    test_provisioner: test_both_forms; test_xeus: test_xeus_python_registers_...
13    test_failures: test_trap_13_each_launch_has_an_id_of_its_own
14    runtime/iopub/test_welcome_wire, RawClient.expect_welcome (``parent_header`` is ``{}``)
15    test_selection: test_unmodified_ipykernel_by_rewrite,
      test_a_kernel_that_keeps_its_ports_to_itself
====  ============================================================================================
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


def test_trap_2_a_classic_kernel_gets_no_port_of_ours(kernelspecs, tmp_path):
    """L8: while ours restarts its ports are free, and jupyter_client must not hand them out."""
    name, _ = fake_kernelspec(kernelspecs, tmp_path / "notes")
    manager = start_manager(name)
    assert set(manager.ports) <= LocalPortCache.instance().currently_used_ports
    ports = manager.ports
    stop_manager(manager, now=True)
    assert not set(ports) & LocalPortCache.instance().currently_used_ports


@pytest.mark.parametrize(
    ("way", "expected"),
    [("signed-frame", ["missing", "complete"]), ("rewrite", ["complete"])],
)
def test_trap_3_no_reader_sees_half_a_file(way, expected, kernelspecs):
    """L5, H6: each read of the connection file during a restart gives all of it.

    After a handshake the kernel removes its file when it is shut down, and the file stays when it
    is there again. With `rewrite` it is the manager's, and always there. jupyter_client's own way
    removes it first.
    """
    argv = [sys.executable, "-m", "echokernel", "-f", "{connection_file}"]
    kernelspecs("echo", argv=argv, metadata=handshake_metadata(handshake=way))
    manager = start_manager("echo")
    path, seen = manager.connection_file, []
    looked, started, ended = threading.Event(), threading.Event(), threading.Event()

    def read():
        try:
            with open(path) as file:
                return "complete" if json.load(file)["shell_port"] else "without ports"
        except FileNotFoundError:
            return "missing"
        except ValueError:
            return "half"

    def read_all_the_time():
        while not ended.is_set():
            is_last = started.is_set()
            state = read()
            if seen[-1:] != [state]:
                seen.append(state)
            looked.set()
            if is_last:
                ended.set()

    manager.shutdown_kernel(restart=True)
    reading = threading.Thread(target=read_all_the_time)
    reading.start()
    try:
        assert looked.wait(DEADLINE)
        manager.start_kernel()
    finally:
        started.set()
        reading.join()
    stop_manager(manager)
    assert seen == expected


def test_trap_4_no_file_in_the_current_directory(tmp_path, monkeypatch, runtime_dir):
    """L5: `start_new_kernel` names no connection file; the runtime directory is where it goes."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    manager = start_manager("echo-handshake")
    folder, name = os.path.split(manager.connection_file)
    assert (folder, name) == (str(runtime_dir), f"kernel-{manager.kernel_id}.json")
    assert os.listdir(here) == []
    # And a restart still names the file that the kernel was given, not the one before.
    manager.restart_kernel(now=True)
    assert manager.connection_file == os.path.join(folder, name)
    stop_manager(manager)


def test_trap_9_where_the_provisioner_is_not_installed(kernelspecs):
    """What stock jupyter_client does there, and what a user can do (`--no-provisioner`)."""
    metadata = handshake_metadata()
    metadata["kernel_provisioner"]["provisioner_name"] = "handshake-provisioner-of-elsewhere"
    kernelspecs("hidden", argv=[sys.executable], metadata=metadata)
    assert "hidden" not in KernelSpecManager().get_all_specs()
    with pytest.raises(NoSuchKernel):
        KernelManager(kernel_name="hidden").start_kernel()
    code = "import jupyter_client as j; j.KernelManager().start_kernel()"
    done = run_python("-c", code, JUPYTER_DEFAULT_PROVISIONER_NAME="of-elsewhere")
    assert done.returncode != 0, "python3 is broken by it, too"
