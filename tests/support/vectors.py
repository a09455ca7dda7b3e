"""Reads the vectors of ``vectors/v1`` for the tests of the protocol."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[2] / "vectors" / "v1"

NULL = "JSON null is refused instead of read as {} (H3a, K7)"
OPEN = {
    "message/parent-null": NULL,
    "message/metadata-null": NULL,
    "message/content-null": NULL,
    "handshake-request/parent-null": NULL,
    "handshake-request/metadata-null": NULL,
    "handshake-reply-receipt/kallichore": NULL,
    "connection-file/ports-as-strings": "a port that is a numeric string is refused (F9)",
}
"""Vectors that the code does not follow yet, each with what the code does instead."""


def load(*files: str) -> list[dict[str, Any]]:
    """Return the vectors of these files, each with its file's defaults."""
    vectors = []
    for file in files:
        document = json.loads((FOLDER / f"{file}.json").read_text(encoding="ascii"))
        defaults = document["defaults"]
        for vector in document["vectors"]:
            merged = defaults | vector
            if "value" in defaults:
                merged["value"] = defaults["value"] | vector.get("value", {})
            vectors.append(merged)
    return vectors


def params(*files: str) -> list[Any]:
    """Return the vectors as parameters of a test; an open vector must fail."""
    return [
        pytest.param(
            vector,
            id=f"{vector['name']} {'+'.join(vector['proves'])}",
            marks=[pytest.mark.xfail(reason=OPEN[vector["name"]], strict=True)]
            if vector["name"] in OPEN
            else [],
        )
        for vector in load(*files)
    ]


def to_bytes(value: Any) -> bytes:
    """Return the bytes that a vector writes as a string or as an object."""
    if isinstance(value, str):
        return value.encode("utf-8")
    if "hex" in value:
        return bytes.fromhex(value["hex"])
    return value["text"].encode("utf-8") + value["then"].encode("utf-8") * value["times"]


def to_frames(values: Iterable[Any]) -> list[bytes]:
    """Return `to_bytes` of each frame."""
    return [to_bytes(value) for value in values]
