"""startup.py: text -> ConnectionFile | RegistrationFile, and back."""

from __future__ import annotations

import json
import re
import traceback

import pytest
from support.vectors import params, to_bytes

from echokernel.protocol.errors import StartupFileError
from echokernel.protocol.startup import (
    ConnectionFile,
    CurveKeys,
    Form,
    Ports,
    RegistrationFile,
    default_ip,
    parse,
    port_from_digits,
)

KEY = "3a1f7c52-echo-key-9be04d"  # the key, and the CURVE secret key, of every vector that has one
SECRET = "D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs"
KINDS = {"connection": ConnectionFile, "registration": RegistrationFile}

# The kinds of problem in startup-malformed.json, and the sentences of echokernel.
PROBLEMS = {
    "not-utf8": r"not UTF-8 \(byte \d+\)",
    "not-json": r"not JSON \(.+, line \d+ column \d+\)|not usable JSON: nested too deeply",
    "not-an-object": r"a JSON object is needed, not (a|null)\b.*",
    "missing": r"missing\b.*",
    "type": r"(a string|an object|a (whole )?number) is needed, not (an?|null)\b.*",
    "range": r".+ is not a port \([01]-65535\)",
    "taken": r"\d+ is already the \w+_port",
    "empty": "empty|unknown: ''; use 'tcp' or 'ipc'",
    "character": "contains a (control character|character that is not valid Unicode)",
    "unknown": r"unknown.*; use 'tcp' or 'ipc'|unknown .+; use for example 'hmac-sha256'"
    r"|'hmac-shake_128' has no digest that an HMAC can use",
    "curve-key": r"not a CURVE key \(40 characters of Z85\)",
}


def build_file(vector: dict) -> ConnectionFile | RegistrationFile:
    """Return the dataclass that a vector's ``value`` describes."""
    value = dict(vector["value"], path=vector["path"])
    value["key"] = to_bytes(value["key"])
    if value["curve"]:
        halves = (value["curve"][f"curve_{half}"].encode() for half in ("publickey", "secretkey"))
        value["curve"] = CurveKeys(*halves)
    if "form" in value:
        value["form"] = Form(value["form"])
    for name in {"ports", "preferred_ports"} & set(value):
        value[name] = Ports.from_keys(value[name])
    return KINDS[vector["kind"]](**value)


@pytest.mark.parametrize("vector", params("startup-connection", "startup-registration"))
def test_a_startup_file_is_parsed_as_its_type_and_written(vector):
    """F1, F2, F4-F7, F9, H2, H6, L6: the vectors."""
    text, expected = json.dumps(vector["file"]), build_file(vector)
    assert parse(text, vector["path"]) == expected
    assert parse(text.encode(), vector["path"]) == expected
    if vector.get("both_directions"):
        assert expected.to_json() == vector["file"]
    # The written file has the same meaning, even if its spelling differs from the vector's.
    assert parse(json.dumps(expected.to_json()), vector["path"]) == expected


@pytest.mark.parametrize("vector", params("startup-malformed"))
def test_a_malformed_file_is_refused_with_field_and_problem(vector):
    """F3, F4: one line that names the file, the field and the fault; never the key."""
    with pytest.raises(StartupFileError) as caught:
        parse(to_bytes(vector["text"]), "/run/k.json")
    error = caught.value
    assert (error.path, error.field) == ("/run/k.json", vector["field"])
    assert re.fullmatch(PROBLEMS[vector["problem"]], error.problem)
    assert "\n" not in str(error)
    shown = "".join(traceback.format_exception(error)) + repr(error)
    assert KEY not in shown
    assert SECRET not in shown


def test_an_integer_of_thousands_of_digits_is_refused():
    """F3: Python refuses the conversion with a ValueError that is not a JSONDecodeError."""
    with pytest.raises(StartupFileError):
        parse('{"key": "", "shell_port": ' + "9" * 5000 + "}")


@pytest.mark.parametrize("port", [1.5, 50001.0])
def test_the_error_of_a_fractional_port_requires_a_whole_number(port):
    """F3: "a number is needed" would be wrong, because a fraction is a number."""
    with pytest.raises(StartupFileError) as caught:
        parse(json.dumps({"key": "", "shell_port": port}))
    required, _, actual = caught.value.problem.partition(" is needed, not ")
    assert required != actual


def test_no_repr_shows_a_key():
    """F4, F6: neither the key nor the CURVE secret key is shown; the public key is shown."""
    extra = {"x": KEY}
    common = {"key": KEY, "curve_publickey": "p" * 40, "curve_secretkey": SECRET}
    registering = {"ip": "::1", "registration_port": 1}
    files = [parse(json.dumps(common | extra)), parse(json.dumps(common | registering))]
    for shown in [repr(file) for file in files] + [str(file.curve) for file in files]:
        assert KEY not in shown
        assert SECRET not in shown
        assert "p" * 40 in shown


def test_the_request_form_is_written_with_one_address():
    """H2: ark reads only ``ip``, for both addresses; a ``kernel_id`` would change the form."""
    file = RegistrationFile(
        key=b"", form=Form.HANDSHAKE_REQUEST, registration_ip="10.0.0.1", registration_port=5,
        kernel_id="x",
    )  # fmt: skip
    written = file.to_json()
    assert (written["ip"], written["registration_port"]) == ("10.0.0.1", 5)
    assert not {"kernel_id", "registration_ip"} & set(written)


@pytest.mark.parametrize(
    ("path", "ip"),
    [
        ("/run/kernel-1.json", "/run/kernel-1-ipc"),
        ("kernel.json", "kernel-ipc"),
        ("/run/kernel", "/run/kernel-ipc"),
        ("/run.d/kernel", "/run.d/kernel-ipc"),
        ("a.b.json", "a.b-ipc"),
        (".hidden", ".hidden-ipc"),
        ("/run/.hidden", "/run/.hidden-ipc"),
        ("/run/.hidden.json", "/run/.hidden-ipc"),
    ],
)
def test_the_default_ip_for_ipc_is_derived_from_the_path_of_the_file(path, ip):
    """F5, F7: as jupyter_client derives it (``os.path.splitext``)."""
    assert default_ip("ipc", path) == ip
    assert default_ip("tcp", path) == "127.0.0.1"


@pytest.mark.parametrize(
    ("text", "port"),
    [("1", 1), ("65535", 65535), ("00080", 80), ("0", None), ("65536", None), ("", None),
     ("000001", None), (" 1", None), ("1 ", None), ("+1", None), ("1_0", None), ("x", None),
     ("\u0661", None), ("\u00b2", None), ("9" * 5000, None)],
)  # fmt: skip
def test_a_port_string_has_one_to_five_ascii_digits(text, port):
    """F2, L3."""
    assert port_from_digits(text) == port


def test_port_names_are_the_keys_of_the_files():
    """F5."""
    ports = Ports.from_keys({"shell_port": 1, "hb_port": 5, "x_port": 9})
    assert dict(ports.items()) == {"shell": 1, "iopub": 0, "stdin": 0, "control": 0, "hb": 5}
    assert Ports.from_keys(ports.to_keys()) == ports
