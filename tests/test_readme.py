"""What the README draws is what the code does."""

import re
from pathlib import Path

from echokernel.protocol.handshake import TRANSITIONS

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_the_states_are_those_of_the_table():
    block = re.search(r"```states\n(.*?)```", README, re.DOTALL)[1]
    drawn = re.findall(r"^(\w+) --(\w+)--> (\w+)$", block, re.MULTILINE)
    assert set(drawn) == {
        (state.value, happening.value, then.value)
        for (state, happening), then in TRANSITIONS.items()
    }


def test_every_link_leads_to_a_file():
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert (Path(__file__).parents[1] / link).exists(), link
