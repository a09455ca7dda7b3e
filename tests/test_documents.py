"""The documents draw what the code does, and link to files that exist."""

import re
from pathlib import Path

import pytest

from echokernel.protocol.handshake import TRANSITIONS

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("examples/*/*.md")])


@pytest.mark.parametrize("name", ["docs/architecture.md", "docs/spec.md"])
def test_the_states_are_those_of_the_table(name):
    block = re.search(r"```states\n(.*?)```", (ROOT / name).read_text(encoding="utf-8"), re.DOTALL)
    drawn = re.findall(r"^(\w+) --(\w+)--> (\w+)$", block[1], re.MULTILINE)
    assert set(drawn) == {
        (state.value, event.value, next_state.value)
        for (state, event), next_state in TRANSITIONS.items()
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_to_a_file(document):
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", document.read_text(encoding="utf-8")):
        if not link.startswith(("http:", "https:", "mailto:")):
            assert (document.parent / link).exists(), link
