"""docs/spec.md is the law: each id that is named is one of its lines, and each line has a test."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from echokernel.protocol.handshake import TRANSITIONS

ROOT = Path(__file__).parents[1]
SPEC = (ROOT / "docs" / "spec.md").read_text(encoding="utf-8")
LINES = re.findall(r"^- \*\*([A-Z]\d+a?)\*\* ", SPEC, re.MULTILINE)
OPEN = re.findall(r"^\| ([A-Z]\d+a?) \| .+ \|$", SPEC.partition("## 10.")[2], re.MULTILINE)
ID = re.compile(
    r"(?<![\w%.\\])([FHWKCLSPE]\d{1,2}a?)(?:[-\u2013]([FHWKCLSPE]\d{1,2}a?))?(?![\w(]|\.\w)"
)
"""An id, or a range of ids such as C1-C4."""

NAMING = ["README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"]
NAMING += ["echokernel/**/*.py", "tests/**/*.py", "examples/**/*", "benchmarks/**/*.py"]
NAMING += ["docs/*.md", "docs/*.py", "vectors/**/*.md"]

CITING = ["*.md", "docs/**/*.md", "docs/*.py", "vectors/**/*.md"]


def ids_in(text: str) -> Iterator[str]:
    for first, last in ID.findall(text):
        yield first
        if last:
            number = re.compile(r"\d+")
            low, high = (int(number.search(end)[0]) for end in (first, last))
            yield from (f"{first[0]}{n}" for n in range(low + 1, high + 1))


def files(*patterns: str) -> list[Path]:
    paths = {path for pattern in patterns for path in ROOT.glob(pattern) if path.is_file()}
    return sorted(path for path in paths if path.suffix in (".py", ".md"))


def proved_by_vectors() -> set[str]:
    documents = [json.loads(path.read_text()) for path in ROOT.glob("vectors/*/*.json")]
    return {id_ for doc in documents for vector in doc["vectors"] for id_ in vector["proves"]}


def test_an_id_has_one_line():
    assert len(LINES) > 60
    assert sorted(LINES) == sorted(set(LINES))
    assert sorted(OPEN) == sorted(set(OPEN))


def test_each_id_that_is_named_is_a_line():
    unknown = {
        f"{path.relative_to(ROOT)}: {id_}"
        for path in files(*NAMING)
        for id_ in ids_in(path.read_text(encoding="utf-8"))
        if id_ not in LINES
    }
    unknown |= {f"vectors: {id_}" for id_ in proved_by_vectors() - set(LINES)}
    unknown |= {f"section 10: {id_}" for id_ in set(OPEN) - set(LINES)}
    assert unknown == set()


def test_each_line_has_a_test_or_is_open():
    this = Path(__file__)
    proved = proved_by_vectors()
    for path in files("tests/**/test_*.py"):
        if path != this:
            proved.update(ids_in(path.read_text(encoding="utf-8")))
    assert set(LINES) - proved - set(OPEN) == set()


def test_no_document_is_cited_that_is_not_in_the_repository():
    """Titles of working papers; links are checked below."""
    paper = re.compile(r"\bSPEC\b|\bDESIGN\b|_NOTES\b|[Tt]rap \d|\bUSERS \d|\bissue \d|shared/")
    cited = {
        f"{path.relative_to(ROOT)}: {found[0]}"
        for path in files(*CITING)
        if path != Path(__file__)
        for found in paper.finditer(path.read_text(encoding="utf-8"))
    }
    assert cited == set()


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("H3a, and (F4).", ["H3a", "F4"]),
        ("C1-C4 and L1\u2013L3", ["C1", "C2", "C3", "C4", "L1", "L2", "L3"]),
        ("noqa: E501, XF4, F4x, 0xF4, SHA1 L.1", []),
    ],
)
def test_ids_are_found_in_text(text, ids):
    assert list(ids_in(text)) == ids


def test_the_states_are_those_of_the_table():
    """H3, H4."""
    block = re.search(r"```states\n(.*?)```", SPEC, re.DOTALL)[1]
    drawn = re.findall(r"^(\w+) --(\w+)--> (\w+)$", block, re.MULTILINE)
    assert set(drawn) == {
        (state.value, event.value, following.value)
        for (state, event), following in TRANSITIONS.items()
    }


def test_each_link_of_a_document_leads_to_a_file():
    broken = [
        f"{path.relative_to(ROOT)}: {link}"
        for path in files("*.md", "docs/*.md", "vectors/**/*.md")
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8"))
        if not (path.parent / link).exists()
    ]
    assert broken == []
