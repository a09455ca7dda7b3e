"""Failed and aborted launches: no process, no file and no endless wait remains (L4, L8)."""

import asyncio
import contextlib
import os
import subprocess
import sys

import psutil
import pytest
from jupyter_client import AsyncKernelManager
from support.kernelspecs import handshake_metadata
from support.managers import fake_kernelspec, start_manager, stop_manager
from support.waits import (
    DEADLINE,
    poll_until,
    poll_until_async,
    read_when_written,
    wait_for_exit,
)


def test_only_the_first_registration_counts(kernelspecs, tmp_path):
    """L3: a kernel's second registration is ignored."""
    name, _ = fake_kernelspec(kernelspecs, tmp_path / "notes", "registers-twice")
    manager = start_manager(name)
    process = psutil.Process(manager.provisioner.pid)
    listening = {c.laddr.port for c in process.net_connections() if c.status == "LISTEN"}
    assert set(manager.ports) == listening, "the second registration named other ports"
    assert manager.is_alive()
    stop_manager(manager, now=True)


@pytest.mark.parametrize("habit", ["registers-for=another-launch", "bad-signature"])
def test_an_invalid_registration_does_not_end_the_wait(habit, kernelspecs, tmp_path, caplog):
    """L3, L4: a wrong id or signature is ignored, and the wait ends at its deadline."""
    config = {"handshake": "signed-frame", "launch_timeout": 10}
    name, notes = fake_kernelspec(kernelspecs, tmp_path / "notes", habit, config=config)
    with pytest.raises(RuntimeError, match="did not register its ports within 10 s"):
        start_manager(name)
    [note] = notes()
    wait_for_exit(note["pid"])
    assert "registration socket: ignored a message" in caplog.text
    assert note["keys"]["key"] not in caplog.text


def test_each_launch_has_its_own_kernel_id(kernelspecs, tmp_path):
    """L2, L6: a restart reuses the key and the registration socket, but not the id.

    A late registration of the old kernel is therefore not accepted.
    """
    name, notes = fake_kernelspec(kernelspecs, tmp_path / "notes")
    manager = start_manager(name)
    old = notes()[0]["keys"]
    manager.restart_kernel(now=True)
    new = notes()[1]["keys"]
    assert (old["key"], old["registration_port"]) == (new["key"], new["registration_port"])
    assert old["kernel_id"] != new["kernel_id"]
    assert old["kernel_id"].startswith(manager.kernel_id)
    stop_manager(manager, now=True)


SUSPEND = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"


def test_a_suspended_process_is_killed_at_the_deadline(kernelspecs, capfd):
    """L4: a process that SIGSTOP suspends does not exit; the launcher kills it at the deadline."""
    code = "import os, signal, sys; print('pid', os.getpid(), file=sys.stderr, flush=True);"
    argv = [sys.executable, "-c", code + SUSPEND, "{connection_file}"]
    config = {"handshake": "signed-frame", "launch_timeout": 8}
    kernelspecs("stopped", argv=argv, metadata=handshake_metadata(**config))
    with pytest.raises(RuntimeError, match="within 8 s") as caught:
        start_manager("stopped")
    wait_for_exit(int(caught.value.stderr_tail.split()[1]))


LAUNCHER = """
import sys, threading
from jupyter_client import KernelManager
from jupyter_client.provisioning import local_provisioner

def launch_and_block(*arguments, launch=local_provisioner.launch_kernel, **options):
    process = launch(*arguments, **options)
    threading.main_thread().join()
    return process

if sys.argv[2] == "spawning":
    local_provisioner.launch_kernel = launch_and_block
manager = KernelManager(kernel_name=sys.argv[1])
starting = threading.Thread(target=manager.start_kernel, daemon=True)
starting.start()
if sys.argv[2] == "started":
    starting.join()
    print(manager.provisioner.pid, flush=True)
sys.stdin.readline()
"""


def start_launcher(name, phase):
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, name, phase],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("phase", ["loading", "running"])
def test_a_kernel_ends_when_its_launcher_is_killed(phase, kernelspecs, runtime_dir, tmp_path):
    """H6, H7: the kernel exits and removes its file, also while its language loads."""
    argv = [sys.executable, "-m", "echokernel", "-f", "{connection_file}"]
    if phase == "loading":  # its ports are registered, and loading its language never ends
        argv[3:3] = ["--kernel-class", "endless_to_load:Nothing"]
        module = "import threading\nthreading.Event().wait()\n"
        (tmp_path / "endless_to_load.py").write_text(module)
    kernelspecs(
        "echo", argv=argv, env={"PYTHONPATH": str(tmp_path)},
        metadata=handshake_metadata(handshake="signed-frame"),
    )  # fmt: skip
    with start_launcher("echo", "started") as process:
        pid = int(process.stdout.readline())
        process.kill()
        wait_for_exit(pid)
        process.communicate()
    # The kernel removes only its own file, and the launcher cannot remove the registration file.
    poll_until(lambda: not list(runtime_dir.glob("kernel-*")), "the connection file is gone")
    for file in runtime_dir.glob("registration-*"):
        file.unlink()


@pytest.mark.parametrize("phase", ["starting", "spawning"])
@pytest.mark.parametrize("start_mode", ["signed-frame", "rewrite"])
def test_a_hanging_launch_ends_with_its_launcher(
    start_mode, phase, kernelspecs, tmp_path, runtime_dir
):
    """L8: a launcher that exits during a launch stops the process and removes the file.

    The process does not watch its parent. If the launch is blocked after the fork, the
    launcher has not stored the process yet.
    """
    hanging = "import sys, threading; open(sys.argv[2], 'w').write(str(__import__('os').getpid()));"
    pid_file = tmp_path / "pid"
    kernelspecs(
        "hanging",
        argv=[sys.executable, "-c", hanging + "threading.Event().wait()", "{connection_file}",
              str(pid_file)],
        metadata=handshake_metadata(handshake=start_mode),
    )  # fmt: skip
    with start_launcher("hanging", phase) as process:
        pid = int(read_when_written(pid_file))
        assert list(runtime_dir.iterdir()), "the launch has written a startup file"
        process.stdin.close()  # the program reads the end of its input and exits
        assert process.wait(20) == 0
        wait_for_exit(pid)
        assert list(runtime_dir.iterdir()) == []
        process.stdin = None
        process.communicate()


async def begin_hanging_start(kernelspecs, tmp_path, **config):
    """Begin a start that hangs; return (manager, task, pid)."""
    pid_file = tmp_path / "pid"
    code = "import sys, os; open(sys.argv[2], 'w').write(str(os.getpid()));"
    code += "import threading; threading.Event().wait()"
    kernelspecs(
        "hanging",
        argv=[sys.executable, "-c", code, "{connection_file}", str(pid_file)],
        metadata=handshake_metadata(**{"handshake": "signed-frame", **config}),
    )
    manager = AsyncKernelManager(kernel_name="hanging")
    starting = asyncio.ensure_future(manager.start_kernel())
    pid = await poll_until_async(lambda: pid_file.exists() and pid_file.read_text(), "its pid")
    return manager, starting, int(pid)


@pytest.mark.parametrize("start_mode", ["signed-frame", "rewrite"])
async def test_a_shutdown_during_a_launch_leaves_nothing(
    start_mode, kernelspecs, tmp_path, runtime_dir
):
    """L8: the start and a wait for `ready` end with an exception; no process and no file remain."""
    manager, starting, pid = await begin_hanging_start(kernelspecs, tmp_path, handshake=start_mode)
    ready = manager.ready
    # jupyter_client's shutdown replaces the future `ready`, and both the shutdown and the start set
    # the new one (manager.py, `in_pending_state`). The second of them raises InvalidStateError.
    with contextlib.suppress(asyncio.InvalidStateError):
        await manager.shutdown_kernel(now=True)
    with pytest.raises((RuntimeError, asyncio.InvalidStateError)):
        await starting
    with pytest.raises(RuntimeError, match="aborted"):
        await asyncio.wait_for(ready, 5)
    wait_for_exit(pid)
    assert list(runtime_dir.iterdir()) == []
    manager.context.destroy(linger=0)


async def test_a_cancelled_start_by_rewrite_leaves_nothing(kernelspecs, tmp_path, runtime_dir):
    """L8: the same as with a handshake (test_provisioner)."""
    manager, starting, pid = await begin_hanging_start(kernelspecs, tmp_path, handshake="rewrite")
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    with pytest.raises(RuntimeError, match="cancelled"):
        await asyncio.wait_for(manager.ready, 5)
    wait_for_exit(pid)
    assert list(runtime_dir.iterdir()) == []
    manager.context.destroy(linger=0)


async def test_no_other_start_mode_is_tried_after_a_cleanup(kernelspecs, tmp_path, runtime_dir):
    """L7, L8: a cleanup between two attempts ends the launch."""
    name, notes = fake_kernelspec(
        kernelspecs, tmp_path / "notes", "at-registration-waits",
        config={"guess_timeout": 10}, kernel_protocol_version="5.6",
    )  # fmt: skip
    manager = AsyncKernelManager(kernel_name=name)
    starting = asyncio.ensure_future(manager.start_kernel())
    [note] = await poll_until_async(lambda: (tmp_path / "notes").exists() and notes(), "a process")
    # The next attempt begins about 0.1 s after the end of this process.
    await asyncio.to_thread(wait_for_exit, note["pid"], 3 * DEADLINE)
    await manager.provisioner.cleanup()
    with pytest.raises(RuntimeError):
        await starting
    for note in notes():
        wait_for_exit(note["pid"])
    assert list(runtime_dir.iterdir()) == []
    manager.context.destroy(linger=0)


async def test_an_early_cleanup_prevents_the_launch(kernelspecs, tmp_path, runtime_dir):
    """L8: a cleanup before the launch removes the startup file, so no process is started."""
    name, _ = fake_kernelspec(kernelspecs, tmp_path / "notes")
    manager = AsyncKernelManager(kernel_name=name)
    command, arguments = await manager.pre_start_kernel()
    await manager.provisioner.cleanup()
    with pytest.raises(RuntimeError, match="aborted"):
        await manager._launch_kernel(command, **arguments)
    assert not (tmp_path / "notes").exists()
    assert list(runtime_dir.iterdir()) == []
    manager.context.destroy(linger=0)


def test_late_and_repeated_cleanups_do_not_end_the_kernel(kernelspecs, tmp_path):
    """L8: a cleanup after the launch (as by Voilà) or a further one leaves the kernel running."""
    name, _ = fake_kernelspec(kernelspecs, tmp_path / "notes")
    manager = start_manager(name)
    cleanup = manager.provisioner.cleanup
    for restart in (True, False, False):
        asyncio.run(cleanup(restart=restart))
    assert manager.is_alive()
    assert os.path.exists(manager.connection_file)
    manager.restart_kernel(now=True)
    assert manager.is_alive()
    stop_manager(manager, now=True)


def test_a_launch_whose_coroutine_is_closed_leaves_nothing(kernelspecs, tmp_path, runtime_dir):
    """L8: an event loop that is closed during a launch leaves no process and no file."""
    loop = asyncio.new_event_loop()
    manager, starting, pid = loop.run_until_complete(begin_hanging_start(kernelspecs, tmp_path))
    coroutine = starting.get_coro()
    coroutine.close()
    wait_for_exit(pid)
    assert list(runtime_dir.iterdir()) == []
    starting.cancel()
    loop.run_until_complete(asyncio.wait([starting]))
    loop.close()
    manager.context.destroy(linger=0)
