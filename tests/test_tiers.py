"""The tests that only the full suite runs."""

import pytest
from support.tiers import EVERYTHING, FULL_SUITE_ONLY, TESTS, is_selected

ABUSE = TESTS / "abuse" / "test_interrupt_storm.py"
WIRE = TESTS / "protocol" / "test_wire.py"


@pytest.mark.parametrize("name", FULL_SUITE_ONLY)
def test_each_entry_exists(name):
    assert (TESTS / name).exists()


def test_the_selection(monkeypatch):
    monkeypatch.delenv(EVERYTHING, raising=False)
    assert is_selected(WIRE, [str(TESTS)])
    assert not is_selected(ABUSE, [str(TESTS)])
    assert is_selected(ABUSE, [str(TESTS / "abuse")])
    assert is_selected(ABUSE, [f"{ABUSE}::test_one"])
    assert not is_selected(ABUSE, [str(TESTS / "server")])
    monkeypatch.setenv(EVERYTHING, "1")
    assert is_selected(ABUSE, [str(TESTS)])
