"""Encryption, ipc, other addresses and port ranges, from the launcher to the kernel (L8)."""

import json
import socket
import sys

import psutil
import pytest
import zmq
from jupyter_client.localinterfaces import public_ips
from support.kernel_processes import ends_with_one_line
from support.kernelspecs import handshake_metadata
from support.managers import (
    SPY,
    connect_client,
    echoes,
    fake_kernelspec,
    start_manager,
    stop_manager,
)
from support.ports import free_range
from support.waits import read_when_written


@pytest.fixture
def spied(kernelspecs, tmp_path):
    """Write an echo kernelspec with these settings; its process records its startup file."""

    def write(*, encryption=("curve",), **config):
        record = tmp_path / "startup.json"
        kernelspecs(
            "spied",
            argv=[sys.executable, "-c", SPY, "{connection_file}", str(record), "-m", "echokernel",
                  "-f", "{connection_file}"],
            metadata={**handshake_metadata(**{"handshake": "signed-frame", **config}),
                      "supported_encryption": list(encryption)},
        )  # fmt: skip
        return lambda: json.loads(record.read_text())["keys"]

    return write


@pytest.mark.parametrize(
    ("policy", "encryption", "encrypted"),
    [("disabled", ["curve"], False), ("auto", ["curve"], True), ("auto", [], False),
     ("required", ["curve"], True)],
)  # fmt: skip
@pytest.mark.parametrize("form", ["signed-frame", "handshake-request"])
def test_policy_and_kernelspec_decide_about_encryption(form, policy, encryption, encrypted, spied):
    """L8, F6: the registration file has CURVE keys where both allow it; a restart keeps them."""
    startup_keys = spied(encryption=encryption, handshake=form)
    manager = start_manager("spied", transport_encryption=policy)
    client = connect_client(manager)
    assert ("curve_publickey" in startup_keys()) is encrypted
    public = manager.curve_publickey
    manager.restart_kernel(now=True)
    client.wait_for_ready(timeout=60)
    assert echoes(client)
    assert manager.curve_publickey == public
    stop_manager(manager, client)


def test_the_registration_socket_is_encrypted(kernelspecs, tmp_path):
    """L8, F6 (ours): a registration without the keys of the file does not arrive."""
    name, notes = fake_kernelspec(
        kernelspecs, tmp_path / "notes", config={"handshake": "signed-frame", "launch_timeout": 10}
    )
    kernel_json = tmp_path / "jupyter" / "kernels" / name / "kernel.json"
    spec = json.loads(kernel_json.read_text())
    spec["metadata"]["supported_encryption"] = ["curve"]
    kernel_json.write_text(json.dumps(spec))
    with pytest.raises(RuntimeError, match="did not register its ports within 10 s"):
        start_manager(name, transport_encryption="required")
    assert "curve_publickey" in notes()[0]["keys"]


@pytest.mark.parametrize("case", ["another key", "no key", "an extra key"])
def test_wrong_curve_keys_end_the_kernel_immediately(case, signed_frame_launcher, context, start):
    """F6, H4 (ours): the kernel reports the cause before its deadline."""
    launcher, (public, secret) = signed_frame_launcher, zmq.curve_keypair()
    if case != "an extra key":
        launcher.socket.close()
        launcher.socket = context.socket(zmq.ROUTER)
        launcher.socket.curve_server = True
        launcher.socket.curve_publickey, launcher.socket.curve_secretkey = zmq.curve_keypair()
        launcher.port = launcher.socket.bind_to_random_port("tcp://127.0.0.1")
    keys = {"curve_publickey": public.decode(), "curve_secretkey": secret.decode()}
    path = launcher.write_file(**({} if case == "no key" else keys))
    process = start(path, "--handshake-timeout", "60")
    line = ends_with_one_line(process, 1, "no encrypted connection to the launcher at", "CURVE")
    assert secret.decode() not in line
    assert not path.exists()


def other_address():
    """Return a second loopback address of this host; on Linux, all of 127/8 is local."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.2", 0))
        except OSError:
            pytest.skip("this operating system has only one loopback address")
    return "127.0.0.2"


def listening_at(manager):
    process = psutil.Process(manager.provisioner.pid)
    return {c.laddr.ip for c in process.net_connections() if c.status == "LISTEN"}


def test_the_managers_ip_is_bound(spied):
    """L8: the kernel, its registration and its clients use the manager's `ip`."""
    if not (addresses := public_ips()):
        pytest.skip("this host has no address but loopback")
    startup_keys = spied()
    manager = start_manager("spied", ip=addresses[0])
    assert listening_at(manager) == {addresses[0]}
    assert startup_keys()["registration_ip"] == addresses[0]
    client = connect_client(manager)
    assert echoes(client)
    stop_manager(manager, client)


@pytest.mark.parametrize("start_mode", ["signed-frame", "rewrite"])
def test_clients_use_the_managers_ip_if_the_kernel_binds_all(start_mode, spied):
    """L8: the kernel binds `bind_ip`, and the connection file names the manager's `ip`."""
    startup_keys = spied(handshake=start_mode, bind_ip="0.0.0.0")
    manager = start_manager("spied", ip=other_address())
    assert listening_at(manager) == {"0.0.0.0"}
    assert startup_keys().get("registration_ip", "127.0.0.1") == "127.0.0.1"
    for _ in range(2):
        with open(manager.connection_file) as file:
            assert json.load(file)["ip"] == "127.0.0.2"
        client = connect_client(manager)
        assert echoes(client)
        client.stop_channels()
        manager.restart_kernel()  # the kernel's own file also names the manager's `ip`
    stop_manager(manager)


def test_the_registration_can_have_another_address(spied):
    """L8: `registration_ip` is the address at which the kernel reaches the launcher."""
    startup_keys = spied(registration_ip=other_address())
    manager = start_manager("spied")
    assert (startup_keys()["registration_ip"], startup_keys()["ip"]) == ("127.0.0.2", "127.0.0.1")
    stop_manager(manager, connect_client(manager))


def test_a_kernel_binds_only_ports_of_the_range(spied):
    """L8: `port_range` holds at the start, and a restart keeps the ports."""
    low = free_range(12)
    startup_keys = spied(port_range=f"{low}-{low + 11}")
    manager = start_manager("spied")
    assert startup_keys()["port_range"] == f"{low}-{low + 11}"
    ports = manager.ports
    assert all(low <= port <= low + 11 for port in ports)
    client = connect_client(manager)
    manager.restart_kernel(now=True)
    client.wait_for_ready(timeout=60)
    assert manager.ports == ports
    stop_manager(manager, client)


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"port_range": "9-5"}, "'9-5' is not a port range"),
        ({"port_range": "5000-5100", "handshake": "rewrite"}, "port_range is not supported with"),
        ({"port_range": "5000-5100", "handshake": "none"}, "port_range is not supported with"),
        ({"bind_ip": "0.0.0.0", "handshake": "none"}, "bind_ip is not supported with"),
        ({"bind_ip": "192.0.2.1"}, "192.0.2.1 is not an address of this host"),
        ({"bind_ip": "0.0.0.0", "handshake": "handshake-request"}, "bind_ip is not supported with"),
        ({"registration_ip": "192.0.2.1"}, "cannot prepare the launch"),
    ],
)
def test_impossible_settings_fail_before_the_start(settings, problem, spied, tmp_path):
    """L8: the error is one sentence, and no process is started."""
    spied(**settings)
    with pytest.raises(RuntimeError, match=problem):
        start_manager("spied")
    assert not (tmp_path / "startup.json").exists()


def test_a_kernel_that_ignores_the_range_is_refused(kernelspecs, tmp_path):
    """L8 (ours): a kernel of another author does not know the key `port_range`."""
    low = free_range(5)
    config = {"handshake": "signed-frame", "port_range": f"{low}-{low + 4}"}
    name, _ = fake_kernelspec(kernelspecs, tmp_path / "notes", config=config)
    with pytest.raises(RuntimeError, match=f"bound a port outside port_range {low}-{low + 4}"):
        start_manager(name)


@pytest.mark.parametrize("value", ["1", "", 5, "5-4", "0-9", "1-65536", "a-b", "\u0661-9"])
def test_an_invalid_range_in_the_file_is_reported(value, signed_frame_launcher, start):
    """F3: the kernel checks `port_range` (ours) like every other key."""
    path = signed_frame_launcher.write_file(port_range=value)
    ends_with_one_line(start(path), 2, str(path), "port_range")


def test_the_kernel_writes_the_advertised_address(signed_frame_launcher, start, tmp_path):
    """H6 (ours): the kernel's connection file names `advertised_ip`, not the bound address."""
    connection_file = tmp_path / "own.json"
    keys = {"ip": "0.0.0.0", "advertised_ip": "192.0.2.1", "connection_file": str(connection_file)}
    start(signed_frame_launcher.write_file(**keys))
    signed_frame_launcher.receive_registration()
    signed_frame_launcher.send_receipt()
    assert json.loads(read_when_written(connection_file))["ip"] == "192.0.2.1"
