"""The floors of the house (DESIGN.md): who may import whom, read from the sources.

Imports under TYPE_CHECKING and inside functions count: what a module knows of, it depends on.
"""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "echokernel"

# A module imports lower floors, or its own floor where that makes no circle. Rooms of DESIGN.md
# that are not built yet stand here already.
FLOORS = {
    0: "protocol protocol.errors",
    1: "protocol.wire protocol.endpoints protocol.startup protocol.subscriptions"
    " protocol.comm_lifecycle protocol.json_rpc protocol.readiness",
    2: "protocol.handshake protocol.headers",
    3: "backlog capture channels client_channels client_wait comm_endings comm_requests comms files"
    " interrupts iopub kernelbase launching.* lazy_packages listeners messaging missed multipart"
    " overtaking parent registration session slow_readers streams subscriber_sockets"
    " surroundings vanished_hosts",
    4: "client command_line echo_comms install kernel provisioner serving",
    5: "app conformance.* doctor stress.* websocket",
    6: "__init__ __main__",
}
KERNEL_SIDE = (
    "app backlog capture comm_endings comm_requests comms echo_comms interrupts iopub kernel"
    " kernelbase lazy_packages listeners messaging missed multipart overtaking parent registration"
    " serving session slow_readers streams subscriber_sockets surroundings vanished_hosts"
)  # fmt: skip
LAUNCHER_SIDE = (
    "client client_channels client_wait doctor launching.* provisioner stress.* websocket"
)
BOTH_SIDES = f"{KERNEL_SIDE} {LAUNCHER_SIDE}"

# (who, what it must not reach, not even through others, why and what to do instead)
NEVER = [
    (KERNEL_SIDE, LAUNCHER_SIDE, "kernel and launcher are different processes: move what both"
     " need to a module that is on neither side (protocol/, files)"),
    (LAUNCHER_SIDE, KERNEL_SIDE, "launcher and kernel are different processes: move what both"
     " need to a module that is on neither side (protocol/, files)"),
    ("conformance.*", BOTH_SIDES, "a checker that shares code with the kernel shares its"
     " mistakes: use raw sockets and protocol.wire"),
]  # fmt: skip

# Outside of the package. protocol/ may import these and no others.
PURE = (
    "__future__ base64 binascii bisect collections dataclasses enum functools hashlib heapq hmac"
    " ipaddress itertools json math re string types typing"
)
SOCKETS = {"zmq", "tornado"}  # kernel.py: neither

# Anybody may read these from the package itself, which imports nothing.
FACTS = {"__version__"}


def matches(module: str, pattern: str) -> bool:
    prefix = pattern.removesuffix(".*")
    return module == prefix or (pattern != prefix and module.startswith(prefix + "."))


def is_any(module: str, patterns: str) -> bool:
    return any(matches(module, pattern) for pattern in patterns.split())


def floor_of(module: str) -> int | None:
    return next((n for n, rooms in FLOORS.items() if is_any(module, rooms)), None)


def read_sources() -> dict[str, str]:
    """Return module -> source; modules without ``echokernel.``, a package by its own name."""
    sources = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[-1] == "__init__" and len(parts) > 1:
            parts = parts[:-1]
        sources[".".join(parts)] = path.read_text(encoding="utf-8")
    return sources


def imports_of(module: str, source: str, modules: set[str]) -> tuple[set[str], set[str]]:
    """Return (our modules, top names of foreign ones) that ``source`` imports, wherever it does."""
    ours, foreign = set(), set()
    is_package = any(other.startswith(module + ".") for other in modules)
    here = ["echokernel", *module.split(".")][: None if is_package else -1]

    def take(dotted: str, name: str | None = None) -> None:
        top, _, inner = dotted.partition(".")
        if top != "echokernel":
            foreign.add(top)
        elif name is not None and f"{inner}.{name}".lstrip(".") in modules:
            ours.add(f"{inner}.{name}".lstrip("."))
        elif inner:
            ours.add(inner)
        elif name not in FACTS:
            ours.add("__init__")

    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                take(alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            dotted = ".".join([*base, *(node.module or "").split(".")]).rstrip(".")
            for alias in node.names:
                take(dotted, alias.name)
    return ours, foreign


def breaches(sources: dict[str, str]) -> list[str]:
    """Return a sentence for each import that the rules forbid: what it is and how to mend it."""
    modules, found = set(sources), []
    graph, foreign = {}, {}
    for module, source in sources.items():
        graph[module], foreign[module] = imports_of(module, source, modules)

    for module in sources:
        floor = floor_of(module)
        if floor is None:
            found.append(f"{module} has no floor: add it to FLOORS in tests/test_floors.py")
            continue
        for other in sorted(graph[module]):
            above = floor_of(other)
            if above is not None and above > floor:
                found.append(
                    f"{module} (floor {floor}) imports {other} (floor {above}): a module imports"
                    " lower floors only; take what you need as an argument, or move it down"
                )
        if is_any(module, "protocol.*"):
            found += [
                f"{module} imports {name}: protocol/ has no I/O, clock, thread or randomness;"
                " let bytes and `now` come in as arguments"
                for name in sorted(foreign[module] - set(PURE.split()))
            ]
        if module == "kernel":
            found += [
                f"{module} imports {name}: a language knows nothing of sockets; put it in"
                " kernelbase, and call that"
                for name in sorted(foreign[module] & SOCKETS)
            ]
    for who, whom, why in NEVER:
        for module in sources:
            if is_any(module, who):
                ways = reached_from(module, graph)
                found += [f"{' -> '.join(ways[m])}: {why}" for m in ways if is_any(m, whom)]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))
        found.append(f"{circle}: imports go in a circle; move what both need to a lower floor")
    return found


def reached_from(module: str, graph: dict[str, set[str]]) -> dict[str, list[str]]:
    """Return what ``module`` imports, also through others -> the way there."""
    ways, todo = {}, [[module]]
    while todo:
        way = todo.pop(0)
        for other in sorted(graph.get(way[-1], set()) - set(ways)):
            ways[other] = [*way, other]
            todo.append(ways[other])
    return ways


def test_every_import_keeps_to_the_floors():
    """DESIGN.md, "Floors" and "Never"."""
    found = breaches(read_sources())
    assert not found, "\n".join(["the floors are breached:", *found])


def test_the_sources_are_really_read():
    sources = read_sources()
    assert {"__init__", "app", "protocol", "protocol.wire"} <= set(sources)
    ours, foreign = imports_of("app", sources["app"], set(sources))
    assert {"channels", "protocol.startup", "serving"} <= ours  # one is inside a function
    assert "zmq" in foreign


# The house in small; then one module of it is replaced by a source that breaks a rule.
HOUSE = {
    "__init__": "__version__ = '1'",
    "protocol": "",
    "protocol.errors": "import json",
    "protocol.wire": "from .errors import X",
    "channels": "import zmq\nfrom .protocol import wire",
    "iopub": "import zmq",
    "kernel": "from . import __version__",
    "provisioner": "from .channels import y",
    "app": "from . import channels, iopub",
    "conformance.check": "from ..protocol.wire import X",
}


def test_a_house_in_order_has_no_breach():
    assert breaches(HOUSE) == []


@pytest.mark.parametrize(
    ("module", "source", "parts"),
    [
        ("attic", "", ["attic has no floor: add it to FLOORS"]),
        ("protocol.errors", "from . import wire", ["protocol.wire (floor 1)", "circle"]),
        ("protocol.errors", "from ..channels import x", ["channels (floor 3): a module imports"]),
        ("protocol.errors", "import echokernel.channels", ["channels (floor 3)", "circle"]),
        ("protocol", "from .wire import X", ["protocol (floor 0) imports protocol.wire"]),
        ("protocol.wire", "import os.path", ["imports os: protocol/ has no I/O"]),
        ("protocol.wire", "from time import monotonic", ["imports time: protocol/"]),
        ("protocol.wire", "def f():\n    import random", ["imports random: protocol/"]),
        ("protocol.wire", "if TYPE_CHECKING:\n    import zmq", ["imports zmq: protocol/"]),
        ("channels", "from .app import x", ["channels (floor 3) imports app (floor 5)", "circle"]),
        ("channels", "from . import iopub", ["provisioner -> channels -> iopub: launcher and"]),
        ("channels", "from . import launch", ["channels (floor 3) imports __init__ (floor 6)"]),
        ("kernel", "from zmq.asyncio import x", ["kernel imports zmq: a language knows nothing"]),
        ("kernel", "async def f():\n    import tornado", ["kernel imports tornado: a language"]),
        ("app", "from . import provisioner", ["app -> provisioner: kernel and launcher are"]),
        ("app", "import echokernel.provisioner as p", ["app -> provisioner: kernel and launcher"]),
        ("provisioner", "from .iopub import x", ["provisioner -> iopub: launcher and kernel are"]),
        ("conformance.check", "from ..iopub import x", ["conformance.check -> iopub: a checker"]),
        ("conformance.check", "from .. import provisioner as p", ["provisioner: a checker that"]),
    ],
)
def test_a_breach_is_found_and_told_how_to_mend(module, source, parts):
    found = "\n".join(breaches({**HOUSE, module: source}))
    for part in parts:
        assert part in found
