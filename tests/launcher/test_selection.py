"""Which way a kernel is started (L7): as configured, by number, by name, by what trying showed."""

import json
import logging
import os
import sys

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
def said(caplog):
    """Return the lines that the provisioner said at level info or above."""
    caplog.set_level(logging.INFO)

    def lines():
        return [r.getMessage() for r in caplog.records if "from now on" in r.getMessage()]

    return lines


def seen_by(kernelspecs, tmp_path, name, *kernel, **spec):
    """Make a kernelspec whose process first notes its startup file, then becomes ``kernel``."""
    seen = tmp_path / f"{name}.seen"
    argv = [sys.executable, "-c", SPY, "{connection_file}", str(seen), *kernel]
    kernelspecs(name, argv=argv, **spec)
    return lambda: json.loads(seen.read_text())


IPYKERNEL = ["-m", "ipykernel_launcher", "-f", "{connection_file}"]
PATIENT = Config(HandshakeProvisioner={"guess_timeout": 60})


def run_in_new_kernel(name, code, **settings):
    """Start, execute, shut down; return what the process's cell printed, and the manager."""
    manager = start_manager(name, **settings)
    client = connect_client(manager)
    heard = []
    client.execute_interactive(code, timeout=30, output_hook=heard.append)
    stop_manager(manager, client)
    return "".join(m["content"]["text"] for m in heard if m["msg_type"] == "stream"), manager


def test_unmodified_ipykernel_by_rewrite(kernelspecs, tmp_path):
    """L7, trap 15 and trap 5: ports 0 in its connection file, and no `kernel_name` until it is
    complete."""
    seen = seen_by(
        kernelspecs, tmp_path, "py", *IPYKERNEL, metadata=handshake_metadata(handshake="rewrite")
    )
    manager = start_manager("py")
    given = seen()["keys"]
    assert seen()["path"] == os.path.realpath(manager.connection_file)
    assert [given[f"{channel}_port"] for channel in CHANNELS] == [0] * 5
    assert "kernel_name" not in given
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


@pytest.mark.parametrize("settings", [{"transport": "ipc"}, {"transport_encryption": "required"}])
def test_rewrite_otherwise(settings, kernelspecs, tmp_path):
    """L7, L8: as far as ipykernel itself goes; ports are kept there, too."""
    argv = [sys.executable, *IPYKERNEL]
    metadata = {**handshake_metadata(handshake="rewrite"), "supported_encryption": ["curve"]}
    kernelspecs("py", argv=argv, metadata=metadata)
    if "transport" in settings:  # and a socket's path must be short
        settings = {**settings, "ip": str(tmp_path / "k")}
    manager = start_manager("py", **{"ip": OWN_ADDRESS, **settings})
    client = connect_client(manager)
    ports = manager.ports
    manager.restart_kernel(now=True)
    client.wait_for_ready(timeout=60)
    assert manager.ports == ports
    stop_manager(manager, client)


def test_rewrite_dies(kernelspecs):
    """L4 for this way, too: at once, and with the cause."""
    argv = [sys.executable, "-c", "import sys; sys.exit('the cause')", "{connection_file}"]
    kernelspecs("dying", argv=argv, metadata=handshake_metadata(handshake="rewrite"))
    with pytest.raises(RuntimeError, match="exited with status 1 before it wrote") as caught:
        start_manager("dying")
    assert "the cause" in str(caught.value)


def test_python3_as_it_is_installed(said):
    """L7, issue 4.6: one environment variable, and no port of ipykernel's is known too early."""
    out, manager = run_in_new_kernel("python3", "print(6 * 7)", config=PATIENT)
    assert out == "42\n"
    assert manager.provisioner.__class__.__name__ == "HandshakeProvisioner"
    run_in_new_kernel("python3", "1", config=PATIENT)
    assert all("start mode rewrite works" in line for line in said())
    assert len(said()) <= 1, "said once in a process"


def test_bash_kernel(kernelspecs, said):
    """L7: a kernel of another author that uses ipykernel's app."""
    kernelspecs("bash", argv=["python", "-m", "bash_kernel", "-f", "{connection_file}"])
    out, _ = run_in_new_kernel("bash", "echo $((6 * 7))", config=PATIENT)
    assert out == "42\n"
    [line] = said()
    assert line == "bash: start mode rewrite works and is used from now on"


def test_a_kernel_of_which_nothing_is_known(kernelspecs, tmp_path, said):
    """L7: the classic way, without trying anything; `rewriters` can say otherwise."""
    seen = seen_by(kernelspecs, tmp_path, "unknown", "-m", "echokernel", "-f", "{connection_file}")
    manager = start_manager("unknown")
    file = tmp_path / "unknown.seen"
    poll_until(
        lambda: file.exists() and file.read_text().endswith("}"), "its startup file is noted"
    )
    assert all(seen()["keys"][f"{channel}_port"] for channel in CHANNELS)
    client = connect_client(manager)
    assert echoes(client)
    stop_manager(manager, client)
    assert said() == []


def test_other_modules_can_be_known_to_rewrite(kernelspecs, tmp_path):
    """L7 (ours): a setting of the application, `c.HandshakeProvisioner.rewriters`."""
    seen = seen_by(kernelspecs, tmp_path, "known", "-m", "echokernel", "-f", "{connection_file}")
    config = Config(HandshakeProvisioner={"rewriters": ["echokernel"]})
    manager = start_manager("known", config=config)
    assert not any(seen()["keys"][f"{channel}_port"] for channel in CHANNELS)
    client = connect_client(manager)
    assert echoes(client)
    stop_manager(manager, client)


def test_the_number_alone_is_not_trusted(kernelspecs, tmp_path, said):
    """L7: ipykernel that says 5.6 rewrites the registration file: then it is started by rewrite,
    and from then on at once."""
    seen = seen_by(kernelspecs, tmp_path, "liar", *IPYKERNEL, kernel_protocol_version="5.6")
    out, manager = run_in_new_kernel("liar", "print(6 * 7)", config=PATIENT)
    assert out == "42\n"
    assert "registration_port" not in seen()["keys"]
    [line] = said()
    assert "does not support the handshake: it wrote its ports" in line
    assert "start mode rewrite works" in line
    assert manager.session.key.decode() not in line
    run_in_new_kernel("liar", "1", config=PATIENT)
    assert len(said()) == 1
    assert manager.provisioner.process is None


@pytest.mark.parametrize(
    ("habits", "what"),
    [
        (["at-registration-dies"], "exited with status 1 before it registered"),
        (["at-registration-waits"], "did not register its ports within 10 s"),
    ],
)
def test_a_number_that_promises_too_much(habits, what, kernelspecs, tmp_path, said):
    """L7: dies or stays silent: the classic way, remembered; nothing of the first try is left."""
    name, notes = fake_kernelspec(
        kernelspecs, tmp_path / "notes", *habits, "hides-ports",
        config={"guess_timeout": 10 if "waits" in habits[0] else 60}, kernel_protocol_version="5.6",
    )  # fmt: skip
    manager = start_manager(name)
    first, second = notes()
    assert "registration_port" in first["keys"]
    assert all(second["keys"][f"{channel}_port"] for channel in CHANNELS)
    wait_for_exit(first["pid"])
    [line] = said()
    assert (
        f"{name}: start mode classic works and is used from now on;"
        f" signed-frame failed: the kernel {what}"
    ) in line
    stop_manager(manager, now=True)
    again = start_manager(name)
    assert len(poll_until(lambda: len(notes()) > 2 and notes(), "the second start")) == 3
    assert len(said()) == 1
    stop_manager(again, now=True)


def test_a_kernel_that_dies_whichever_way(kernelspecs):
    """L4, L7: the error names all that was tried, and nothing is remembered."""
    argv = [sys.executable, "-c", "import sys; sys.exit('the cause')", "{connection_file}"]
    kernelspecs("dying", argv=argv, kernel_protocol_version="5.6")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="the cause") as caught:
            start_manager("dying")
        assert "tried: dying with start mode signed-frame, then classic" in str(caught.value)


def test_what_worked_once_is_no_guess_any_more(kernelspecs, tmp_path):
    """L7: a kernel that has registered before is not tried in another way when it fails."""
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


@pytest.mark.parametrize("way", ["signed-frame", "handshake-request"])
def test_what_is_configured_is_never_replaced(way, kernelspecs):
    """L7: and ipykernel, which cannot do it, is told from one that hangs, at once."""
    argv = [sys.executable, *IPYKERNEL]
    kernelspecs("py", argv=argv, metadata=handshake_metadata(handshake=way))
    with pytest.raises(RuntimeError, match=r"does not support the handshake.*`handshake: rewrite`"):
        start_manager("py")


def test_a_kernel_that_keeps_its_ports_to_itself(kernelspecs, tmp_path, said):
    """Trap 15: told to rewrite by a list that is wrong: bounded, then classic, remembered."""
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
    [line] = said()
    assert "did not write its ports within 10 s" in line
    stop_manager(manager, now=True)


def test_ports_that_a_user_pinned_are_taken(kernelspecs, tmp_path):
    """Trap 2: stock jupyter_client forgets them unless `cache_ports` is off."""
    name, _ = fake_kernelspec(kernelspecs, tmp_path / "notes", config={"handshake": "rewrite"})
    pinned = free_port()
    manager = start_manager(name, iopub_port=pinned)
    assert manager.iopub_port == pinned
    stop_manager(manager, now=True)
