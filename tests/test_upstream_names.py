"""Private names of other libraries: which ones this package uses, and where.

One adapter module per library and process uses them (docs/architecture.md). The table lists each
name. Its tests fail with that name when an upstream release drops it. The scan fails when a module
that is not an adapter uses or overrides a private name of another library.
"""

from __future__ import annotations

import ast
import inspect
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "echokernel"

SCANNED_ROOMS = ("runtime", "launcher", "client", "server", "testing", "tools")
"""Rooms whose modules must not use private names outside their adapters."""


@dataclass(frozen=True)
class Name:
    """A private or undocumented name of another library.

    Attributes:
        owner: ``module:Class``, or ``module`` for a name that the module's code sets on an object.
        name: the attribute.
        adapter: the module of echokernel that relies on it.
    """

    owner: str
    name: str
    adapter: str

    @property
    def library(self) -> str:
        return self.owner.partition(".")[0].partition(":")[0]

    def __str__(self) -> str:
        return f"{self.owner}.{self.name}"


LAUNCHER = "launcher.jupyter_client_compat"
CLIENT = "client.jupyter_client_compat"
SERVER = "server.websocket"
IPYKERNEL = "runtime.ipykernel_compat"
PYZMQ = "runtime.zmq_multipart"
COMM = "runtime.comms.manager"

IPYKERNEL_NAMES = (
    "_publish_status",
    "_publish_execute_input",
    "_send_abort_reply",
    "_parent_ident",
    "_shell_parent",
    "_do_exec_accepted_params",
    "_allow_stdin",
    "_abort_queues",
    "_input_request",
    "_topic",
    "_supports_kernel_subshells",
)

NAMES = [
    *(Name("ipykernel.kernelbase:Kernel", name, IPYKERNEL) for name in IPYKERNEL_NAMES),
    Name("ipykernel.iostream:OutStream", "_is_master_process", IPYKERNEL),
    Name("ipykernel.ipkernel", "_comm_manager", IPYKERNEL),
    *(Name("zmq.backend:Socket", name, PYZMQ) for name in ("send", "recv", "get")),
    Name("comm.base_comm:BaseComm", "_closed", COMM),
    Name("comm.base_comm:BaseComm", "_msg_callback", COMM),
    Name("jupyter_client.manager:KernelManager", "_connection_file_written", LAUNCHER),
    Name("jupyter_client.manager:KernelManager", "_restarter", LAUNCHER),
    Name("jupyter_client.connect:LocalPortCache", "currently_used_ports", LAUNCHER),
    Name("jupyter_client.manager:KernelManager", "_transport_encryption_policy", LAUNCHER),
    Name("jupyter_client.manager:KernelManager", "_kernel_supports_curve_encryption", LAUNCHER),
    Name("jupyter_client.manager:KernelManager", "_async_is_alive", CLIENT),
    Name("jupyter_client.connect:ConnectionFileMixin", "_make_url", CLIENT),
    Name("jupyter_client.client:KernelClient", "_iopub_channel", CLIENT),
    Name("jupyter_client.client:KernelClient", "_hb_channel", CLIENT),
    Name("jupyter_client.client:KernelClient", "_handle_kernel_info_reply", CLIENT),
    Name("jupyter_client.channels:ZMQSocketChannel", "_recv", CLIENT),
    Name("jupyter_client.channels:AsyncZMQSocketChannel", "_recv", CLIENT),
    Name("jupyter_client.threaded:ThreadedZMQSocketChannel", "_inspect", CLIENT),
    Name("jupyter_client.channels:HBChannel", "_running", CLIENT),
    Name("jupyter_client.channels:HBChannel", "_pause", CLIENT),
    Name("jupyter_server.services.kernels.connection.channels", "_kernel_info_future", SERVER),
    Name(
        "jupyter_server.services.kernels.connection.channels:ZMQChannelsWebsocketConnection",
        "create_stream",
        SERVER,
    ),
    Name(
        "jupyter_server.services.kernels.connection.channels:ZMQChannelsWebsocketConnection",
        "channels",
        SERVER,
    ),
    Name(
        "jupyter_server.services.kernels.connection.channels:ZMQChannelsWebsocketConnection",
        "session_key",
        SERVER,
    ),
    Name(
        "jupyter_server.services.kernels.connection.channels:ZMQChannelsWebsocketConnection",
        "handle_outgoing_message",
        SERVER,
    ),
]

ADAPTERS = {name.adapter for name in NAMES}

DOCUMENTED = {"os._exit"}
"""Names with an underscore that are documented as public."""

NAMED_TUPLE_NAMES = {"_asdict", "_fields", "_make", "_replace"}
"""Documented names of every named tuple."""


def is_installed(library: str) -> bool:
    """Return True if the library can be imported; jupyter_server is an optional dependency."""
    return find_spec(library) is not None


def has_name(name: Name) -> bool:
    """Return True if the owner has the attribute, or if its source assigns it to an object."""
    module, _, class_name = name.owner.partition(":")
    owner = import_module(module)
    if class_name:
        owner = getattr(owner, class_name)
    if hasattr(owner, name.name):
        return True
    return name.name in assigned_attributes(inspect.getsource(owner))


def assigned_attributes(source: str) -> set[str]:
    nodes = ast.walk(ast.parse(source))
    return {
        node.attr
        for node in nodes
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store)
    }


@pytest.mark.parametrize("name", [name for name in NAMES if is_installed(name.library)], ids=str)
def test_upstream_has_the_name(name):
    assert has_name(name), f"{name} is gone; {name.adapter} relies on it"


@pytest.mark.parametrize("name", NAMES, ids=str)
def test_the_adapter_uses_the_name(name):
    """A row whose name is not used any more must be deleted."""
    source = (PACKAGE / (name.adapter.replace(".", "/") + ".py")).read_text(encoding="utf-8")
    assert name.name in source


def test_a_missing_name_is_found():
    assert not has_name(Name("jupyter_client.channels:HBChannel", "_no_such_name", CLIENT))
    assert not has_name(Name("jupyter_client.channels", "_no_such_name", CLIENT))


# --- the scan -----------------------------------------------------------------------------------


def is_private(name: str) -> bool:
    if name == "_" or name.startswith("__"):
        return False
    return name.startswith("_") and name not in NAMED_TUPLE_NAMES


def read_rooms(rooms: tuple[str, ...]) -> dict[str, str]:
    """Return module -> source of all modules in these rooms, without ``echokernel.``."""
    sources = {}
    for room in rooms:
        for path in sorted((PACKAGE / room).rglob("*.py")):
            parts = path.relative_to(PACKAGE).with_suffix("").parts
            sources[".".join(parts).removesuffix(".__init__")] = path.read_text(encoding="utf-8")
    return sources


def defined_names(source: str) -> set[str]:
    """Return the private names that a module defines: functions, classes, variables, attributes."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
        elif (
            isinstance(node, ast.Attribute)
            and isinstance(node.ctx, ast.Store)
            and ast.unparse(node.value) == "self"
        ):
            names.add(node.attr)
    return {name for name in names if is_private(name)}


def used_names(source: str) -> list[tuple[int, str, str]]:
    """Return (line, object, private name) for each use of a private attribute.

    ``getattr(x, "_name")`` and the like count as uses.
    """
    uses = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            uses.append((node.lineno, ast.unparse(node.value), node.attr))
        elif (
            isinstance(node, ast.Call)
            and ast.unparse(node.func) in ("getattr", "setattr", "hasattr", "delattr")
            and len(node.args) > 1
            and isinstance(node.args[1], ast.Constant)
            and is_private(str(node.args[1].value))
        ):
            uses.append((node.lineno, ast.unparse(node.args[0]), str(node.args[1].value)))
    return uses


def foreign_uses(sources: dict[str, str]) -> list[str]:
    """Return a sentence for each private name that no module outside the adapters defines.

    On ``self``, ``cls`` and a class of the room, the name may be defined in any module of the room,
    because classes inherit from each other. On other objects it must be defined in the same module.
    """
    problems = []
    defined = {module: defined_names(source) for module, source in sources.items()}
    for module, source in sources.items():
        if module in ADAPTERS:
            continue
        room = [other for other in sources if other.partition(".")[0] == module.partition(".")[0]]
        in_room = {name for other in room for name in defined[other]}
        instances = {"self", "cls", "super()"}.union(*(classes_of(sources[m]) for m in room))
        for line, owner, name in used_names(source):
            own = in_room if owner in instances else defined[module]
            if name not in own and f"{owner}.{name}" not in DOCUMENTED:
                problems.append(
                    f"{module}, line {line}: {owner}.{name} is a private name of another library;"
                    " move it to the room's adapter"
                )
    return problems


def classes_of(source: str) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ClassDef)}


def foreign_overrides(module: str) -> list[str]:
    """Return a sentence for each private attribute that a class overrides in a foreign base."""
    problems = []
    imported = import_module(f"echokernel.{module}")
    own = defined_names(inspect.getsource(imported))
    for cls in vars(imported).values():
        if not inspect.isclass(cls) or cls.__module__ != imported.__name__:
            continue
        foreign = [base for base in cls.__mro__ if not base.__module__.startswith("echokernel.")]
        problems += [
            f"{module}: {cls.__name__}.{name} overrides a private name of {base.__module__}; move"
            " it to the room's adapter"
            for name in own & vars(cls).keys()
            for base in foreign
            if name in vars(base)
        ]
    return problems


MODULES = [
    module
    for module, source in read_rooms(SCANNED_ROOMS).items()
    if module not in ADAPTERS and classes_of(source)
]


def test_private_names_are_used_in_adapters_only():
    problems = foreign_uses(read_rooms(SCANNED_ROOMS))
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize("module", MODULES)
def test_private_names_are_overridden_in_adapters_only(module):
    problems = foreign_overrides(module)
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("def f(manager):\n    return manager._restarter", "manager._restarter"),
        ("def f(manager):\n    manager.child._x = 1", "manager.child._x"),
        ("def f(manager):\n    return getattr(manager, '_x', None)", "manager._x"),
        ("class A(Foreign):\n    def f(self):\n        return self._x", "self._x"),
        ("class A(Foreign):\n    def f(self):\n        return super()._x()", "super()._x"),
        ("import lib\nlib._x()", "lib._x"),
    ],
)
def test_a_foreign_use_is_found(source, name):
    [problem] = foreign_uses({"client.sample": source})
    assert f"{name} is a private name" in problem


@pytest.mark.parametrize(
    "source",
    [
        "class A:\n    def __init__(self):\n        self._x = 1\n    def f(self, other):\n"
        "        return self._x + other._x",
        "class A:\n    def f(self):\n        return self._inherited",
        "class A:\n    _x = 1\n\ndef f(a):\n    return a._x",
    ],
)
def test_an_own_private_name_is_allowed(source):
    base = "class Base:\n    def _inherited(self):\n        pass"
    assert foreign_uses({"client.sample": source, "client.base": base}) == []


def test_an_override_is_found():
    assert any("BlockingReceiver._recv" in problem for problem in foreign_overrides(CLIENT))
