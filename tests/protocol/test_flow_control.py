"""P3: the limits of flow control as settings of the command line."""

import pytest

from echokernel.protocol.flow_control import FlowLimits, is_setting, parse_settings


def test_the_default_limits_are_the_documented_limits():
    """P3."""
    assert parse_settings([]) == FlowLimits()
    assert FlowLimits().high_water_mark > FlowLimits().backlog_messages


def test_a_setting_changes_one_limit():
    """P3."""
    limits = parse_settings(["--FlowLimits.backlog_messages=7", "--FlowLimits.patience=0.5"])
    assert limits == FlowLimits(backlog_messages=7, patience=0.5)
    assert is_setting("--FlowLimits.patience=1")
    assert not is_setting("--EchoKernel.ident=me")


@pytest.mark.parametrize(
    ("argument", "sentence"),
    [
        ("--FlowLimits.patence=1", "there is no limit 'patence'; use queued_messages, "),
        ("--FlowLimits.patience", "''"),
        ("--FlowLimits.patience=nan", "'nan'"),
        ("--FlowLimits.patience=0", "'0'"),
        ("--FlowLimits.backlog_bytes=1.5", "'1.5'"),
        ("--FlowLimits.backlog_bytes=-1", "'-1'"),
        (
            "--FlowLimits.backlog_bytes=99999999999",
            "'99999999999' is not a number above 0 and below 2**31",
        ),
    ],
)
def test_the_error_of_a_wrong_setting_names_the_fault(argument, sentence):
    """P3."""
    with pytest.raises(ValueError, match="FlowLimits") as error:
        parse_settings([argument])
    assert sentence in str(error.value)
    assert "limit" in sentence or "above 0 and below 2**31" in str(error.value)
