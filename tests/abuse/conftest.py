"""The marker `abuse`, and a kernel whose cells are instructions."""

import os

import pytest

from abuse.running_kernel import start_kernel

EVERYTHING = "ECHOKERNEL_TEST_EVERYTHING"
""".ci/run sets this environment variable."""


def pytest_configure(config):
    config.addinivalue_line(
        "markers", f"abuse: a long test; deselected unless {EVERYTHING} is set or -m is given"
    )


def pytest_collection_modifyitems(config, items):
    if os.environ.get(EVERYTHING) or config.option.markexpr:
        return
    deselected = [item for item in items if item.get_closest_marker("abuse")]
    if deselected:
        items[:] = [item for item in items if not item.get_closest_marker("abuse")]
        config.hook.pytest_deselected(items=deselected)


@pytest.fixture
def kernel(tmp_path, request):
    """A running `workload_kernel`; a parameter is the list of additional command-line words."""
    with start_kernel(tmp_path, *getattr(request, "param", ())) as running:
        yield running


@pytest.fixture
def client(kernel):
    with kernel.client() as client:
        yield client
