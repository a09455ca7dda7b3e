"""A kernel whose cells are instructions, and a client of it."""

import pytest

from abuse.running_kernel import start_kernel


@pytest.fixture
def kernel(tmp_path, request):
    """A running `workload_kernel`; a parameter is the list of additional command-line words."""
    with start_kernel(tmp_path, *getattr(request, "param", ())) as running:
        yield running


@pytest.fixture
def client(kernel):
    with kernel.client() as client:
        yield client
