"""The floors of the house (docs/architecture.md): which room may import which, by folder.

Imports inside functions and under TYPE_CHECKING count, too: a module depends on what it names.
Only the depth leaves them out, since it measures what a start has to load.
"""

from __future__ import annotations

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "echokernel"

NEUTRAL = "connection_files"
PROTOCOL_FOR_BLACK_BOXES = "protocol.wire protocol.errors"

# room -> (the rooms and modules that it may import besides its own, why)
FLOORS = {
    "protocol": ("", "protocol/ is the lowest floor: take what you need as an argument"),
    "connection_files": ("protocol", "both processes use it: it knows the protocol only"),
    "runtime": (
        f"protocol {NEUTRAL}",
        "runtime/ is the kernel's process: move what two processes need to protocol/",
    ),
    "launcher": (
        f"protocol {NEUTRAL}",
        "launcher/ is the launcher's process: move what two processes need to protocol/",
    ),
    "client": (
        f"protocol {NEUTRAL}",
        "client/ is the client's process: move what two processes need to protocol/",
    ),
    "server": (f"client protocol {NEUTRAL}", "server/ is a client inside jupyter_server"),
    "testing": (
        f"conformance {PROTOCOL_FOR_BLACK_BOXES}",
        "a fake that shares code with the kernel shares its mistakes: use protocol.wire",
    ),
    "conformance": (
        f"testing {PROTOCOL_FOR_BLACK_BOXES}",
        "a checker that shares code with the kernel shares its mistakes: use protocol.wire",
    ),
    "kernel": (
        "__init__ echo_comms",
        "kernel.py is copied by authors: import public names with `from echokernel import ...`",
    ),
    "echo_comms": (
        "__init__",
        "echo_comms.py is copied by authors: import public names with `from echokernel import ...`",
    ),
    "tools": (
        f"protocol {NEUTRAL} launcher conformance testing",
        "a command drives kernels from outside: it never imports runtime/",
    ),
    "__init__": ("runtime protocol", "the package offers public names only, and lazily"),
    "__main__": ("__init__ runtime tools", "it runs commands, and knows nothing else"),
}

# Start, handshake, welcome and messages run without these; `serving` attaches them.
ATTACHED = "runtime.serving runtime.comms runtime.output runtime.iopub.flow_control"

# The part of the standard library without I/O, clocks, threads and randomness.
PURE = (
    "__future__ base64 binascii bisect collections dataclasses enum functools hashlib heapq hmac"
    " ipaddress itertools json math re string types typing"
)
SOCKETS = {"zmq", "tornado"}
FACTS = {"__version__"}
"""Names that each module may import from the package itself, which imports nothing."""

MAX_DEPTH = 8
MAX_LINES = 400
MAX_ATTRIBUTES = 12

# class -> why it has more than MAX_ATTRIBUTES attributes
LARGE_CLASSES = {
    "SlowReaders": "moved unchanged; flow control as a table will replace it",
}


def is_in(module: str, rooms: str) -> bool:
    return any(module == room or module.startswith(room + ".") for room in rooms.split())


def room_of(module: str) -> str:
    return module.partition(".")[0]


def read_sources() -> dict[str, str]:
    """Return module -> source; modules without ``echokernel.``, a package by its own name."""
    sources = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        if parts[-1] == "__init__" and len(parts) > 1:
            parts = parts[:-1]
        sources[".".join(parts)] = path.read_text(encoding="utf-8")
    return sources


def imports_of(
    module: str, source: str, modules: set[str], *, only_at_start: bool = False
) -> tuple[set[str], set[str]]:
    """Return (own modules, top names of foreign ones) that ``source`` imports.

    With ``only_at_start`` the imports inside functions and under TYPE_CHECKING are left out.
    """
    own, foreign = set(), set()
    is_package = any(other.startswith(module + ".") for other in modules)
    here = ["echokernel", *module.split(".")][: None if is_package else -1]

    def add(dotted: str, name: str | None = None) -> None:
        top, _, inner = dotted.partition(".")
        if top != "echokernel":
            foreign.add(top)
        elif name is not None and f"{inner}.{name}".lstrip(".") in modules:
            own.add(f"{inner}.{name}".lstrip("."))
        elif inner:
            own.add(inner)
        elif name not in FACTS:
            own.add("__init__")

    tree = ast.parse(source)
    for node in _nodes_at_start(tree) if only_at_start else ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                add(alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = here[: len(here) - node.level + 1] if node.level else []
            dotted = ".".join([*base, *(node.module or "").split(".")]).rstrip(".")
            for alias in node.names:
                add(dotted, alias.name)
    return own, foreign


def _nodes_at_start(node: ast.AST):
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from _nodes_at_start(child)


def graph_of(sources: dict[str, str], **options) -> dict[str, set[str]]:
    return {
        name: imports_of(name, text, set(sources), **options)[0] for name, text in sources.items()
    }


def breaches(sources: dict[str, str]) -> list[str]:
    """Return a sentence for each import that the rules forbid: what it is and what to do."""
    problems = []
    graph = graph_of(sources)
    for module, source in sources.items():
        room = room_of(module)
        if room not in FLOORS:
            problems.append(f"{module} has no room: see docs/architecture.md, and FLOORS here")
            continue
        allowed, advice = FLOORS[room]
        problems += [
            f"{module} imports {other}: {advice}"
            for other in sorted(graph[module])
            if not is_in(other, f"{room} {allowed}")
        ]
        if room == "runtime" and not is_in(module, ATTACHED):
            problems += [
                f"{module} imports {other}: the core runs without it; attach it in serving"
                for other in sorted(graph[module])
                if is_in(other, ATTACHED)
            ]
        problems += foreign_breaches(module, source, set(sources))
    if "__main__" in sources:
        at_start, _ = imports_of("__main__", sources["__main__"], set(sources), only_at_start=True)
        problems += [
            f"__main__ imports {other} at its start: import a command only when it is run"
            for other in sorted(at_start)
        ]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        circle = " -> ".join(reversed(error.args[1]))
        problems.append(f"{circle}: imports go in a circle; move what both need to a lower floor")
    return problems


def foreign_breaches(module: str, source: str, modules: set[str]) -> list[str]:
    _, foreign = imports_of(module, source, modules)
    if is_in(module, "protocol"):
        return [
            f"{module} imports {name}: protocol/ has no I/O, clock, thread or randomness;"
            " let bytes and `now` come in as arguments"
            for name in sorted(foreign - set(PURE.split()))
        ]
    if module in ("kernel", "echo_comms"):
        return [
            f"{module} imports {name}: a language knows nothing of sockets; call a method of"
            " echokernel.Kernel"
            for name in sorted(foreign & SOCKETS)
        ] + [
            f"{module} uses {name}: a private name of asyncio"
            for name in _private_names_of("asyncio", source)
        ]
    return []


def _private_names_of(library: str, source: str) -> list[str]:
    return [
        ast.unparse(node)
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Attribute)
        and node.attr.startswith("_")
        and ast.unparse(node).startswith(library + ".")
    ]


def longest_chain(graph: dict[str, set[str]]) -> list[str]:
    """Return the longest chain of imports; the graph has no circle."""
    chains: dict[str, list[str]] = {}
    for module in TopologicalSorter(graph).static_order():
        below = max((chains[other] for other in graph.get(module, ())), key=len, default=[])
        chains[module] = [module, *below]
    return max(chains.values(), key=len)


def attributes_of(source: str) -> dict[str, set[str]]:
    """Return class -> the attributes that its methods assign to ``self``."""
    classes = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef):
            classes[node.name] = {
                target.attr
                for target in ast.walk(node)
                if isinstance(target, ast.Attribute)
                and isinstance(target.ctx, ast.Store)
                and isinstance(target.value, ast.Name)
                and target.value.id == "self"
            }
    return classes


def test_every_import_keeps_to_the_floors():
    problems = breaches(read_sources())
    assert not problems, "\n".join(["the floors are breached:", *problems])


def test_the_longest_chain_of_imports_is_short(capsys):
    """What a module needs before it can be imported; an edge is one module-level import."""
    chain = longest_chain(graph_of(read_sources(), only_at_start=True))
    with capsys.disabled():
        print(f"\nlongest chain of imports, {len(chain) - 1} edges: {' -> '.join(chain)}")
    assert len(chain) - 1 <= MAX_DEPTH


def test_no_module_is_long():
    lines = {module: source.count("\n") for module, source in read_sources().items()}
    assert {module: n for module, n in lines.items() if n > MAX_LINES} == {}


def test_no_class_is_an_unwritten_table():
    large = {
        name: sorted(attributes)
        for source in read_sources().values()
        for name, attributes in attributes_of(source).items()
        if len(attributes) > MAX_ATTRIBUTES
    }
    assert sorted(large) == sorted(LARGE_CLASSES), large


def test_the_sources_are_really_read():
    sources = read_sources()
    assert {"__init__", "runtime.app", "protocol", "protocol.wire"} <= set(sources)
    own, foreign = imports_of("runtime.app", sources["runtime.app"], set(sources))
    assert {"runtime.sockets", "protocol.startup"} <= own
    assert "zmq" in foreign
    at_start, _ = imports_of("__main__", sources["__main__"], set(sources), only_at_start=True)
    anywhere, _ = imports_of("__main__", sources["__main__"], set(sources))
    assert at_start < anywhere  # its commands are imported inside functions


# The house in small; then one module of it is replaced by a source that breaks a rule.
HOUSE = {
    "__init__": "__version__ = '1'\ndef __getattr__(name):\n    from .runtime import serving",
    "__main__": "def main():\n    from .tools import doctor\n    from .runtime import serving",
    "protocol": "",
    "protocol.errors": "import json",
    "protocol.wire": "from .errors import X",
    "connection_files": "import os\nfrom .protocol import wire",
    "kernel": "from echokernel import Kernel, __version__, echo_comms",
    "echo_comms": "from echokernel import Comm",
    "runtime": "",
    "runtime.app": "import zmq\nfrom .. import connection_files",
    "runtime.serving": "from . import app\nfrom .comms import manager",
    "runtime.comms": "",
    "runtime.comms.manager": "from .. import app",
    "launcher": "",
    "launcher.provisioner": "from ..protocol import wire",
    "client": "",
    "client.ready": "from ..protocol import wire",
    "server": "",
    "server.websocket": "from ..client import ready",
    "conformance": "",
    "conformance.check": "from ..protocol.wire import X",
    "tools": "",
    "tools.doctor": "from ..launcher import provisioner",
}


def test_a_house_in_order_has_no_breach():
    assert breaches(HOUSE) == []


@pytest.mark.parametrize(
    ("module", "source", "parts"),
    [
        ("attic", "", ["attic has no room"]),
        ("protocol.errors", "from . import wire", ["circle"]),
        ("protocol.errors", "from ..runtime import app", ["imports runtime.app: protocol/ is the"]),
        ("protocol.errors", "import echokernel.connection_files", ["connection_files", "circle"]),
        ("protocol.wire", "import os.path", ["imports os: protocol/ has no I/O"]),
        ("protocol.wire", "from time import monotonic", ["imports time: protocol/"]),
        ("protocol.wire", "def f():\n    import random", ["imports random: protocol/"]),
        ("protocol.wire", "if TYPE_CHECKING:\n    import zmq", ["imports zmq: protocol/"]),
        ("connection_files", "from .runtime import app", ["imports runtime.app: both processes"]),
        ("runtime.app", "from ..launcher import provisioner", ["runtime/ is the kernel's process"]),
        ("runtime.app", "from . import serving", ["the core runs without it", "circle"]),
        ("runtime.app", "def f():\n    from .comms import x", ["imports runtime.comms: the core"]),
        ("runtime.app", "from .. import Kernel", ["imports __init__: runtime/", "circle"]),
        ("launcher.provisioner", "from ..runtime import app", ["launcher/ is the launcher's"]),
        ("launcher.provisioner", "from ..client import ready", ["launcher/ is the launcher's"]),
        (
            "client.ready",
            "import echokernel.launcher.provisioner as p",
            ["client/ is the client's"],
        ),
        ("server.websocket", "from ..launcher import provisioner", ["server/ is a client"]),
        ("conformance.check", "from ..runtime import app", ["imports runtime.app: a checker"]),
        ("conformance.check", "from ..protocol import startup", ["imports protocol: a checker"]),
        ("tools.doctor", "from ..runtime import app", ["imports runtime.app: a command"]),
        ("kernel", "from .runtime import app", ["kernel imports runtime.app: kernel.py is copied"]),
        ("kernel", "from zmq.asyncio import x", ["kernel imports zmq: a language knows nothing"]),
        ("kernel", "async def f():\n    import tornado", ["kernel imports tornado: a language"]),
        ("echo_comms", "import asyncio\nasyncio._x()", ["uses asyncio._x: a private name"]),
        ("__main__", "from .tools import doctor", ["__main__ imports tools.doctor at its start"]),
    ],
)
def test_a_breach_is_found_with_advice(module, source, parts):
    problems = "\n".join(breaches({**HOUSE, module: source}))
    for part in parts:
        assert part in problems


def test_a_long_chain_and_a_large_class_are_found():
    graph = {"a": {"b", "c"}, "b": {"c"}, "c": {"d"}, "d": set()}
    assert longest_chain(graph) == ["a", "b", "c", "d"]
    source = "class A:\n    def f(self):\n        self.a = self.b = 1\n        self.a += 1\n"
    assert attributes_of(source) == {"A": {"a", "b"}}
