"""Fixtures: kernels of the test module's server, and frontends connected to them."""

import pytest
from support.servers import Websocket


@pytest.fixture
def kernel(server):
    """Start a kernel by REST: ``kernel(name)`` returns its id."""
    started = []

    def start_kernel(name="echo-handshake"):
        started.append(server.start_kernel(name))
        return started[-1]

    yield start_kernel
    for kernel_id in started:
        server.rest("DELETE", f"api/kernels/{kernel_id}")
        assert server.processes(kernel_id) == []
        server.remove_files(kernel_id)


@pytest.fixture
def connect(server):
    """Connect a frontend: ``connect(kernel_id)``. A reload passes the earlier session."""
    opened = []

    def open_websocket(kernel_id, session=None):
        opened.append(Websocket(server, kernel_id, session))
        return opened[-1]

    yield open_websocket
    for websocket in opened:
        websocket.close()
