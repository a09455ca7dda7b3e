"""The vectors themselves: what make.py writes is what lies here."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path

HERE = Path(__file__).parent
MADE = runpy.run_path(str(HERE / "make.py"))["make"]()
SPEC_ID = re.compile(r"[FHWKCLSP]\d")


def test_the_files_are_what_make_py_writes():
    assert {path.name for path in HERE.glob("*.json")} == set(MADE)
    for name, text in MADE.items():
        same = (HERE / name).read_text(encoding="ascii") == text
        assert same, f"{name} is out of date: run `python tests/vectors/make.py`"


def test_names_are_unique_and_every_vector_proves_something():
    vectors = [one for text in MADE.values() for one in json.loads(text)["vectors"]]
    names = [one["name"] for one in vectors]
    assert sorted(names) == sorted(set(names))
    for one in vectors:
        assert one["proves"], one["name"]
        assert all(SPEC_ID.fullmatch(spec_id) for spec_id in one["proves"]), one["name"]


def test_make_py_imports_nothing_of_ours():
    assert "import echokernel" not in (HERE / "make.py").read_text(encoding="utf-8")
    assert "from echokernel" not in (HERE / "make.py").read_text(encoding="utf-8")
