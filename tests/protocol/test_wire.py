"""wire.py: split, sign, verify, pack, unpack."""

from __future__ import annotations

import pytest
from support.vectors import params, to_bytes, to_frames

from echokernel.protocol.errors import BadSignature, MalformedMessage
from echokernel.protocol.headers import header
from echokernel.protocol.wire import (
    DELIMITER,
    Message,
    Signer,
    hash_name,
    pack_json,
    pack_message,
    pack_signed_frame,
    split,
    unpack_message,
    unpack_object,
    unpack_signed_frame,
)

KEY = b"a-key-that-must-stay-secret"
ERRORS = {"malformed": MalformedMessage, "bad-signature": BadSignature}


# --- signatures ---------------------------------------------------------------------------


@pytest.mark.parametrize("vector", params("signatures"))
def test_a_signature_is_the_lower_case_hex_hmac_of_the_frames(vector):
    """H3, L3: the vectors, including those of RFC 4231; any other signature is refused."""
    signer = Signer(to_bytes(vector["key"]), vector["signature_scheme"])
    frames, signature = to_frames(vector["frames"]), vector["signature"].encode()
    assert signer.sign(frames) == signature
    assert signer.verify(signature, frames)
    for wrong in (b"", signature[:-1], signature + b"0", signature.upper() + b"0", b"\xff"):
        assert signer.verify(wrong, frames) is not signer.keyed
    assert signer.verify(signature, [*frames, b"x"]) is not signer.keyed


def test_a_signature_does_not_depend_on_earlier_signatures():
    """H3, L3."""
    signer = Signer(KEY)
    assert signer.sign([b"a"]) == signer.sign([b"a"])


@pytest.mark.parametrize(
    ("scheme", "sentence"),
    [
        ("sha256", "unknown signature scheme 'sha256'; use for example 'hmac-sha256'"),
        ("hmac-", "unknown signature scheme 'hmac-'; use for example 'hmac-sha256'"),
        ("", "unknown signature scheme ''; use for example 'hmac-sha256'"),
        ("hmac-rot13", "unknown signature scheme 'hmac-rot13'; use for example 'hmac-sha256'"),
        ("hmac-shake_128", "'hmac-shake_128' has no digest that an HMAC can use"),
    ],
)
def test_an_unknown_scheme_is_refused(scheme, sentence):
    """F3: unknown signature scheme."""
    for use in (hash_name, lambda scheme: Signer(KEY, scheme)):
        with pytest.raises(ValueError) as caught:  # noqa: PT011
            use(scheme)
        assert str(caught.value) == sentence


def test_a_signer_does_not_show_its_key():
    """F4."""
    assert repr(Signer(KEY)) == "Signer(keyed)"
    assert repr(Signer(b"")) == "Signer(no key)"
    assert not any(KEY in str(value).encode() for value in vars(Signer(KEY)).values())


# --- messages -----------------------------------------------------------------------------


@pytest.mark.parametrize("vector", params("messages"))
def test_a_message_is_packed_and_unpacked(vector):
    """K4, K7: the vectors; a bad signature, or a message that does not parse, is refused."""
    signer, frames = Signer(to_bytes(vector["key"])), to_frames(vector["frames"])
    if "error" in vector:
        with pytest.raises(ERRORS[vector["error"]]):
            unpack_message(frames, signer)
        return
    value = dict(vector["value"])
    value |= {name: to_frames(value[name]) for name in ("identities", "buffers")}
    message = Message(**value)
    assert unpack_message(frames, signer) == message
    assert pack_message(message, signer) == frames
    assert message.msg_type == value["header"]["msg_type"]


@pytest.mark.parametrize(
    ("frames", "expected"),
    [
        ([DELIMITER], ([], [])),
        ([b"a", b"", DELIMITER, b"s"], ([b"a", b""], [b"s"])),
        ([b"a", DELIMITER, b"s", DELIMITER], ([b"a"], [b"s", DELIMITER])),
    ],
)
def test_the_first_delimiter_splits(frames, expected):
    """K4."""
    assert split(frames) == expected
    assert split(tuple(frames)) == expected


def test_a_header_has_the_fields_of_the_messaging_protocol():
    """K2: protocol version 5.6, two parts."""
    assert header("status", msg_id="m", session="s", date="2026-11-20T12:00:00Z") == {
        "msg_id": "m",
        "msg_type": "status",
        "session": "s",
        "username": "kernel",
        "date": "2026-11-20T12:00:00Z",
        "version": "5.6",
    }


@pytest.mark.parametrize(
    ("value", "frame"),
    [
        ({}, b"{}"),
        ({"a": [1, None]}, b'{"a":[1,null]}'),
        ({"\u00e9": "\u4e16"}, b'{"\xc3\xa9":"\xe4\xb8\x96"}'),
    ],
)
def test_json_is_packed_as_compact_utf8(value, frame):
    """K7: and unpacked from it."""
    assert pack_json(value) == frame
    assert unpack_object(frame, "it") == value


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_number_that_json_cannot_express_is_refused(value):
    """JSON has neither NaN nor infinity."""
    with pytest.raises(ValueError, match="JSON compliant"):
        pack_json({"x": value})


@pytest.mark.parametrize(
    ("frame", "sentence"),
    [
        (b"", "it is not UTF-8 JSON"),
        (b"\xff", "it is not UTF-8 JSON"),
        (b"[" * 50_000, "it is not UTF-8 JSON"),
        (b'{"a":' + b"9" * 5000 + b"x", "it is not UTF-8 JSON"),
        (b"[{}]", "it is not a JSON object"),
        (b"null", "it is not a JSON object"),
    ],
    ids=lambda value: repr(value[:20]),
)
def test_a_frame_without_a_json_object_is_malformed(frame, sentence):
    """K4, L3."""
    with pytest.raises(MalformedMessage, match=f"^{sentence}$"):
        unpack_object(frame, "it")


# --- signed frames ------------------------------------------------------------------------


@pytest.mark.parametrize("identities", [[], [b""], [b"router", b"", b"hop"]])
@pytest.mark.parametrize("key", [KEY, b""])
@pytest.mark.parametrize("body", [b"", b"ACK", b"{}", DELIMITER, b"\x00\xff"])
def test_a_signed_frame_is_packed_and_unpacked(body, key, identities):
    """H3: the body can be any bytes; the identities are in front of the delimiter."""
    signer = Signer(key)
    frames = pack_signed_frame(body, signer, identities)
    assert frames == [*identities, DELIMITER, signer.sign([body]), body]
    assert unpack_signed_frame(frames, signer) == body


def test_a_signed_frame_without_two_frames_and_a_valid_signature_is_refused():
    """H3, L3."""
    frames = pack_signed_frame(b"ACK", Signer(KEY))
    for odd in (frames[:1], frames[:2], [*frames, b""], frames[1:]):
        with pytest.raises(MalformedMessage):
            unpack_signed_frame(odd, Signer(KEY))
    for wrong in ([DELIMITER, b"", b"ACK"], pack_signed_frame(b"ACK", Signer(b"other"))):
        with pytest.raises(BadSignature):
            unpack_signed_frame(wrong, Signer(KEY))
