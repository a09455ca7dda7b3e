"""The vectors, checked by a second implementation that shares no code with echokernel.

It uses the standard library only: an error of echokernel cannot hide in the vectors.
"""

from __future__ import annotations

import hmac
import json
import re
from typing import Any

import pytest
from support.vectors import FOLDER, load, to_bytes, to_frames

FILES = sorted(path.stem for path in FOLDER.glob("*.json"))
WIRE = [file for file in FILES if file.startswith(("messages", "registration", "receipt"))]
PARTS = ("header", "parent_header", "metadata", "content")
CHANNELS = ("shell", "iopub", "stdin", "control", "hb")


class Malformed(Exception):
    pass


class BadSignature(Exception):
    pass


def sign(parts: list[bytes], vector: dict[str, Any]) -> bytes:
    scheme = vector.get("signature_scheme", "hmac-sha256")
    mac = hmac.new(to_bytes(vector["key"]), b"".join(parts), scheme.removeprefix("hmac-"))
    return mac.hexdigest().encode()


def json_object(frame: bytes, null: bool = False) -> dict[str, Any]:
    try:
        value = json.loads(frame.decode("utf-8"))
    except (ValueError, RecursionError):
        raise Malformed from None
    if null and value is None:
        return {}
    if not isinstance(value, dict):
        raise Malformed
    return value


def signed_parts(
    vector: dict[str, Any], number: int, can_have_buffers: bool = False
) -> tuple[list[bytes], list[bytes], list[bytes]]:
    """Return (identities, ``number`` signed frames, buffers), the signature verified."""
    frames = to_frames(vector["frames"])
    if b"<IDS|MSG>" not in frames:
        raise Malformed
    at = frames.index(b"<IDS|MSG>")
    identities, rest = frames[:at], frames[at + 1 :]
    if len(rest) < 1 + number or (len(rest) > 1 + number and not can_have_buffers):
        raise Malformed
    signature, parts = rest[0], rest[1 : 1 + number]
    if to_bytes(vector["key"]) and signature != sign(parts, vector):
        raise BadSignature
    return identities, parts, rest[1 + number :]


def message(vector: dict[str, Any], can_have_buffers: bool = True) -> dict[str, Any]:
    identities, parts, buffers = signed_parts(vector, 4, can_have_buffers)
    value = {
        name: json_object(part, null=name != "header")
        for name, part in zip(PARTS, parts, strict=True)
    }
    for name in ("msg_id", "msg_type"):
        if not isinstance(value["header"].get(name), str):
            raise Malformed
    return {**value, "identities": identities, "buffers": buffers}


def ports(content: dict[str, Any]) -> dict[str, int]:
    numbers = {}
    for channel in CHANNELS:
        port = content.get(f"{channel}_port")
        if isinstance(port, str) and re.fullmatch("[0-9]{1,5}", port):
            port = int(port)
        if type(port) is not int or not 0 < port < 65536 or port in numbers.values():
            raise Malformed
        numbers[f"{channel}_port"] = port
    return numbers


def registration(vector: dict[str, Any]) -> dict[str, Any]:
    if vector["form"] == "signed-frame":
        body = json_object(signed_parts(vector, 1)[1][0])
        if not isinstance(body.get("kernel_id"), str | None):
            raise Malformed
        return {"kernel_id": body.get("kernel_id"), "ports": ports(body)}
    request = message(vector, can_have_buffers=False)
    if request["header"]["msg_type"] != "handshake_request":
        raise Malformed
    return {"kernel_id": None, "ports": ports(request["content"])}


def receipt(vector: dict[str, Any]) -> dict[str, Any]:
    if vector["form"] == "signed-frame":
        body = signed_parts(vector, 1)[1][0]
        try:
            content = json_object(body)
        except Malformed:
            content = {}
        refused = content.get("status") == "error"
    else:
        reply = message(vector)
        content = reply["content"]
        if reply["header"]["msg_type"] != "handshake_reply":
            raise Malformed
        if content.get("status") not in ("ok", "error"):
            raise Malformed
        refused = content["status"] == "error"
    reasons = [content.get(name) for name in ("error", "evalue", "ename")]
    reasons = [" ".join(text.split()) for text in reasons if isinstance(text, str)]
    reason = next(filter(None, reasons), "no reason given")
    return {"refusal": reason if refused else None}


READERS = {"messages": message, "registration": registration, "receipt": receipt}


@pytest.mark.parametrize(
    ("file", "vector"),
    [pytest.param(file, vector, id=vector["name"]) for file in WIRE for vector in load(file)],
)
def test_the_frames_have_the_value_or_the_error_of_the_vector(file, vector):
    """H2, H3, H3a, L3, K4, K7: a second implementation agrees with the vectors."""
    reader = READERS[file.partition("-")[0]]
    if vector.get("error") == "malformed":
        with pytest.raises(Malformed):
            reader(vector)
    elif vector.get("error") == "bad-signature":
        with pytest.raises(BadSignature):
            reader(vector)
    else:
        expected = dict(vector["value"])
        for name in {"identities", "buffers"} & expected.keys():
            expected[name] = to_frames(expected[name])
        assert reader(vector) == expected


@pytest.mark.parametrize("vector", load("signatures"), ids=lambda vector: vector["name"])
def test_a_signature_is_the_hmac_of_the_frames(vector):
    """H3, L3: an empty key has an empty signature."""
    expected = sign(to_frames(vector["frames"]), vector) if vector["key"] else b""
    assert vector["signature"].encode() == expected


@pytest.mark.parametrize("vector", load("subscriptions"), ids=lambda vector: vector["name"])
def test_a_welcome_is_signed_and_names_its_topic(vector):
    """W2, W3, W4: only a subscription has a welcome."""
    frames = to_frames(vector["frames"])
    events = {b"\x00": "unsubscribed", b"\x01": "subscribed"}
    event = events.get(frames[0][:1], "malformed") if len(frames) == 1 else "malformed"
    assert vector["event"] == event
    if event != "malformed":
        assert to_bytes(vector["topic"]) == frames[0][1:]
    if vector["welcome"] is None:
        return
    topic = frames[0][1:]
    *front, delimiter, signature, header, parent, metadata, content = to_frames(
        vector["welcome"]["frames"]
    )
    assert (event, delimiter) == ("subscribed", b"<IDS|MSG>")
    assert front == ([topic] if topic else [])
    assert signature == sign([header, parent, metadata, content], vector)
    assert json.loads(header) == vector["header"]
    assert (parent, metadata) == (b"{}", b"{}")
    assert json.loads(content) == {"subscription": vector["welcome"]["subscription"]}
    assert vector["welcome"]["subscription"].encode() == topic


def test_names_are_unique_and_each_vector_has_a_source():
    vectors = load(*FILES)
    names = [vector["name"] for vector in vectors]
    assert sorted(names) == sorted(set(names))
    for vector in vectors:
        assert vector["proves"], vector["name"]
        assert vector["source"], vector["name"]
