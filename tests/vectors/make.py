"""Writes the vectors: ``python make.py``. README.md says what is in them.

Nothing of echokernel is imported here: signatures and JSON come from the standard library and
expectations from the specification, so that an error of ours cannot hide in its own vectors.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

DELIMITER = b"<IDS|MSG>"
KEY = b"3a1f7c52-echo-key-9be04d"
OTHER_KEY = b"77d0a1b4-other-key-c6512e"
KERNEL_ID = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
ROUTER_ID = bytes.fromhex("006b8b4567")
PORTS = {"shell": 50001, "iopub": 50002, "stdin": 50003, "control": 50004, "hb": 50005}
EDGE_PORTS = {"shell": 1, "iopub": 65535, "stdin": 80, "control": 8080, "hb": 65534}
PUBLIC = "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID"  # an example pair of libzmq's manual
SECRET = "D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs"
DEEP = b'{"a":' + b"[" * 50000  # never closed: no JSON for any parser, however deep it goes
DEEP_HEX = b'{"a":'.hex() + " 5b*50000"


def header(msg_type: str) -> dict[str, str]:
    return {
        "msg_id": "0d9f5ad1",
        "msg_type": msg_type,
        "session": "5e551017",
        "username": "kernel",
        "date": "2026-11-20T12:00:00+00:00",
        "version": "5.6",
    }


def compact(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


def sign(parts: list[bytes], key: bytes = KEY, name: str = "sha256") -> bytes:
    return hmac.new(key, b"".join(parts), name).hexdigest().encode() if key else b""


def frame(data: bytes) -> str:
    return DEEP_HEX if data == DEEP else data.hex()


def vector(name: str, proves: str, description: str, /, **rest: Any) -> dict[str, Any]:
    made = {"name": name, "proves": proves.split(), "description": description}
    return made | {key.replace("__", "-"): value for key, value in rest.items()}


def wire(name: str, proves: str, about: str, frames: list[bytes], /, **rest: Any) -> dict[str, Any]:
    shown = " | ".join(f.decode("ascii", "backslashreplace") for f in frames)
    if len(shown) > 2000:
        shown = shown[:60] + " ..."
    return vector(name, proves, about, frames=[frame(f) for f in frames], shown=shown, **rest)


MALFORMED: Any = {"error": "malformed"}
BAD_SIGNATURE: Any = {"error": "bad-signature"}


# --- signatures ---------------------------------------------------------------------------


def signatures() -> dict[str, Any]:
    # RFC 4231, cases 1 and 2: values that nobody here computed.
    jefe = [b"what do ya want ", b"for nothing?"]
    rfc1 = "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7"
    rfc2 = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
    rfc512 = (
        "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554"
        "9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737"
    )
    rows = [
        ("rfc4231-1", b"\x0b" * 20, "hmac-sha256", [b"Hi There"], rfc1),
        ("rfc4231-2-in-two-frames", b"Jefe", "hmac-sha256", jefe, rfc2),
        ("rfc4231-2-sha512", b"Jefe", "hmac-sha512", jefe, rfc512),
        ("no-frames", KEY, "hmac-sha256", [], sign([]).decode()),
        ("empty-frames", KEY, "hmac-sha256", [b"", b""], sign([]).decode()),
        ("key-longer-than-a-block", b"k" * 200, "hmac-sha256", [b"{}"],
         hmac.new(hashlib.sha256(b"k" * 200).digest(), b"{}", "sha256").hexdigest()),
        ("empty-key", b"", "hmac-sha256", [b"{}", b"{}"], ""),
    ]  # fmt: skip
    about = "signature = lower-case hex HMAC over the frames, joined; empty with an empty key"
    return {
        "about": about,
        "vectors": [
            vector(f"signature/{name}", "H3 L3", about, key=key.hex(), signature_scheme=scheme,
                   frames=[f.hex() for f in frames], signature=signature)
            for name, key, scheme, frames, signature in rows
        ],
    }  # fmt: skip


# --- Jupyter messages ---------------------------------------------------------------------


def message_frames(
    parts: list[bytes], *, ids: Any = (), key: bytes = KEY, name: str = "sha256", buffers: Any = ()
) -> list[bytes]:
    return [*ids, DELIMITER, sign(parts, key, name), *parts, *buffers]


def messages() -> dict[str, Any]:
    head, text = header("stream"), {"name": "stdout", "text": "a\n\u00e9\u4e16\U0001f600"}
    parts = [head, {**head, "msg_type": "execute_request"}, {"x": [1, None, True, 0.5]}, text]

    def good(name: str, about: str, values: list[Any], **rest: Any) -> dict[str, Any]:
        frames = message_frames([compact(v) for v in values], **rest)
        ids, buffers = ([b.hex() for b in rest.get(k, ())] for k in ("ids", "buffers"))
        names = ("header", "parent_header", "metadata", "content")
        value = dict(zip(names, values, strict=True), identities=ids, buffers=buffers)
        key = {"key": rest["key"].hex()} if "key" in rest else {}
        return wire(f"message/{name}", "K4", about, frames, both=True, value=value, **key)

    def bad(name: str, about: str, frames: list[bytes], expect: Any) -> dict[str, Any]:
        return wire(f"message/{name}", "K4", about, frames, **expect)

    plain = [compact(v) for v in (head, {}, {}, {})]
    whole = message_frames(plain)

    def with_part(at: int, part: bytes) -> list[bytes]:
        return message_frames([*plain[:at], part, *plain[at + 1 :]])

    no_id = {k: v for k, v in head.items() if k != "msg_id"}
    vectors = [
        good("plain", "no identities, no buffers", [head, {}, {}, {}]),
        good("full", "non-ASCII text is sent as UTF-8, not escaped", parts),
        good("identities", "everything before the delimiter", parts, ids=[ROUTER_ID, b""]),
        good("buffers", "behind the content, not signed; one may look like a delimiter",
             parts, buffers=[b"\x00\xff", b"", DELIMITER]),
        good("empty-key", "the signature is empty", parts, key=b""),
        bad("nothing", "no frame at all", [], MALFORMED),
        bad("no-delimiter", "", [b"", *whole[1:]], MALFORMED),
        bad("delimiter-not-alone", "a frame is the delimiter, or it is not",
            [DELIMITER + b" ", *whole[1:]], MALFORMED),
        bad("truncated", "no content", whole[:-1], MALFORMED),
        bad("wrong-signature", "another key's", message_frames(plain, key=OTHER_KEY),
            BAD_SIGNATURE),
        bad("content-replaced", "signed, then altered", [*whole[:-1], b'{"a":1}'], BAD_SIGNATURE),
        bad("signature-before-json", "verified before any JSON is read",
            [DELIMITER, b"", b"{", b"", b"", b""], BAD_SIGNATURE),
        bad("header-not-json", "", with_part(0, b"{"), MALFORMED),
        bad("header-is-a-list", "", with_part(0, b"[]"), MALFORMED),
        bad("header-not-utf8", "", with_part(0, b'{"msg_id":"\xff","msg_type":"x"}'), MALFORMED),
        bad("header-without-msg-id", "", with_part(0, compact(no_id)), MALFORMED),
        bad("header-msg-type-a-number", "", with_part(0, compact({**head, "msg_type": 7})),
            MALFORMED),
        bad("parent-null", "an object is needed", with_part(1, b"null"), MALFORMED),
        bad("metadata-empty-frame", "", with_part(2, b""), MALFORMED),
        bad("content-a-string", "", with_part(3, b'"text"'), MALFORMED),
        bad("content-nested-deeply", "must not exhaust the stack", with_part(3, DEEP), MALFORMED),
    ]  # fmt: skip
    about = "a Jupyter message <-> its frames"
    return {"about": about, "defaults": {"key": KEY.hex()}, "vectors": vectors}


# --- registrations ------------------------------------------------------------------------

ODD_PORTS: list[tuple[str, Any]] = [
    ("null", None), ("zero", 0), ("zero-string", "0"), ("negative", -1), ("too-big", 65536),
    ("too-big-string", "65536"), ("huge", 10**19), ("float", 50001.0), ("fraction", 50001.5),
    ("boolean", True), ("list", [50001]), ("object", {}), ("empty-string", ""),
    ("space-in-front", " 50001"), ("plus", "+50001"), ("minus", "-50001"), ("hex", "0xc351"),
    ("exponent", "5e4"), ("underscore", "50_001"), ("float-string", "50001.0"),
    ("word", "shell"), ("full-width-digits", "\uff15\uff10\uff10\uff10\uff11"),
    ("arabic-digits", "\u0665\u0660\u0660\u0660\u0661"), ("superscript", "8\u00b2"),
    ("taken-number", 50002), ("taken-string", "50002"),
]  # fmt: skip
ODD_BODIES: list[tuple[str, bytes]] = [
    ("empty", b""), ("not-json", b"ACK"), ("not-utf8", b'{"kernel_id":"\xff"}'),
    ("bom", b"\xef\xbb\xbf{}"), ("list", b"[]"), ("string", b'"{}"'), ("null", b"null"),
    ("number", b"7"), ("two-objects", b"{}{}"), ("empty-object", b"{}"), ("nested-deeply", DEEP),
]  # fmt: skip


def keys(ports: dict[str, int], kind: type = int) -> dict[str, Any]:
    return {f"{channel}_port": kind(port) for channel, port in ports.items()}


def signed(
    body: bytes, *, ids: Any = (), key: bytes = KEY, name: str = "sha256", signature: Any = None
) -> list[bytes]:
    return [*ids, DELIMITER, sign([body], key, name) if signature is None else signature, body]


def odd_signatures(parts: list[bytes]) -> list[tuple[str, str, bytes]]:
    true = sign(parts)
    return [
        ("signature-of-another-key", "", sign(parts, OTHER_KEY)),
        ("signature-of-another-hash", "sha512's", sign(parts, name="sha512")),
        ("signature-empty", "refused, since there is a key", b""),
        ("signature-upper-case", "hex is lower case", true.upper()),
        ("signature-truncated", "a prefix proves nothing", true[:32]),
        ("signature-lengthened", "", true + b"00"),
        ("signature-as-bytes", "the digest itself, not hex", bytes.fromhex(true.decode())),
        ("signature-covers-the-delimiter", "only what follows it", sign([DELIMITER, *parts])),
        ("signature-not-ascii", "no reason to fail otherwise", b"\xff" * 64),
    ]


def registration_signed_frame() -> dict[str, Any]:
    body = {**keys(PORTS, str), "kernel_id": KERNEL_ID}
    raw = compact(body)
    whole = signed(raw)

    def good(
        name: str, proves: str, about: str, frames: list[bytes], *,
        kernel_id: str | None = KERNEL_ID, ports: dict[str, int] = PORTS, **rest: Any,
    ) -> dict[str, Any]:  # fmt: skip
        value = {"kernel_id": kernel_id, "ports": keys(ports)}
        return wire(f"signed-frame/{name}", proves, about, frames, **rest, value=value)

    def bad(name: str, about: str, frames: list[bytes], expect: Any) -> dict[str, Any]:
        return wire(f"signed-frame/{name}", "L3", about, frames, **expect)

    unnamed, sha512 = compact(keys(PORTS, str)), {"signature_scheme": "hmac-sha512"}
    edge = compact({**keys(EDGE_PORTS, str), "kernel_id": KERNEL_ID})
    named = compact({**body, "kernel_id": "\u00e9cho \u4e16"})
    front = [ROUTER_ID, b"hop", b""]
    no_key: Any = {"key": "", "both": True}
    vectors = [
        good("plain", "H2 L3", "as in the messaging docs: ports are strings", whole, both=True),
        good("no-kernel-id", "L2", "known by its key", signed(unnamed), kernel_id=None, both=True),
        good("kernel-id-null", "L2", "as if it were not there",
             signed(compact({**body, "kernel_id": None})), kernel_id=None),
        good("kernel-id-not-ascii", "L2", "UTF-8", signed(named), both=True,
             kernel_id="\u00e9cho \u4e16"),
        good("lowest-and-highest-ports", "L3", "", signed(edge), ports=EDGE_PORTS, both=True),
        good("sha512", "H2", "signature_scheme", signed(raw, name="sha512"), both=True, **sha512),
        good("empty-key", "F4 L3", "then the signature is empty", signed(raw, key=b""), **no_key),
        good("empty-key-some-signature", "F4", "nothing can be checked", whole, key=""),
        good("router-identity", "L2", "as a ROUTER hands it out", [ROUTER_ID, *whole]),
        good("hops-and-empty-frame", "L2", "every frame in front is the way back", front + whole),
        good("ports-as-numbers", "L3", "either form's spelling is read",
             signed(compact({**keys(PORTS), "kernel_id": KERNEL_ID}))),
        good("sorted-keys", "L3", "as xeus-zmq sends it",
             signed(json.dumps(body, sort_keys=True).encode())),
        good("indented", "L3", "the signature is of the bytes, not of the value",
             signed(json.dumps(body, indent=2).encode())),
        good("unknown-keys", "L3", "ignored", signed(compact({**body, "pid": 7, "x": [{}]}))),
        *(bad(n, a, signed(raw, signature=s), BAD_SIGNATURE) for n, a, s in odd_signatures([raw])),
        bad("body-replaced", "signed, then altered", [*whole[:2], edge], BAD_SIGNATURE),
        bad("nothing", "no frame at all", [], MALFORMED),
        bad("only-an-identity", "", [ROUTER_ID], MALFORMED),
        bad("no-delimiter", "", whole[1:], MALFORMED),
        bad("only-a-delimiter", "", whole[:1], MALFORMED),
        bad("no-body", "", whole[:2], MALFORMED),
        bad("no-signature", "", [whole[0], raw], MALFORMED),
        bad("frame-more", "", [*whole, b""], MALFORMED),
        bad("two-frames-more", "", [*whole, b"", b""], MALFORMED),
        bad("delimiter-twice", "the first one counts", [DELIMITER, *whole], MALFORMED),
        *(bad(f"body-{n}", "", signed(b), MALFORMED) for n, b in ODD_BODIES),
        *(bad(f"kernel-id-{n}", "no string", signed(compact({**body, "kernel_id": v})), MALFORMED)
          for n, v in [("number", 7), ("list", [KERNEL_ID]), ("object", {}), ("boolean", False)]),
        *(bad(f"{c}-port-missing", "", signed(compact({k: v for k, v in body.items()
              if k != f"{c}_port"})), MALFORMED) for c in PORTS),
        *(bad(f"port-{n}", "", signed(compact({**body, "shell_port": v})), MALFORMED)
          for n, v in ODD_PORTS),
    ]  # fmt: skip
    about = "kernel -> launcher, signed frame form: delimiter, signature, one JSON object"
    defaults = {"form": "signed-frame", "key": KEY.hex(), "signature_scheme": "hmac-sha256"}
    return {"about": about, "defaults": defaults, "vectors": vectors}


def request_frames(content: Any = None, *, head: Any = None, **rest: Any) -> list[bytes]:
    parts = [header("handshake_request") if head is None else head, {}, {}]
    made = [compact(p) for p in parts]
    made.append(content if isinstance(content, bytes) else compact(content or keys(PORTS)))
    return message_frames(made, **{"ids": [b""], **rest})


def registration_handshake_request() -> dict[str, Any]:
    head = header("handshake_request")
    whole = request_frames()
    parts = whole[3:]

    def good(
        name: str, proves: str, about: str, frames: list[bytes], *,
        ports: dict[str, int] = PORTS, **rest: Any,
    ) -> dict[str, Any]:  # fmt: skip
        value = {"kernel_id": None, "ports": keys(ports)}
        return wire(f"handshake-request/{name}", proves, about, frames, **rest, value=value)

    def bad(name: str, about: str, frames: list[bytes], expect: Any) -> dict[str, Any]:
        return wire(f"handshake-request/{name}", "L3", about, frames, **expect)

    def with_part(at: int, part: bytes) -> list[bytes]:
        return message_frames([*parts[:at], part, *parts[at + 1 :]], ids=[b""])

    def resigned(signature: bytes) -> list[bytes]:
        return [*whole[:2], signature, *parts]

    heads: list[tuple[str, Any]] = [
        ("msg-type-unknown", {**head, "msg_type": "handshake"}),
        ("msg-type-of-the-reply", {**head, "msg_type": "handshake_reply"}),
        ("msg-type-a-number", {**head, "msg_type": 7}),
        ("msg-type-missing", {"msg_id": "1"}),
        ("msg-id-missing", {"msg_type": "handshake_request"}),
        ("msg-id-null", {**head, "msg_id": None}),
        ("header-list", [head]),
    ]
    small, parent = {"msg_id": "1", "msg_type": "handshake_request"}, compact({"msg_id": "p"})
    no_key: Any = {"key": "", "both": True}
    vectors = [
        good("plain", "H2 L3", "from a REQ: one empty frame in front", whole, both=True),
        good("lowest-and-highest-ports", "L3", "", request_frames(keys(EDGE_PORTS)), both=True,
             ports=EDGE_PORTS),
        good("sha512", "H2", "signature_scheme", request_frames(name="sha512"), both=True,
             signature_scheme="hmac-sha512"),
        good("empty-key", "F4 L3", "then the signature is empty", request_frames(key=b""),
             **no_key),
        good("no-empty-frame", "L2", "from a DEALER, or as a REP hands it out", whole[1:]),
        good("router-identity", "L2", "as a ROUTER hands it out", [ROUTER_ID, *whole]),
        good("ports-as-strings", "L3", "either form's spelling is read",
             request_frames(keys(PORTS, str))),
        good("kernel-id", "L2", "means nothing in this form",
             request_frames({**keys(PORTS), "kernel_id": KERNEL_ID})),
        good("small-header", "L3", "msg_id and msg_type suffice", request_frames(head=small)),
        good("parent", "L3", "means nothing here", with_part(1, parent)),
        *(bad(n, a, resigned(s), BAD_SIGNATURE) for n, a, s in odd_signatures(parts)),
        bad("signature-of-the-content", "all four frames are signed", resigned(sign(parts[3:])),
            BAD_SIGNATURE),
        bad("header-replaced", "signed, then altered", [*whole[:3], compact(small), *whole[4:]],
            BAD_SIGNATURE),
        bad("only-an-empty-frame", "", [b""], MALFORMED),
        *(bad(f"{n}-frames", "behind the delimiter", whole[: n + 2], MALFORMED) for n in range(5)
          if n != 2),
        bad("frame-more", "a registration has no buffers", [*whole, b""], MALFORMED),
        bad("delimiter-twice", "the first one counts", [DELIMITER, *whole], MALFORMED),
        *(bad(n, "", request_frames(head=h), MALFORMED) for n, h in heads),
        bad("header-not-json", "", with_part(0, b"{"), MALFORMED),
        bad("parent-null", "an object is needed", with_part(1, b"null"), MALFORMED),
        bad("metadata-empty-frame", "an object is needed", with_part(2, b""), MALFORMED),
        *(bad(f"content-{n}", "", with_part(3, b), MALFORMED) for n, b in ODD_BODIES),
        bad("hb-port-missing", "", request_frames(keys({c: p for c, p in PORTS.items()
                                                        if c != "hb"})), MALFORMED),
        *(bad(f"port-{n}", "", request_frames({**keys(PORTS), "shell_port": v}), MALFORMED)
          for n, v in ODD_PORTS),
    ]  # fmt: skip
    about = "kernel -> launcher, handshake request form: a signed Jupyter message"
    defaults = {"form": "handshake-request", "key": KEY.hex(), "signature_scheme": "hmac-sha256"}
    return {"about": about, "defaults": defaults | {"header": head}, "vectors": vectors}


# --- receipts -----------------------------------------------------------------------------

REASONS: list[tuple[str, str, dict[str, Any], str]] = [
    ("evalue", "Jupyter's name for it", {"ename": "E", "evalue": "busy"}, "busy"),
    ("ename", "better than nothing", {"ename": "Unknown"}, "Unknown"),
    ("error-before-evalue", "Kallichore's name first", {"evalue": "v", "error": "e"}, "e"),
    ("no-reason", "", {}, "no reason given"),
    ("reason-not-a-string", "", {"error": {"code": 1}, "evalue": 7}, "no reason given"),
    ("reason-blank", "as good as none", {"error": " \n", "evalue": "busy"}, "busy"),
    ("reason-of-two-lines", "one line on stderr", {"error": "no\n  room "}, "no room"),
    ("reason-not-ascii", "", {"error": "\u00e9"}, "\u00e9"),
]


def receipt_signed_frame() -> dict[str, Any]:
    registration = signed(compact({**keys(PORTS, str), "kernel_id": KERNEL_ID}))
    whole = signed(b"ACK")

    def good(
        name: str, about: str, frames: list[bytes], refusal: Any = None, **rest: Any
    ) -> dict[str, Any]:
        kind = "refusal" if refusal is not None else "receipt"
        return wire(f"signed-frame-{kind}/{name}", "H3" if kind == "receipt" else "H4", about,
                    frames, **rest, value={"refusal": refusal})  # fmt: skip

    def bad(name: str, about: str, frames: list[bytes], expect: Any) -> dict[str, Any]:
        return wire(f"signed-frame-receipt/{name}", "H3", about, frames, **expect)

    def answers(ids: list[bytes], **rest: Any) -> dict[str, Any]:
        asked = [*ids, *signed(compact(keys(PORTS, str)), **rest)]
        return {"both": True, "registration": [f.hex() for f in asked]}

    def refusal(content: dict[str, Any]) -> list[bytes]:
        return signed(compact({"status": "error", **content}))

    router, hops = [ROUTER_ID], [ROUTER_ID, b"hop", b""]
    free = [("empty", b""), ("binary", b"\x00\xff\xfe"), ("json", b'{"status":"ok"}'),
            ("json-unknown-status", b'{"status":"later"}'), ("json-list", b'["error"]'),
            ("json-string", b'"error"'), ("nested-deeply", DEEP)]  # fmt: skip
    vectors = [
        good("ack", "what xeus sends and expects", whole, **answers([])),
        good("router", "the answer starts with the frames that stood in front",
             [ROUTER_ID, *whole], **answers(router)),
        good("hops", "all of them, in order", [*hops, *whole], **answers(hops)),
        good("empty-key", "then the signature is empty", signed(b"ACK", key=b""), key="",
             **answers([], key=b"")),
        *(good(n, "the content is free", signed(b)) for n, b in free),
        good("error", "ours: an object that says so can mean nothing else",
             refusal({"error": "unknown kernel"}), "unknown kernel", **answers([])),
        good("router", "", [ROUTER_ID, *refusal({"error": "no"})], "no", **answers(router)),
        *(good(n, a, refusal(c), r) for n, a, c, r in REASONS),
        *(bad(n, a, signed(b"ACK", signature=s), BAD_SIGNATURE)
          for n, a, s in odd_signatures([b"ACK"])),
        bad("refusal-of-another-key", "a stranger cannot refuse either",
            signed(b'{"status":"error"}', key=OTHER_KEY), BAD_SIGNATURE),
        bad("registration-s-signature", "of another body", [*registration[:2], b"ACK"],
            BAD_SIGNATURE),
        bad("nothing", "no frame at all", [], MALFORMED),
        bad("bare-ack", "", [b"ACK"], MALFORMED),
        bad("no-body", "", whole[:2], MALFORMED),
        bad("frame-more", "", [*whole, b""], MALFORMED),
        bad("handshake-reply", "the other form", request_frames(head=header("handshake_reply"),
            content={"status": "ok"}), MALFORMED),
    ]  # fmt: skip
    about = "launcher -> kernel, signed frame form: delimiter, signature, one frame of any content"
    defaults = {"form": "signed-frame", "key": KEY.hex(), "signature_scheme": "hmac-sha256"}
    return {"about": about, "defaults": defaults, "vectors": vectors}


def receipt_handshake_reply() -> dict[str, Any]:
    head, asked = header("handshake_reply"), header("handshake_request")

    def reply(content: Any, *, head: Any = head, parent: Any = asked, **rest: Any) -> list[bytes]:
        return message_frames([compact(v) for v in (head, parent, {}, content)], **rest)

    def good(
        name: str, about: str, frames: list[bytes], refusal: Any = None, **rest: Any
    ) -> dict[str, Any]:
        kind = "refusal" if refusal is not None else "receipt"
        return wire(f"handshake-reply-{kind}/{name}", "H3" if kind == "receipt" else "H4", about,
                    frames, **rest, value={"refusal": refusal})  # fmt: skip

    def bad(name: str, about: str, frames: list[bytes], expect: Any) -> dict[str, Any]:
        return wire(f"handshake-reply-receipt/{name}", "H3", about, frames, **expect)

    def answers(ids: list[bytes], **rest: Any) -> dict[str, Any]:
        frames = request_frames(ids=ids, **rest)
        return {"both": True, "registration": [f.hex() for f in frames]}

    okay, router = {"status": "ok"}, [ROUTER_ID, b""]
    whole = reply(okay)
    more = {**okay, "error": None, "capabilities": {}}
    odd = [("status-unknown", {"status": "abort"}), ("status-missing", {}),
           ("status-null", {"status": None}), ("status-boolean", {"status": True}),
           ("status-upper-case", {"status": "OK"}), ("content-list", ["ok"])]  # fmt: skip
    heads = [("msg-type-of-the-request", asked), ("msg-type-unknown", {**head, "msg_type": "x"}),
             ("msg-type-missing", {"msg_id": "1"})]  # fmt: skip
    vectors = [
        good("ok", "the request's header is the parent", whole, **answers([])),
        good("req", "one empty frame, as it came", reply(okay, ids=[b""]), **answers([b""])),
        good("router", "every frame that stood in front", reply(okay, ids=router),
             **answers(router)),
        good("empty-key", "then the signature is empty", reply(okay, key=b""), key="",
             **answers([], key=b"")),
        good("capabilities", "Kallichore says more", reply(more)),
        good("no-parent", "not needed", reply(okay, parent={})),
        good("buffers", "a Jupyter message may have some; they are not signed", [*whole, b"x"]),
        good("error", "as Kallichore says it", reply({"status": "error", "error": "unknown"}),
             "unknown", **answers([])),
        good("router", "", reply({"status": "error", "error": "no"}, ids=router), "no",
             **answers(router)),
        *(good(n, a, reply({"status": "error", **c}), r) for n, a, c, r in REASONS),
        *(bad(n, a, [DELIMITER, s, *whole[2:]], BAD_SIGNATURE)
          for n, a, s in odd_signatures(whole[2:])),
        bad("refusal-of-another-key", "a stranger cannot refuse either",
            reply({"status": "error"}, key=OTHER_KEY), BAD_SIGNATURE),
        bad("refusal-made-of-a-receipt", "signed, then altered",
            [*whole[:5], compact({"status": "error"})], BAD_SIGNATURE),
        bad("nothing", "no frame at all", [], MALFORMED),
        bad("no-content", "", whole[:-1], MALFORMED),
        bad("signed-frame", "the other form", signed(b"ACK"), MALFORMED),
        *(bad(n, "", reply(c), MALFORMED) for n, c in odd),
        *(bad(n, "", reply(okay, head=h), MALFORMED) for n, h in heads),
        bad("content-nested-deeply", "must not exhaust the stack",
            message_frames([*whole[2:5], DEEP]), MALFORMED),
    ]  # fmt: skip
    about = "launcher -> kernel, handshake request form: a signed handshake_reply"
    defaults = {"form": "handshake-request", "key": KEY.hex(), "signature_scheme": "hmac-sha256"}
    return {"about": about, "defaults": defaults | {"header": head}, "vectors": vectors}


# --- startup files ------------------------------------------------------------------------

BASE = {"transport": "tcp", "signature_scheme": "hmac-sha256", "key": KEY.decode()}
CURVE = {"curve_publickey": PUBLIC, "curve_secretkey": SECRET}
COMMON = {"transport": "tcp", "signature_scheme": "hmac-sha256", "key": KEY.hex(), "curve": None}


def startup_connection() -> dict[str, Any]:
    full = BASE | {"ip": "127.0.0.1"} | keys(PORTS)
    zero = BASE | {"ip": "127.0.0.1"} | keys(dict.fromkeys(PORTS, 0))
    extra = {"kernel_name": "echo", "jupyter_session": "a.ipynb", "x": [1, None]}
    ipc = {**full, "transport": "ipc", "ip": "/run/k-ipc"}
    at = "/run/user.0/kernel-1.json"
    rows: list[tuple[str, str, str, dict[str, Any], dict[str, Any]]] = [
        ("full", "F1", "the launcher chose the ports", full, {"both": True}),
        ("ports-0", "F5", "the kernel chooses", zero, {"both": True, "value": {"ports": {}}}),
        ("minimal", "F5", "what is left out has its default", {"key": KEY.decode()},
         {"value": {"ports": {}}}),
        ("some-ports", "F5", "0 and missing ones are chosen",
         BASE | {"shell_port": 50001, "hb_port": 0}, {"value": {"ports": {"shell_port": 50001}}}),
        ("extra-keys", "F5", "kept when the file is rewritten", {**full, **extra},
         {"both": True, "value": {"extra": extra}}),
        ("empty-key", "F4", "unauthenticated messages", {**full, "key": ""},
         {"both": True, "value": {"key": ""}}),
        ("key-not-ascii", "F5", "UTF-8", {**full, "key": "cl\u00e9"},
         {"both": True, "value": {"key": "clé".encode().hex()}}),
        ("sha512", "F5", "", {**full, "signature_scheme": "hmac-sha512"},
         {"both": True, "value": {"signature_scheme": "hmac-sha512"}}),
        ("curve", "F6", "", {**full, **CURVE}, {"both": True, "value": {"curve": CURVE}}),
        ("curve-null", "F6", "as if not there", {**full, **dict.fromkeys(CURVE)}, {}),
        ("ipc", "F7", "ip is a path prefix", ipc,
         {"both": True, "value": {"transport": "ipc", "ip": "/run/k-ipc"}}),
        ("ipc-default-ip", "F7", "from the file's name, as in jupyter_client",
         {k: v for k, v in ipc.items() if k != "ip"},
         {"path": at, "value": {"transport": "ipc", "ip": "/run/user.0/kernel-1-ipc"}}),
        ("transport-upper-case", "F5", "as jupyter_client reads it", {**full, "transport": "TCP"},
         {}),
        ("registration-ip", "F1", "only registration_port makes a registration file",
         {**full, "registration_ip": "10.0.0.1"},
         {"value": {"extra": {"registration_ip": "10.0.0.1"}}}),
    ]  # fmt: skip
    value = COMMON | {"ip": "127.0.0.1", "ports": keys(PORTS), "extra": {}}
    return {
        "about": "startup file without registration_port: a connection file",
        "defaults": {"kind": "connection", "path": "kernel.json", "value": value},
        "vectors": [
            vector(f"connection-file/{name}", proves, about, file=file, **rest)
            for name, proves, about, file, rest in rows
        ],
    }


def startup_registration() -> dict[str, Any]:
    signed_file = BASE | {
        "registration_ip": "10.0.0.1",
        "registration_port": "5555",
        "kernel_id": KERNEL_ID,
    }
    request = BASE | {"ip": "10.0.0.1", "registration_port": 5555}
    ours = {
        "connection_file": "/run/kernel-1.json",
        "kernel_name": "echo",
        "preferred_ports": keys(PORTS),
    }
    as_request = {"form": "handshake-request", "kernel_id": None, "ip": "10.0.0.1"}
    no_registration_ip = {k: v for k, v in signed_file.items() if k != "registration_ip"}
    no_kernel_id = {k: v for k, v in signed_file.items() if k != "kernel_id"}
    ipc = {"transport": "ipc", "ip": "/run/r"}
    rows: list[tuple[str, str, str, dict[str, Any], dict[str, Any]]] = [
        ("signed-frame", "F1 H2", "registration_port as xeus needs it: a string", signed_file,
         {"both": True}),
        ("signed-frame-number", "F2", "registration_port as the docs show it: a number",
         {**signed_file, "registration_port": 5555}, {}),
        ("signed-frame-ip", "F2", "ip: where the kernel binds", {**signed_file, "ip": "10.0.0.2"},
         {"both": True, "value": {"ip": "10.0.0.2"}}),
        ("only-kernel-id", "F2 H2", "registration_ip missing: ip", {**no_registration_ip,
         "ip": "10.0.0.1"}, {"value": {"ip": "10.0.0.1"}}),
        ("only-registration-ip", "H2 L2", "told by it alone", no_kernel_id,
         {"both": True, "value": {"kernel_id": None}}),
        ("handshake-request", "F1 H2", "registration_port as ark needs it: a number", request,
         {"both": True, "value": as_request}),
        ("handshake-request-string", "F2", "a numeric string is read, too",
         {**request, "registration_port": "5555"}, {"value": as_request}),
        ("handshake-request-ipc", "F7", "", {**request, **ipc},
         {"both": True, "value": as_request | ipc | {"registration_ip": "/run/r"}}),
        ("with-five-ports", "F1", "told by registration_port, never by trial",
         request | keys(PORTS), {"value": as_request}),
        ("highest-port", "F2", "", {**signed_file, "registration_port": "65535"},
         {"both": True, "value": {"registration_port": 65535}}),
        ("lowest-port", "F2", "", {**request, "registration_port": 1},
         {"both": True, "value": as_request | {"registration_port": 1}}),
        ("empty-key", "F4", "unauthenticated messages", {**signed_file, "key": ""},
         {"both": True, "value": {"key": ""}}),
        ("sha512", "H2", "", {**request, "signature_scheme": "hmac-sha512"},
         {"both": True, "value": as_request | {"signature_scheme": "hmac-sha512"}}),
        ("curve", "F6", "ours: also for the registration socket", {**signed_file, **CURVE},
         {"both": True, "value": {"curve": CURVE}}),
        ("ours", "H6 L6", "what ours has beyond the texts", {**signed_file, **ours},
         {"both": True, "value": ours}),
        ("some-preferred-ports", "L6", "0 and missing ones are free choices",
         {**signed_file, "preferred_ports": {"hb_port": 50005, "shell_port": 0}},
         {"value": {"preferred_ports": {"hb_port": 50005}}}),
        ("unknown-keys", "F1", "ignored", {**signed_file, "x": 1}, {}),
    ]  # fmt: skip
    value = COMMON | {
        "form": "signed-frame",
        "registration_ip": "10.0.0.1",
        "registration_port": 5555,
        "ip": None,
        "kernel_id": KERNEL_ID,
        "connection_file": None,
        "kernel_name": None,
        "preferred_ports": {},
    }
    return {
        "about": "startup file with registration_port: a registration file",
        "defaults": {"kind": "registration", "path": "kernel.json", "value": value},
        "vectors": [
            vector(f"registration-file/{name}", proves, about, file=file, **rest)
            for name, proves, about, file, rest in rows
        ],
    }


def startup_malformed() -> dict[str, Any]:
    connection = BASE | {"ip": "127.0.0.1"} | keys(PORTS) | CURVE
    registration = BASE | CURVE | {"registration_ip": "10.0.0.1", "registration_port": "5555"}
    text = compact(connection)
    texts = [
        ("empty", "not-json", b""), ("truncated", "not-json", text[:-1]),
        ("trailing-text", "not-json", text + b"}"), ("bom", "not-json", b"\xef\xbb\xbf" + text),
        ("single-quotes", "not-json", text.replace(b'"', b"'")),
        ("nested-deeply", "not-json", DEEP), ("not-utf8", "not-utf8", text[:-1] + b',"x":"\xff"}'),
        ("utf16", "not-utf8", text.decode().encode("utf-16")),
        ("list", "not-an-object", b"[" + text + b"]"), ("null", "not-an-object", b"null"),
        ("string", "not-an-object", compact(KEY.decode())), ("number", "not-an-object", b"1"),
        ("float", "not-an-object", b"1.5"), ("boolean", "not-an-object", b"true"),
    ]  # fmt: skip
    gone = object()
    types = [("number", 7), ("null", None), ("list", ["x"]), ("object", {}), ("boolean", True)]
    # The field, what is put there, the kind of problem; in a connection file, then the other.
    wrong: list[tuple[str, str, Any, str]] = [
        ("key", "missing", gone, "missing"), ("key", "surrogate", "\ud800", "character"),
        *(("key", n, v, "type") for n, v in types),
        ("transport", "unknown", "udp", "unknown"), ("transport", "empty", "", "empty"),
        ("transport", "number", 7, "type"), ("signature_scheme", "number", 7, "type"),
        ("signature_scheme", "no-prefix", "sha256", "unknown"),
        ("signature_scheme", "no-hash", "hmac-", "unknown"),
        ("signature_scheme", "unknown-hash", "hmac-rot13", "unknown"),
        ("signature_scheme", "no-fixed-length", "hmac-shake_128", "unknown"),
        ("ip", "number", 7, "type"), ("ip", "null", None, "type"), ("ip", "empty", "", "empty"),
        ("ip", "nul", "10.0.0.1\0", "character"), ("ip", "surrogate", "\udfff", "character"),
        ("curve_publickey", "missing", gone, "missing"),
        ("curve_secretkey", "missing", gone, "missing"),
        ("curve_secretkey", "null", None, "missing"), ("curve_publickey", "number", 7, "type"),
        ("curve_publickey", "short", PUBLIC[1:], "curve-key"),
        ("curve_secretkey", "long", SECRET + "0", "curve-key"),
        ("curve_secretkey", "not-z85", SECRET[1:] + "~", "curve-key"),
        ("curve_secretkey", "not-ascii", SECRET[1:] + "\u00e9", "curve-key"),
    ]  # fmt: skip
    bad_ports: list[tuple[str, Any, str]] = [
        ("string", "50001", "type"), ("float", 50001.0, "type"), ("boolean", True, "type"),
        ("null", None, "type"), ("negative", -1, "range"), ("too-big", 65536, "range"),
    ]  # fmt: skip
    in_connection = [("shell_port", n, v, kind) for n, v, kind in bad_ports]
    in_connection.append(("iopub_port", "taken", 50001, "taken"))
    in_registration: list[tuple[str, str, Any, str]] = [
        ("registration_ip", "number", 7, "type"), ("registration_ip", "empty", "", "empty"),
        *(("registration_port", n, v, "range") for n, v in ODD_PORTS if "taken" not in n),
        *(("kernel_id", n, v, "type") for n, v in types), ("kernel_id", "empty", "", "empty"),
        ("connection_file", "number", 7, "type"), ("connection_file", "empty", "", "empty"),
        ("connection_file", "nul", "/a\0", "character"), ("kernel_name", "number", 7, "type"),
        ("preferred_ports", "list", [1], "type"), ("preferred_ports", "null", None, "type"),
    ]  # fmt: skip

    def row(kind: str, base: Any, field: str, name: str, value: Any, problem: str) -> Any:
        file = {k: v for k, v in base.items() if k != field}
        if value is not gone:
            file[field] = value
        name = f"malformed-{kind}-file/{field.replace('_', '-')}-{name}"
        return vector(name, "F3", "", text=json.dumps(file), field=field, problem=problem)

    no_ip = {k: v for k, v in registration.items() if k != "registration_ip"}
    vectors = [
        *(vector(f"malformed-text/{name}", "F3", "", hex=frame(raw), field=None, problem=problem)
          for name, problem, raw in texts),
        *(row("connection", connection, *r) for r in wrong + in_connection),
        *(row("registration", registration, *r) for r in wrong + in_registration),
        vector("malformed-registration-file/no-address", "F2 F3", "neither address is there",
               text=json.dumps(no_ip), field="ip", problem="missing"),
        *(vector(f"malformed-registration-file/preferred-port-{n}", "F3 L6", "",
                 text=json.dumps(registration | {"preferred_ports": keys(PORTS) | {"hb_port": v}}),
                 field="preferred_ports.hb_port", problem=kind)
          for n, v, kind in [*bad_ports, ("taken", 50004, "taken")]),
    ]  # fmt: skip
    about = "startup files that must be refused, naming the field (null: the file itself)"
    return {"about": about, "vectors": vectors}


# --- subscriptions ------------------------------------------------------------------------


def subscriptions() -> dict[str, Any]:
    head = header("iopub_welcome")

    def joined(name: str, proves: str, about: str, topic: bytes, text: str | None) -> Any:
        welcome = None
        if text is not None:
            parts = [compact(v) for v in (head, {}, {}, {"subscription": text})]
            frames = message_frames(parts, ids=[topic] if topic else [])
            welcome = {"subscription": text, "frames": [f.hex() for f in frames]}
        return wire(f"subscribe/{name}", proves, about, [b"\x01" + topic], event="subscribed",
                    topic=topic.hex(), welcome=welcome)  # fmt: skip

    def left(name: str, about: str, topic: bytes) -> Any:
        return wire(f"unsubscribe/{name}", "W4", about, [b"\x00" + topic], event="unsubscribed",
                    topic=topic.hex(), welcome=None)  # fmt: skip

    def junk(name: str, about: str, frames: list[bytes]) -> Any:
        return wire(f"junk/{name}", "W3", about, frames, event="malformed", welcome=None)

    vectors = [
        joined("everything", "W2", "the welcome has no topic frame", b"", ""),
        joined("topic", "W2", "first frame = the topic", b"kernel.7.stream", "kernel.7.stream"),
        joined("presence", "W2 C4", "ours", b"session.5e551017", "session.5e551017"),
        joined("utf8", "W2", "", "\u00e9\u4e16\U0001f600".encode(), "\u00e9\u4e16\U0001f600"),
        joined("quotes-and-newline", "W2", "escaped by JSON", b'"\\\n', '"\\\n'),
        joined("nul", "W2", "U+0000 is UTF-8", b"\x00", "\x00"),
        joined("starts-like-a-subscription", "W2", "only the first byte is the event's",
               b"\x01a", "\x01a"),
        joined("delimiter", "W3", "ours: no welcome, which would break everybody's parsing",
               DELIMITER, None),
        joined("not-utf8", "W3", "no welcome", b"\xff\xfe", None),
        joined("half-a-character", "W3", "no welcome", "\u00e9".encode()[:1], None),
        joined("surrogate", "W3", "CESU: not UTF-8", b"\xed\xa0\x80", None),
        joined("overlong", "W3", "not UTF-8", b"\xc0\x80", None),
        left("everything", "sends nothing", b""),
        left("topic", "sends nothing", b"kernel.7.stream"),
        left("not-utf8", "sends nothing", b"\xff"),
        junk("nothing", "no frame at all", []),
        junk("empty-frame", "", [b""]),
        junk("first-byte-2", "", [b"\x02topic"]),
        junk("first-byte-digit", "the text 1, not the byte", [b"1"]),
        junk("first-byte-255", "", [b"\xff"]),
        junk("two-frames", "though the first is a subscription", [b"\x01", b"\x01"]),
        junk("message", "somebody publishes to IOPub", [DELIMITER, b"", b"{}", b"{}", b"{}"]),
    ]  # fmt: skip
    about = "what an XPUB socket reports -> event, and the welcome that must follow (or null)"
    return {"about": about, "defaults": {"key": KEY.hex(), "header": head}, "vectors": vectors}


# --- writing ------------------------------------------------------------------------------

FILES = {
    "signatures": signatures,
    "messages": messages,
    "registration-signed-frame": registration_signed_frame,
    "registration-handshake-request": registration_handshake_request,
    "receipt-signed-frame": receipt_signed_frame,
    "receipt-handshake-reply": receipt_handshake_reply,
    "startup-connection": startup_connection,
    "startup-registration": startup_registration,
    "startup-malformed": startup_malformed,
    "subscriptions": subscriptions,
}


def text_of(document: dict[str, Any]) -> str:
    """One line per key, one per frame: short, and a change shows where it is."""
    head = [f" {json.dumps(k)}: {json.dumps(v)}," for k, v in document.items() if k != "vectors"]
    shown = []
    for one in document["vectors"]:
        lines = []
        for key, value in one.items():
            if key == "frames" and value:
                frames = ",\n    ".join(json.dumps(f) for f in value)
                lines.append(f'   "frames": [\n    {frames}]')
            elif value != "" or key not in ("description", "shown"):
                lines.append(f"   {json.dumps(key)}: {json.dumps(value)}")
        shown.append("  {\n" + ",\n".join(lines) + "\n  }")
    return "\n".join(["{", *head, ' "vectors": [', ",\n".join(shown), " ]", "}", ""])


def make() -> dict[str, str]:
    """Return file name -> text."""
    return {f"{name}.json": text_of(build()) for name, build in FILES.items()}


if __name__ == "__main__":
    for name, text in make().items():
        (Path(__file__).parent / name).write_text(text, encoding="ascii", newline="\n")
