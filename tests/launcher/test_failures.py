"""What a launch may meet, and what must not be left of it: no process, no file, no endless wait."""

import asyncio
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


def test_registers_twice(kernelspecs, tmp_path):
    """L3: the first registration counts."""
    name, _ = fake_kernelspec(kernelspecs, tmp_path / "notes", "registers-twice")
    manager = start_manager(name)
    process = psutil.Process(manager.provisioner.pid)
    listening = {c.laddr.port for c in process.net_connections() if c.status == "LISTEN"}
    assert set(manager.ports) == listening, "the second one named other ports"
    assert manager.is_alive()
    stop_manager(manager, now=True)


@pytest.mark.parametrize("habit", ["registers-for=somebody", "bad-signature"])
def test_registers_for_another(habit, kernelspecs, tmp_path, caplog):
    """L3, L4: nobody's registration; the launch that waits goes on to its deadline."""
    config = {"handshake": "signed-frame", "launch_timeout": 10}
    name, notes = fake_kernelspec(kernelspecs, tmp_path / "notes", habit, config=config)
    with pytest.raises(RuntimeError, match="did not register its ports within 10 s"):
        start_manager(name)
    [note] = notes()
    wait_for_exit(note["pid"])
    assert "registration socket: ignored a message" in caplog.text
    assert note["keys"]["key"] not in caplog.text


def test_trap_13_each_launch_has_an_id_of_its_own(kernelspecs, tmp_path):
    """Trap 13, L3: a restart reuses key and socket; a late registration must not count."""
    name, notes = fake_kernelspec(kernelspecs, tmp_path / "notes")
    manager = start_manager(name)
    old = notes()[0]["keys"]
    manager.restart_kernel(now=True)
    new = notes()[1]["keys"]
    assert (old["key"], old["registration_port"]) == (new["key"], new["registration_port"])
    assert old["kernel_id"] != new["kernel_id"]
    assert old["kernel_id"].startswith(manager.kernel_id)
    stop_manager(manager, now=True)


STOPPED = "import os, signal; os.kill(os.getpid(), signal.SIGSTOP)"


def test_is_stopped(kernelspecs, capfd):
    """L4: a process that is stopped does not end; the deadline ends it."""
    code = "import os, signal, sys; print('pid', os.getpid(), file=sys.stderr, flush=True);"
    argv = [sys.executable, "-c", code + STOPPED, "{connection_file}"]
    config = {"handshake": "signed-frame", "launch_timeout": 8}
    kernelspecs("stopped", argv=argv, metadata=handshake_metadata(**config))
    with pytest.raises(RuntimeError, match="within 8 s") as caught:
        start_manager("stopped")
    wait_for_exit(int(caught.value.stderr_tail.split()[1]))


LAUNCHER = """
import sys, threading
from jupyter_client import KernelManager
from jupyter_client.provisioning import local_provisioner

def without_a_turn(*words, launch=local_provisioner.launch_kernel, **more):
    process = launch(*words, **more)
    threading.main_thread().join()
    return process

if sys.argv[2] == "spawning":
    local_provisioner.launch_kernel = without_a_turn
manager = KernelManager(kernel_name=sys.argv[1])
starting = threading.Thread(target=manager.start_kernel, daemon=True)
starting.start()
if sys.argv[2] == "started":
    starting.join()
    print(manager.provisioner.pid, flush=True)
sys.stdin.readline()
"""


def launcher(name, until):
    return subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, name, until],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


@pytest.mark.parametrize("until", ["loading", "running"])
def test_the_launcher_is_killed(until, kernelspecs, runtime_dir, tmp_path):
    """Trap 8, H7: no orphan, no connection file; while the language loads, and when it runs."""
    argv = [sys.executable, "-m", "echokernel", "-f", "{connection_file}"]
    if until == "loading":  # its ports are registered, and its language loads for ever
        argv[3:3] = ["--kernel-class", "endless_to_load:Nothing"]
        module = "import threading\nthreading.Event().wait()\n"
        (tmp_path / "endless_to_load.py").write_text(module)
    kernelspecs(
        "echo", argv=argv, env={"PYTHONPATH": str(tmp_path)},
        metadata=handshake_metadata(handshake="signed-frame"),
    )  # fmt: skip
    with launcher("echo", "started") as process:
        pid = int(process.stdout.readline())
        process.kill()
        wait_for_exit(pid)
        process.communicate()
    # The launcher could not remove its own; the kernel removes what it has written.
    poll_until(lambda: not list(runtime_dir.glob("kernel-*")), "the connection file is gone")
    for left in runtime_dir.glob("registration-*"):
        left.unlink()


@pytest.mark.parametrize("until", ["starting", "spawning"])
@pytest.mark.parametrize("way", ["signed-frame", "rewrite"])
def test_trap_8_the_launcher_ends_while_a_launch_hangs(
    way, until, kernelspecs, tmp_path, runtime_dir
):
    """Trap 8: a process of which nobody else knows, and that watches no parent, is swept away;
    also one whose launcher's thread had no turn since it was started."""
    hanging = "import sys, threading; open(sys.argv[2], 'w').write(str(__import__('os').getpid()));"
    pid_file = tmp_path / "pid"
    kernelspecs(
        "hanging",
        argv=[sys.executable, "-c", hanging + "threading.Event().wait()", "{connection_file}",
              str(pid_file)],
        metadata=handshake_metadata(handshake=way),
    )  # fmt: skip
    with launcher("hanging", until) as process:
        pid = int(read_when_written(pid_file))
        assert list(runtime_dir.iterdir()), "there is a file to sweep away"
        process.stdin.close()  # and so the program ends as programs do
        assert process.wait(20) == 0
        wait_for_exit(pid)
        assert list(runtime_dir.iterdir()) == []
        process.stdin = None
        process.communicate()


async def hanging(kernelspecs, tmp_path, **config):
    """Begin a start that hangs; return (manager, the task, the process's pid)."""
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


@pytest.mark.parametrize("way", ["signed-frame", "rewrite"])
async def test_trap_7_a_shutdown_during_the_launch(way, kernelspecs, tmp_path, runtime_dir):
    """Trap 7: the wait ends with an exception, also for who waits for `ready`; nothing is left."""
    manager, starting, pid = await hanging(kernelspecs, tmp_path, handshake=way)
    ready = manager.ready
    await manager.shutdown_kernel(now=True)
    # jupyter_client's shutdown has put another future in the place of the start's `ready`; that
    # the start then cannot set it, is what it raises.
    with pytest.raises((RuntimeError, asyncio.InvalidStateError)):
        await starting
    with pytest.raises(RuntimeError, match="aborted"):
        await asyncio.wait_for(ready, 5)
    wait_for_exit(pid)
    assert list(runtime_dir.iterdir()) == []
    manager.context.destroy(linger=0)


async def test_trap_7_a_start_by_rewrite_that_is_cancelled(kernelspecs, tmp_path, runtime_dir):
    """Trap 7: as test_provisioner has it for the handshake."""
    manager, starting, pid = await hanging(kernelspecs, tmp_path, handshake="rewrite")
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    with pytest.raises(RuntimeError, match="cancelled"):
        await asyncio.wait_for(manager.ready, 5)
    wait_for_exit(pid)
    assert list(runtime_dir.iterdir()) == []
    manager.context.destroy(linger=0)


async def test_no_other_way_is_tried_after_a_cleanup(kernelspecs, tmp_path, runtime_dir):
    """L7, L8: what was given up is not begun again in another way, just when one has failed."""
    name, notes = fake_kernelspec(
        kernelspecs, tmp_path / "notes", "at-registration-waits",
        config={"guess_timeout": 10}, kernel_protocol_version="5.6",
    )  # fmt: skip
    manager = AsyncKernelManager(kernel_name=name)
    starting = asyncio.ensure_future(manager.start_kernel())
    [note] = await poll_until_async(lambda: (tmp_path / "notes").exists() and notes(), "a process")
    # Between its end and the next attempt there are some 0.1 s.
    await asyncio.to_thread(wait_for_exit, note["pid"], 3 * DEADLINE)
    await manager.provisioner.cleanup()
    with pytest.raises(RuntimeError):
        await starting
    for note in notes():
        wait_for_exit(note["pid"])
    assert list(runtime_dir.iterdir()) == []
    manager.context.destroy(linger=0)


async def test_cleanup_between_the_two_halves_of_a_start(kernelspecs, tmp_path, runtime_dir):
    """L8: early: nothing is started on a file that is gone."""
    name, _ = fake_kernelspec(kernelspecs, tmp_path / "notes")
    manager = AsyncKernelManager(kernel_name=name)
    command, arguments = await manager.pre_start_kernel()
    await manager.provisioner.cleanup()
    with pytest.raises(RuntimeError, match="aborted"):
        await manager._launch_kernel(command, **arguments)
    assert not (tmp_path / "notes").exists()
    assert list(runtime_dir.iterdir()) == []
    manager.context.destroy(linger=0)


def test_cleanup_late_and_twice(kernelspecs, tmp_path):
    """L8, trap 7: right after the launch (as Voilà does) and more than once; it runs on."""
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


def test_the_event_loop_goes_away_during_a_launch(kernelspecs, tmp_path, runtime_dir):
    """Trap 8: a coroutine that nobody runs any more; its process and its file end with it."""
    loop = asyncio.new_event_loop()
    manager, starting, pid = loop.run_until_complete(hanging(kernelspecs, tmp_path))
    waiting = starting.get_coro()
    waiting.close()
    wait_for_exit(pid)
    assert list(runtime_dir.iterdir()) == []
    starting.cancel()
    loop.run_until_complete(asyncio.wait([starting]))
    loop.close()
    manager.context.destroy(linger=0)
