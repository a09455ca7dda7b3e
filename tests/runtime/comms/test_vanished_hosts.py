"""A host that vanishes without closing its connections (C1, C2): a network namespace."""

from __future__ import annotations

import os
import shutil

import pytest
from support.comm_clients import ClientProcess, CommClient, start_comm_kernel
from support.programs import run_program
from support.waits import poll_until

HERE, THERE = "10.213.7.1", "10.213.7.2"


def unacknowledged():
    """Tell whether there are bytes that the other host has not acknowledged."""
    connections = run_program(
        "ss", "--tcp", "--numeric", "--no-header", "dst", THERE
    ).stdout.splitlines()
    assert connections
    return any(line.split()[2] != "0" for line in connections)  # Send-Q


@pytest.fixture
def namespace():
    """Another host, as far as TCP can tell: a namespace at the other end of a cable."""
    if shutil.which("ip") is None or os.geteuid() != 0:
        pytest.skip("needs root and the command `ip`, to make a network namespace")
    name = f"echokernel-{os.getpid()}"
    near, far = f"ek{os.getpid()}a"[-15:], f"ek{os.getpid()}b"[-15:]
    made = run_program("ip", "netns", "add", name)
    if made.returncode:
        pytest.skip(f"network namespaces are not to be had here: {made.stderr.strip()}")
    try:
        for words in (
            ("link", "add", near, "type", "veth", "peer", "name", far, "netns", name),
            ("addr", "add", f"{HERE}/30", "dev", near),
            ("link", "set", near, "up"),
            ("-n", name, "addr", "add", f"{THERE}/30", "dev", far),
            ("-n", name, "link", "set", far, "up"),
            ("-n", name, "link", "set", "lo", "up"),
        ):
            done = run_program("ip", *words)
            if done.returncode:
                pytest.skip(f"no cable to a network namespace: {done.stderr.strip()}")
        yield name, far
    finally:
        run_program("ip", "netns", "delete", name)
        run_program("ip", "link", "delete", near)


def test_a_host_that_vanishes(namespace, context, tmp_path, start):
    """C1, C2: TCP keepalive misses it; a client on another host keeps its comms."""
    name, cable = namespace
    options = ("--iopub-keepalive=1,1,2", "--comm-grace-period=0.3")
    connection = start_comm_kernel(tmp_path, start, *options, ip=HERE)
    stays = CommClient(context, connection)
    stays.open("mine")
    within = ("ip", "netns", "exec", name)
    # It hears nothing but its own comm: keepalive only asks where nothing is unacknowledged.
    path = tmp_path / "connection.json"
    vanishes = ClientProcess(path, "theirs", "echo", "comm-theirs", "session.them", within=within)
    try:
        vanishes.line("answer")
        # Else it is not keepalive that asks: the system sends again, for a quarter of an hour.
        poll_until(lambda: not unacknowledged(), "the other host has acknowledged everything")
        assert run_program("ip", "-n", name, "link", "set", cable, "down").returncode == 0
        stays.closed("theirs")
        assert stays.comms() == {"mine"}
        assert vanishes.process.poll() is None, "it has closed nothing"
    finally:
        vanishes.end()
        stays.close()


def test_a_host_that_vanishes_amid_output(namespace, context, tmp_path, start):
    """C1, C2: what it has not acknowledged keeps keepalive quiet, and the kernel publishes on."""
    name, cable = namespace
    options = ("--iopub-keepalive=1,1,2", "--comm-grace-period=0.3")
    connection = start_comm_kernel(tmp_path, start, *options, ip=HERE)
    stays = CommClient(context, connection)
    stays.open("mine")
    path = tmp_path / "connection.json"
    within = ("ip", "netns", "exec", name)
    vanishes = ClientProcess(path, "theirs", "echo", "", "session.them", within=within)
    try:
        vanishes.line("answer")
        assert run_program("ip", "-n", name, "link", "set", cable, "down").returncode == 0
        # Each look is published to the host that is gone, too.
        poll_until(lambda: stays.comms() and unacknowledged(), "output is not acknowledged")
        poll_until(lambda: stays.comms() == {"mine"}, "its comm is closed", 60)
        assert vanishes.process.poll() is None, "it has closed nothing"
    finally:
        vanishes.end()
        stays.close()
