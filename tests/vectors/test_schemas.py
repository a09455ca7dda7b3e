"""The schemas accept the valid files and objects of the vectors, and refuse the malformed ones."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from support.vectors import FOLDER, load, to_bytes, to_frames

SCHEMAS = {
    path.stem: json.loads(path.read_text(encoding="ascii"))
    for path in (FOLDER / "schemas").glob("*.json")
}
NOT_EXPRESSIBLE = {
    "-taken": "JSON Schema cannot compare two ports",
    "-taken-number": "JSON Schema cannot compare two ports",
    "-taken-string": "JSON Schema cannot compare two ports",
    "port-float": "50001.0 is an integer in JSON Schema",
    "scheme-unknown-hash": "the schema does not list the hashes of an implementation",
    "scheme-no-fixed-length": "the schema does not list the hashes of an implementation",
    "-surrogate": "a pattern cannot name a lone surrogate",
}
"""Name endings of malformed vectors that a schema accepts, and the reason."""


def accepts(name: str, document: Any) -> bool:
    return Draft202012Validator(SCHEMAS[name]).is_valid(document)


def bodies(*files: str) -> list[Any]:
    """Return (vector, parsed last frame) of the vectors whose last frame can be parsed."""
    cases = []
    for vector in load(*files):
        frames = to_frames(vector["frames"])
        parts = 1 if vector["form"] == "signed-frame" else 4
        if "signature" in vector["name"] or b"<IDS|MSG>" not in frames:
            continue
        signed = frames[frames.index(b"<IDS|MSG>") + 2 :][:parts]
        try:
            cases.append(pytest.param(vector, json.loads(signed[-1]), id=vector["name"]))
        except (IndexError, ValueError, RecursionError):
            continue
    return cases


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_a_schema_conforms_to_draft_2020_12(name):
    assert SCHEMAS[name]["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    Draft202012Validator.check_schema(SCHEMAS[name])


@pytest.mark.parametrize(
    "vector", load("startup-connection", "startup-registration"), ids=lambda vector: vector["name"]
)
def test_a_startup_file_fits_exactly_one_schema(vector):
    """F1, F2, F5-F7, F9, H2: that of its kind."""
    matching = {
        name for name in ("connection-file", "registration-file") if accepts(name, vector["file"])
    }
    assert matching == {f"{vector['kind']}-file"}


@pytest.mark.parametrize("vector", load("startup-malformed"), ids=lambda vector: vector["name"])
def test_a_malformed_startup_file_fits_no_schema(vector):
    """F3."""
    try:
        document = json.loads(to_bytes(vector["text"]).decode("utf-8"))
    except (ValueError, RecursionError):
        return  # not a JSON document
    accepted = accepts("connection-file", document) or accepts("registration-file", document)
    assert accepted == vector["name"].endswith(tuple(NOT_EXPRESSIBLE))


REGISTRATIONS = bodies("registration-signed-frame", "registration-handshake-request")


@pytest.mark.parametrize(
    ("vector", "body"), [case for case in REGISTRATIONS if "value" in case.values[0]]
)
def test_a_registration_fits_its_schema(vector, body):
    """L3."""
    assert accepts("registration", body)


@pytest.mark.parametrize(
    ("vector", "body"),
    [
        case
        for case in REGISTRATIONS
        if any(word in case.id for word in ("/port-", "port-missing", "kernel-id-", "/body-"))
        and case.values[0].get("error") == "malformed"
    ],
)
def test_a_malformed_registration_does_not_fit(vector, body):
    """L3."""
    assert accepts("registration", body) == vector["name"].endswith(tuple(NOT_EXPRESSIBLE))


@pytest.mark.parametrize(
    ("vector", "body"),
    [
        case
        for case in bodies("receipt-handshake-reply")
        if "value" in case.values[0] or "status" in case.id or "content-list" in case.id
    ],
)
def test_a_receipt_fits_its_schema_if_it_is_valid(vector, body):
    """H3, H4."""
    assert accepts("receipt", body) == ("value" in vector)


@pytest.mark.parametrize("status", ["ok", "error"])
def test_a_receipt_has_a_status(status):
    """H3, H4."""
    assert accepts("receipt", {"status": status})
    assert not accepts("receipt", {status: status})
