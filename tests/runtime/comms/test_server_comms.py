"""Comms of a browser tab under jupyter_server (C2, C6)."""

from __future__ import annotations

import sys
import uuid

import pytest
from support import optional
from support.comm_clients import COMM_KERNEL
from support.kernelspecs import handshake_metadata
from support.servers import SPEAKS_5_6, Server, Websocket
from support.waits import read_when_written

optional.module("jupyter_server")


@pytest.fixture
def server(tmp_path):
    server = Server(tmp_path / "server", "jupyter_server")
    yield server
    server.stop()


def test_a_comm_survives_a_browser_refresh_and_ends_at_shutdown(server, tmp_path):
    """C2, C6: the server stays subscribed during a refresh; shutdown ends all requests."""
    argv = [sys.executable, "-m", "echokernel", "--kernel-class", COMM_KERNEL,
            "--comm-grace-period=0.3", "-f", "{connection_file}"]  # fmt: skip
    server.kernelspec("comms", argv=argv, metadata=handshake_metadata(), **SPEAKS_5_6)
    kernel_id = server.start_kernel("comms")
    session = uuid.uuid4().hex
    page = Websocket(server, kernel_id, session)
    page.send("comm_open", {"comm_id": "one", "target_name": "echo", "data": {}})
    page.send_comm_msg("one", {"jsonrpc": "2.0", "id": "asking", "method": "ask", "params": [5]})
    asked = page.receive_comm_data(lambda data: data.get("method") == "answer")["id"]
    # Much longer than the grace period, and it goes on while there is no page.
    page.execute("sleep 1")
    page.close()
    page = Websocket(server, kernel_id, session)
    page.run_cell("say the sleep is over")
    assert page.comms() == {"one"}
    page.send_comm_msg("one", {"jsonrpc": "2.0", "id": asked, "result": 6})
    assert page.receive_comm_data(lambda data: data.get("id") == "asking")["result"] == 6
    noted = tmp_path / "noted"
    page.run_cell("open two")
    page.run_cell(f"ask_until_the_end {noted}")
    # With the page open: without one the server first unsubscribes, and the kernel may see that.
    assert server.rest("DELETE", f"api/kernels/{kernel_id}")[0] == 204
    page.close()
    assert read_when_written(noted) == "CommDisconnected: the kernel shuts down"
