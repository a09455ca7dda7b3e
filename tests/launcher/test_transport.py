"""Encryption, ipc, other addresses and ranges of ports, from the launcher to the kernel (L8)."""

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
    """Make an echo kernelspec with these settings; its process notes its startup file."""

    def make(*, encryption=("curve",), **config):
        seen = tmp_path / "seen.json"
        kernelspecs(
            "spied",
            argv=[sys.executable, "-c", SPY, "{connection_file}", str(seen), "-m", "echokernel",
                  "-f", "{connection_file}"],
            metadata={**handshake_metadata(**{"handshake": "signed-frame", **config}),
                      "supported_encryption": list(encryption)},
        )  # fmt: skip
        return lambda: json.loads(seen.read_text())["keys"]

    return make


@pytest.mark.parametrize(
    ("policy", "encryption", "encrypts"),
    [("disabled", ["curve"], False), ("auto", ["curve"], True), ("auto", [], False),
     ("required", ["curve"], True)],
)  # fmt: skip
@pytest.mark.parametrize("form", ["signed-frame", "handshake-request"])
def test_encryption(form, policy, encryption, encrypts, spied):
    """L8, F6: keys in the registration file where they should be; a restart keeps them."""
    seen = spied(encryption=encryption, handshake=form)
    manager = start_manager("spied", transport_encryption=policy)
    client = connect_client(manager)
    assert ("curve_publickey" in seen()) is encrypts
    public = manager.curve_publickey
    manager.restart_kernel(now=True)
    client.wait_for_ready(timeout=60)
    assert echoes(client)
    assert manager.curve_publickey == public
    stop_manager(manager, client)


def test_the_registration_socket_is_encrypted(kernelspecs, tmp_path):
    """L8 (ours): a kernel that does not use the key in its file is not heard."""
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


@pytest.mark.parametrize("case", ["another key", "no key", "a key too many"])
def test_a_wrong_curve_key(case, signed_frame_launcher, context, start):
    """Issue 4.5: fails at once, with a line that says so, and not as one that nobody answered."""
    launcher, (public, secret) = signed_frame_launcher, zmq.curve_keypair()
    if case != "a key too many":
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
    """Return another address of this host than 127.0.0.1; all of 127/8 is its own on Linux."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.2", 0))
        except OSError:
            pytest.skip("this system has one loopback address")
    return "127.0.0.2"


def listening_at(manager):
    process = psutil.Process(manager.provisioner.pid)
    return {c.laddr.ip for c in process.net_connections() if c.status == "LISTEN"}


def test_another_address(spied):
    """L8: the manager's `ip`, for the kernel, its registration and its clients."""
    if not (addresses := public_ips()):
        pytest.skip("this host has no address but loopback")
    seen = spied()
    manager = start_manager("spied", ip=addresses[0])
    assert listening_at(manager) == {addresses[0]}
    assert seen()["registration_ip"] == addresses[0]
    client = connect_client(manager)
    assert echoes(client)
    stop_manager(manager, client)


@pytest.mark.parametrize("way", ["signed-frame", "rewrite"])
def test_bind_all_and_advertise_another(way, spied):
    """L8, USERS 15: the kernel binds `bind_ip`, clients are told the manager's `ip`."""
    seen = spied(handshake=way, bind_ip="0.0.0.0")
    manager = start_manager("spied", ip=other_address())
    assert listening_at(manager) == {"0.0.0.0"}
    assert seen().get("registration_ip", "127.0.0.1") == "127.0.0.1"
    for _ in range(2):
        with open(manager.connection_file) as file:
            assert json.load(file)["ip"] == "127.0.0.2"
        client = connect_client(manager)
        assert echoes(client)
        client.stop_channels()
        manager.restart_kernel()  # and the kernel's own file says the same as the manager's
    stop_manager(manager)


def test_an_address_of_its_own_for_the_registration(spied):
    """L8, USERS 15: where the kernel reaches the launcher by another way than its clients do."""
    seen = spied(registration_ip=other_address())
    manager = start_manager("spied")
    assert (seen()["registration_ip"], seen()["ip"]) == ("127.0.0.2", "127.0.0.1")
    stop_manager(manager, connect_client(manager))


def test_a_range_of_ports(spied):
    """L8, USERS 15: what a firewall lets through; a restart keeps to it, too."""
    low = free_range(12)
    seen = spied(port_range=f"{low}-{low + 11}")
    manager = start_manager("spied")
    assert seen()["port_range"] == f"{low}-{low + 11}"
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
def test_settings_that_cannot_be_met(settings, problem, spied, tmp_path):
    """One sentence, and nothing was started."""
    spied(**settings)
    with pytest.raises(RuntimeError, match=problem):
        start_manager("spied")
    assert not (tmp_path / "seen.json").exists()


def test_a_kernel_that_does_not_know_the_range(kernelspecs, tmp_path):
    """L8: the key is ours; a foreign kernel that takes other ports is not let through."""
    low = free_range(5)
    config = {"handshake": "signed-frame", "port_range": f"{low}-{low + 4}"}
    name, _ = fake_kernelspec(kernelspecs, tmp_path / "notes", config=config)
    with pytest.raises(RuntimeError, match=f"bound a port outside port_range {low}-{low + 4}"):
        start_manager(name)


@pytest.mark.parametrize("value", ["1", "", 5, "5-4", "0-9", "1-65536", "a-b", "\u0661-9"])
def test_a_range_in_the_file_that_is_none(value, signed_frame_launcher, start):
    """F3 for the key that is ours."""
    path = signed_frame_launcher.write_file(port_range=value)
    ends_with_one_line(start(path), 2, str(path), "port_range")


def test_the_kernel_advertises_what_the_file_says(signed_frame_launcher, start, tmp_path):
    """USERS 15 (ours): its own connection file names where clients reach it, not what it binds."""
    named = tmp_path / "own.json"
    keys = {"ip": "0.0.0.0", "advertised_ip": "192.0.2.1", "connection_file": str(named)}
    start(signed_frame_launcher.write_file(**keys))
    signed_frame_launcher.receive_registration()
    signed_frame_launcher.send_receipt()
    assert json.loads(read_when_written(named))["ip"] == "192.0.2.1"
