"""A host that vanishes without closing its connections (C1, C2), as a network namespace."""

from __future__ import annotations

import os
import shutil

import pytest
from support.comm_clients import ClientProcess, CommClient, start_comm_kernel
from support.programs import run_program
from support.waits import poll_until

LOCAL, REMOTE = "10.213.7.1", "10.213.7.2"


def has_unacknowledged_output():
    """Return True if the other host has not acknowledged all bytes."""
    connections = run_program(
        "ss", "--tcp", "--numeric", "--no-header", "dst", REMOTE
    ).stdout.splitlines()
    assert connections
    return any(line.split()[2] != "0" for line in connections)  # Send-Q


@pytest.fixture
def namespace():
    """Another host for TCP: a namespace that a pair of virtual interfaces connects."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("needs root and the command `ip`, to create a network namespace")
    name = f"echokernel-{os.getpid()}"
    near, far = f"ek{os.getpid()}a"[-15:], f"ek{os.getpid()}b"[-15:]
    result = run_program("ip", "netns", "add", name)
    if result.returncode:
        pytest.skip(f"network namespaces are not available: {result.stderr.strip()}")
    try:
        for words in (
            ("link", "add", near, "type", "veth", "peer", "name", far, "netns", name),
            ("addr", "add", f"{LOCAL}/30", "dev", near),
            ("link", "set", near, "up"),
            ("-n", name, "addr", "add", f"{REMOTE}/30", "dev", far),
            ("-n", name, "link", "set", far, "up"),
            ("-n", name, "link", "set", "lo", "up"),
        ):
            result = run_program("ip", *words)
            if result.returncode:
                pytest.skip(f"no connection to a network namespace: {result.stderr.strip()}")
        yield name, far
    finally:
        run_program("ip", "netns", "delete", name)
        run_program("ip", "link", "delete", near)


def test_keepalive_closes_the_comms_of_a_vanished_host(namespace, context, tmp_path, start):
    """C1, C2: a client on another host keeps its comms."""
    name, interface = namespace
    options = ("--iopub-keepalive=1,1,2", "--comm-grace-period=0.3")
    connection = start_comm_kernel(tmp_path, start, *options, ip=LOCAL)
    remaining = CommClient(context, connection)
    remaining.open("a")
    within = ("ip", "netns", "exec", name)
    # It subscribes to its own comm only: keepalive does not probe while output is unacknowledged.
    path = tmp_path / "connection.json"
    vanishing = ClientProcess(path, "b", "echo", "comm-b", "session.vanishing", within=within)
    try:
        vanishing.line("answer")
        # Otherwise the operating system retransmits for 15 minutes instead of probing.
        poll_until(lambda: not has_unacknowledged_output(), "all output is acknowledged")
        assert run_program("ip", "-n", name, "link", "set", interface, "down").returncode == 0
        remaining.closed("b")
        assert remaining.comms() == {"a"}
        assert vanishing.process.poll() is None, "the client has exited"
    finally:
        vanishing.end()
        remaining.close()


def test_the_comms_of_a_host_that_vanishes_during_output_close(namespace, context, tmp_path, start):
    """C1, C2: keepalive does not probe while output is unacknowledged; the kernel checks TCP."""
    name, interface = namespace
    options = ("--iopub-keepalive=1,1,2", "--comm-grace-period=0.3")
    connection = start_comm_kernel(tmp_path, start, *options, ip=LOCAL)
    remaining = CommClient(context, connection)
    remaining.open("a")
    path = tmp_path / "connection.json"
    within = ("ip", "netns", "exec", name)
    vanishing = ClientProcess(path, "b", "echo", "", "session.vanishing", within=within)
    try:
        vanishing.line("answer")
        assert run_program("ip", "-n", name, "link", "set", interface, "down").returncode == 0
        # The kernel also publishes the status of each comm_info request to the vanished host.
        poll_until(
            lambda: remaining.comms() and has_unacknowledged_output(), "output is unacknowledged"
        )
        poll_until(lambda: remaining.comms() == {"a"}, "the comm b is closed", 60)
        assert vanishing.process.poll() is None, "the client has exited"
    finally:
        vanishing.end()
        remaining.close()
