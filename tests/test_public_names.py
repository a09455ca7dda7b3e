"""The public names, which RELEASING.md protects: a name is added, renamed or removed here, too."""

from __future__ import annotations

import importlib
import inspect
from importlib.metadata import entry_points
from importlib.resources import files
from pathlib import Path

import pytest
from support.programs import run_python

import echokernel
from echokernel.__main__ import COMMANDS
from echokernel.launcher import HandshakeProvisioner

RELEASING = (Path(__file__).parents[1] / "RELEASING.md").read_text(encoding="utf-8")

PUBLIC = {
    "echokernel": {
        "Comm",
        "CommDisconnected",
        "CommError",
        "CommManager",
        "CommRequestError",
        "CommTimeout",
        "Kernel",
        "run_kernel",
    },
    "echokernel.client": {
        "AsyncWelcomeClient",
        "AsyncWelcomeKernelManager",
        "BlockingWelcomeClient",
        "ThreadedWelcomeClient",
        "WelcomeKernelManager",
        "WelcomeManagerMixin",
        "presence_topic",
        "subscribed_socket",
        "with_welcome",
    },
    "echokernel.launcher": {"HandshakeProvisioner", "RegistrationSocket"},
    "echokernel.server": {"WelcomeServerKernelManager", "WelcomeWebsocketConnection"},
    "echokernel.testing": {"FakeLauncher", "Fault"},
}
SETTINGS = {
    "bind_ip",
    "guess_timeout",
    "handshake",
    "launch_timeout",
    "port_range",
    "registration_ip",
    "rewriters",
}
"""Of `HandshakeProvisioner`."""

NEEDS = {"echokernel.server": "jupyter_server"}


@pytest.fixture(params=PUBLIC)
def module(request):
    if request.param in NEEDS:
        pytest.importorskip(NEEDS[request.param])
    return importlib.import_module(request.param)


def test_the_names_are_exactly_these(module):
    assert len(module.__all__) == len(set(module.__all__))
    assert set(module.__all__) == PUBLIC[module.__name__]


def test_each_name_can_be_imported_and_has_a_docstring(module):
    namespace = {}
    exec(f"from {module.__name__} import *", namespace)
    assert set(namespace) - {"__builtins__"} == PUBLIC[module.__name__]
    for name, value in namespace.items():
        if name != "__builtins__":
            assert inspect.isclass(value) or inspect.isfunction(value), name
            assert value.__name__ == name
            assert value.__doc__, name
            assert value.__module__.startswith("echokernel."), name


def test_the_settings_of_the_provisioner():
    """L7, L4: users write them into kernelspecs; each has a help text."""
    settings = HandshakeProvisioner.class_own_traits(config=True)
    assert set(settings) == SETTINGS
    assert all(setting.help for setting in settings.values())


def test_a_name_that_does_not_exist():
    with pytest.raises(AttributeError, match=r"'echokernel' has no attribute 'run_kernels'"):
        _ = echokernel.run_kernels
    with pytest.raises(ImportError, match="RegistrationSockets"):
        exec("from echokernel.launcher import RegistrationSockets")


def test_releasing_names_the_same_places():
    public, _, deprecate = RELEASING.partition("## Deprecate a public name")
    for name in PUBLIC:
        assert f"`{name}`" in public
    for command in COMMANDS:
        assert f"`{command}`" in public
    group = "jupyter_client.kernel_provisioners"
    [provisioner] = entry_points(group=group, name="handshake-provisioner")
    assert provisioner.load() is HandshakeProvisioner
    assert f"`{provisioner.name}`" in public
    assert "`DeprecationWarning`" in deprecate


# --- what an import costs -----------------------------------------------------------------------


def modules_after(statement):
    """Return the modules that a statement imports, beside importlib and typing."""
    code = (
        "import sys, importlib, typing\n"
        "before = set(sys.modules)\n"
        f"{statement}\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    done = run_python("-c", code)
    assert done.stderr == ""
    return set(done.stdout.split())


def test_the_package_imports_nothing():
    assert modules_after("import echokernel") == {"echokernel"}


def test_an_error_class_imports_the_protocol_alone():
    loaded = modules_after("from echokernel import CommDisconnected")
    own = {name for name in loaded if name.startswith("echokernel")}
    assert own == {"echokernel", "echokernel.protocol", "echokernel.protocol.errors"}


def test_run_kernel_is_imported_without_the_language():
    """H1: sockets are bound before ipykernel is loaded."""
    loaded = modules_after("from echokernel import run_kernel")
    assert "zmq" in loaded
    assert not loaded & {"ipykernel", "jupyter_client", "tornado", "traitlets", "comm"}


def test_the_registration_socket_needs_no_jupyter_client():
    loaded = modules_after("from echokernel.launcher import RegistrationSocket")
    assert "zmq" in loaded
    assert not loaded & {"ipykernel", "jupyter_client", "traitlets"}


def test_the_fakes_share_no_code_with_kernel_and_launcher():
    loaded = modules_after("from echokernel.testing import FakeLauncher")
    rooms = {name.split(".")[1] for name in loaded if name.startswith("echokernel.")}
    assert rooms == {"protocol", "testing"}


def test_the_package_is_typed():
    """PEP 561: type checkers of other projects read the annotations."""
    assert files("echokernel").joinpath("py.typed").is_file()
