"""A kernel that does what a cell says, and a client of it."""

import pytest

from abuse.peers import start_kernel


@pytest.fixture
def kernel(tmp_path, request):
    """A running `workload_kernel`; a parameter is the list of additional command-line words."""
    with start_kernel(tmp_path, *getattr(request, "param", ())) as started:
        yield started


@pytest.fixture
def client(kernel):
    with kernel.client() as joined:
        yield joined
