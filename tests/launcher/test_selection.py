"""The choice of the start mode: by configuration, version, module name and earlier starts (L7)."""

import json
import logging
import os
import sys
from importlib.metadata import version

import psutil
import pytest
from jupyter_client.provisioning import KernelProvisionerFactory
from support import KERNEL_PATH
from support.kernelspecs import handshake_metadata
from support.managers import (
    SPY,
    connect_client,
    echoes,
    fake_kernelspec,
    start_manager,
    stop_manager,
)
from support.ports import OWN_ADDRESS, free_port
from support.waits import poll_until, wait_for_exit
from traitlets.config import Config

from echokernel.conformance.raw_messages import CHANNELS


@pytest.fixture(autouse=True)
def default_provisioner(monkeypatch):
    """JUPYTER_DEFAULT_PROVISIONER_NAME=handshake-provisioner, as a user sets it."""
    monkeypatch.setenv("JUPYTER_DEFAULT_PROVISIONER_NAME", "handshake-provisioner")
    KernelProvisionerFactory.clear_instance()
    yield
    KernelProvisionerFactory.clear_instance()


@pytest.fixture
def learned(caplog):
    """Return a reader of the log lines (info or above) that report a learned start mode."""
    caplog.set_level(logging.INFO)

    def lines():
        return [r.getMessage() for r in caplog.records if "from now on" in r.getMessage()]

    return lines


def write_recording_kernelspec(kernelspecs, tmp_path, name, *kernel, **spec):
    """Write a kernelspec whose process records its startup file, then becomes ``kernel``.

    Returns a reader of the record.
    """
    record = tmp_path / f"{name}.startup"
    argv = [sys.executable, "-c", SPY, "{connection_file}", str(record), *kernel]
    kernelspecs(name, argv=argv, **spec)
    return lambda: json.loads(record.read_text())


IPYKERNEL = ["-m", "ipykernel_launcher", "-f", "{connection_file}"]
LONG_GUESS = Config(HandshakeProvisioner={"guess_timeout": 60})


def run_in_new_kernel(name, code, **settings):
    """Start, execute, shut down; return the text that the cell printed, and the manager."""
    manager = start_manager(name, **settings)
    client = connect_client(manager)
    messages = []
    client.execute_interactive(code, timeout=30, output_hook=messages.append)
    stop_manager(manager, client)
    return "".join(m["content"]["text"] for m in messages if m["msg_type"] == "stream"), manager


def test_rewrite_starts_unmodified_ipykernel(kernelspecs, tmp_path):
    """L7: the file has ports 0 and no `kernel_name`; ipykernel completes the ports."""
    startup = write_recording_kernelspec(
        kernelspecs, tmp_path, "py", *IPYKERNEL, metadata=handshake_metadata(handshake="rewrite")
    )
    manager = start_manager("py")
    keys = startup()["keys"]
    assert startup()["path"] == os.path.realpath(manager.connection_file)
    assert [keys[f"{channel}_port"] for channel in CHANNELS] == [0] * 5
    assert "kernel_name" not in keys
    with open(manager.connection_file) as file:
        written = json.load(file)
    assert written["kernel_name"] == "py"
    listening = {
        c.laddr.port
        for c in psutil.Process(manager.provisioner.pid).net_connections()
        if c.status == "LISTEN"
    }
    assert {written[f"{channel}_port"] for channel in CHANNELS} <= listening
    client = connect_client(manager)
    stop_manager(manager, client)


ENCRYPTS = tuple(map(int, version("ipykernel").split(".")[:2])) >= (7, 3)


@pytest.mark.parametrize(
    "settings",
    [
        {"transport": "ipc"},
        pytest.param(
            {"transport_encryption": "required"},
            marks=pytest.mark.skipif(not ENCRYPTS, reason="ipykernel encrypts from 7.3 on"),
        ),
    ],
)
def test_rewrite_with_ipc_and_with_curve(settings, kernelspecs, tmp_path):
    """L7, L8: rewrite works with them as far as ipykernel does; a restart keeps the ports."""
    argv = [sys.executable, *IPYKERNEL]
    metadata = {**handshake_metadata(handshake="rewrite"), "supported_encryption": ["curve"]}
    kernelspecs("py", argv=argv, metadata=metadata)
    if "transport" in settings:  # the path of a socket must be short
        settings = {**settings, "ip": str(tmp_path / "k")}
    manager = start_manager("py", **{"ip": OWN_ADDRESS, **settings})
    client = connect_client(manager)
    ports = manager.ports
    manager.restart_kernel(now=True)
    client.wait_for_ready(timeout=60)
    assert manager.ports == ports
    stop_manager(manager, client)


def test_a_kernel_that_dies_before_its_rewrite(kernelspecs):
    """L4: the launch fails immediately, with the cause."""
    argv = [sys.executable, "-c", "import sys; sys.exit('the cause')", "{connection_file}"]
    kernelspecs("dying", argv=argv, metadata=handshake_metadata(handshake="rewrite"))
    with pytest.raises(RuntimeError, match="exited with status 1 before it wrote") as caught:
        start_manager("dying")
    assert "the cause" in str(caught.value)


def test_the_installed_python3_is_started_by_rewrite(learned):
    """L7: with one environment variable, no port of ipykernel is chosen beforehand."""
    out, manager = run_in_new_kernel("python3", "print(6 * 7)", config=LONG_GUESS)
    assert out == "42\n"
    assert manager.provisioner.__class__.__name__ == "HandshakeProvisioner"
    run_in_new_kernel("python3", "1", config=LONG_GUESS)
    assert all("start mode rewrite works" in line for line in learned())
    assert len(learned()) <= 1, "logged once in a process"


def test_bash_kernel_is_started_by_rewrite(kernelspecs, learned):
    """L7: bash_kernel is by another author and uses ipykernel's app."""
    kernelspecs("bash", argv=["python", "-m", "bash_kernel", "-f", "{connection_file}"])
    out, _ = run_in_new_kernel("bash", "echo $((6 * 7))", config=LONG_GUESS)
    assert out == "42\n"
    [line] = learned()
    assert line == "bash: start mode rewrite works and is used from now on"


def test_an_unknown_kernel_is_started_classic(kernelspecs, tmp_path, learned):
    """L7: for a kernel without a known start mode, no other mode is tried first."""
    startup = write_recording_kernelspec(
        kernelspecs, tmp_path, "unknown", "-m", "echokernel", "-f", "{connection_file}"
    )
    manager = start_manager("unknown")
    file = tmp_path / "unknown.startup"
    poll_until(
        lambda: file.exists() and file.read_text().endswith("}"), "the startup file is recorded"
    )
    assert all(startup()["keys"][f"{channel}_port"] for channel in CHANNELS)
    client = connect_client(manager)
    assert echoes(client)
    stop_manager(manager, client)
    assert learned() == []


def test_a_module_in_rewriters_is_started_by_rewrite(kernelspecs, tmp_path):
    """L7 (ours): `c.HandshakeProvisioner.rewriters` is a setting of the application."""
    startup = write_recording_kernelspec(
        kernelspecs, tmp_path, "known", "-m", "echokernel", "-f", "{connection_file}"
    )
    config = Config(HandshakeProvisioner={"rewriters": ["echokernel"]})
    manager = start_manager("known", config=config)
    assert not any(startup()["keys"][f"{channel}_port"] for channel in CHANNELS)
    client = connect_client(manager)
    assert echoes(client)
    stop_manager(manager, client)


def test_the_version_alone_is_not_trusted(kernelspecs, tmp_path, learned):
    """L7: ipykernel that advertises 5.6 rewrites the registration file.

    It is then started by rewrite. Further starts use rewrite immediately.
    """
    startup = write_recording_kernelspec(
        kernelspecs, tmp_path, "overstated", *IPYKERNEL, kernel_protocol_version="5.6"
    )
    out, manager = run_in_new_kernel("overstated", "print(6 * 7)", config=LONG_GUESS)
    assert out == "42\n"
    assert "registration_port" not in startup()["keys"]
    [line] = learned()
    assert "does not support the handshake: it wrote its ports" in line
    assert "start mode rewrite works" in line
    assert manager.session.key.decode() not in line
    run_in_new_kernel("overstated", "1", config=LONG_GUESS)
    assert len(learned()) == 1
    assert manager.provisioner.process is None


@pytest.mark.parametrize(
    ("habits", "failure"),
    [
        (["at-registration-dies"], "exited with status 1 before it registered"),
        (["at-registration-waits"], "did not register its ports within 10 s"),
    ],
)
def test_a_kernel_without_the_advertised_handshake_is_started_classic(
    habits, failure, kernelspecs, tmp_path, learned
):
    """L7: classic is remembered, and the process of the first attempt ends."""
    name, notes = fake_kernelspec(
        kernelspecs, tmp_path / "notes", *habits, "hides-ports",
        config={"guess_timeout": 10 if "waits" in habits[0] else 60}, kernel_protocol_version="5.6",
    )  # fmt: skip
    manager = start_manager(name)
    first, second = notes()
    assert "registration_port" in first["keys"]
    assert all(second["keys"][f"{channel}_port"] for channel in CHANNELS)
    wait_for_exit(first["pid"])
    [line] = learned()
    assert (
        f"{name}: start mode classic works and is used from now on;"
        f" signed-frame failed: the kernel {failure}"
    ) in line
    stop_manager(manager, now=True)
    again = start_manager(name)
    assert len(poll_until(lambda: len(notes()) > 2 and notes(), "the second start")) == 3
    assert len(learned()) == 1
    stop_manager(again, now=True)


def test_a_kernel_that_dies_in_every_start_mode(kernelspecs):
    """L4, L7: the error names each mode that was tried, and no mode is learned."""
    argv = [sys.executable, "-c", "import sys; sys.exit('the cause')", "{connection_file}"]
    kernelspecs("dying", argv=argv, kernel_protocol_version="5.6")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="the cause") as caught:
            start_manager("dying")
        assert "tried: dying with start mode signed-frame, then classic" in str(caught.value)


def test_a_start_mode_that_has_worked_is_not_replaced(kernelspecs, tmp_path):
    """L7: after a successful handshake, a failed start is not tried in another mode."""
    switch = tmp_path / "die"
    name, notes = fake_kernelspec(
        kernelspecs, tmp_path / "notes", f"dies-if={switch}", config={},
        kernel_protocol_version="5.6",
    )  # fmt: skip
    stop_manager(start_manager(name), now=True)
    switch.touch()
    with pytest.raises(RuntimeError, match="exited with status 7 before it registered") as caught:
        start_manager(name)
    assert "classic" not in str(caught.value)
    assert len(notes()) == 1


@pytest.mark.parametrize("start_mode", ["signed-frame", "handshake-request"])
def test_a_configured_start_mode_is_never_replaced(start_mode, kernelspecs):
    """L7: ipykernel cannot register; the launcher reports that before the deadline."""
    argv = [sys.executable, *IPYKERNEL]
    kernelspecs("py", argv=argv, metadata=handshake_metadata(handshake=start_mode))
    with pytest.raises(RuntimeError, match=r"does not support the handshake.*`handshake: rewrite`"):
        start_manager("py")


def test_a_wrong_entry_in_rewriters_is_bounded(kernelspecs, tmp_path, learned):
    """L7: a kernel that does not write its ports is started again after `guess_timeout`.

    The second start is classic, and this mode is remembered.
    """
    code = "import sys\nfrom support.fake_kernel_process import main\nmain(*sys.argv[1:])"
    (tmp_path / "hider.py").write_text(code)
    notes = tmp_path / "notes"
    kernelspecs(
        "hider",
        argv=[sys.executable, "-m", "hider", "{connection_file}", str(notes), "hides-ports"],
        env={"PYTHONPATH": os.pathsep.join([str(tmp_path), KERNEL_PATH["PYTHONPATH"]])},
        metadata=handshake_metadata(rewriters=["hider"], guess_timeout=10),
    )
    manager = start_manager("hider")
    first, second = (json.loads(line)["keys"] for line in notes.read_text().splitlines())
    assert first["shell_port"] == 0
    assert second["shell_port"] == manager.shell_port
    [line] = learned()
    assert "did not write its ports within 10 s" in line
    stop_manager(manager, now=True)


def test_a_port_that_the_user_sets_is_used(kernelspecs, tmp_path):
    """L8: stock jupyter_client ignores such a port unless `cache_ports` is off."""
    name, _ = fake_kernelspec(kernelspecs, tmp_path / "notes", config={"handshake": "rewrite"})
    pinned = free_port()
    manager = start_manager(name, iopub_port=pinned)
    assert manager.iopub_port == pinned
    stop_manager(manager, now=True)
