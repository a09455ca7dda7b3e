"""Packages that load when they are used: programs see no difference."""

import json

import pytest
from support.programs import run_python

BEFORE = (
    "from echokernel.runtime.lazy_imports import install_lazy_packages; "
    "install_lazy_packages(); import sys; "
)


def run_code(code):
    """Run ``code`` in a new interpreter; return its output, parsed as JSON."""
    process = run_python("-W", "error", "-c", BEFORE + code)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def test_an_unused_package_is_not_loaded():
    """The base class of kernels needs neither kernel managers nor an interactive shell."""
    loaded = run_code("import ipykernel.kernelbase, json; print(json.dumps(list(sys.modules)))")
    assert "ipykernel.kernelbase" in loaded
    assert "jupyter_client.session" in loaded
    assert not {"jupyter_client.manager", "IPython.core.interactiveshell"} & set(loaded)


@pytest.mark.parametrize(
    "code",
    [
        "import jupyter_client; assert jupyter_client.KernelManager",
        "from jupyter_client import BlockingKernelClient, __version__",
        "import jupyter_client.session; from jupyter_client import KernelManager",
        "from IPython import get_ipython; assert get_ipython() is None",
        "from IPython.display import HTML; import IPython; assert IPython.__version__",
        "import ipykernel; assert ipykernel.version_info >= (7,)",
        "from ipykernel import get_connection_file",
        "import ipykernel; assert not hasattr(ipykernel, 'nothing')",
        "import ipykernel; assert not hasattr(ipykernel, '__nothing__')",
        "import importlib, IPython; importlib.reload(IPython)",
        "import inspect, jupyter_client; assert inspect.getsource(jupyter_client)",
        "from jupyter_client import *; assert KernelManager",
    ],
)
def test_a_used_package_is_complete(code):
    assert run_code(f"{code}; print('true')") is True


def test_threads_can_use_a_package_at_the_same_time():
    code = """
import threading, jupyter_client
ready, results = threading.Barrier(8), []
def use():
    ready.wait()
    results.append(jupyter_client.KernelManager)
threads = [threading.Thread(target=use) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(len(results))
"""
    assert run_code(code) == 8
