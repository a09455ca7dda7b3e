"""Startup files: the text of the file that ``-f`` names, as one of two types. No file is read here.

A file with ``registration_port`` is a `RegistrationFile`: the kernel chooses its ports and
registers them. Any other file is a `ConnectionFile`: the launcher chose the ports (F1). The kernel
calls `parse`, and the author of a file calls ``to_json``.

Sources: "Connection files" in https://jupyter-client.readthedocs.io/en/stable/kernels.html and
https://github.com/jupyter/enhancement-proposals/blob/master/66-jupyter-handshaking/jupyter-handshaking.md
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from .errors import StartupFileError
from .wire import DEFAULT_SIGNATURE_SCHEME, JsonObject, hash_name

CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
"""The five channels, as in the keys ``<channel>_port``."""

TRANSPORTS = ("tcp", "ipc")
MAX_PORT = 65535
LOOPBACK = "127.0.0.1"

# https://rfc.zeromq.org/spec/32/
_Z85 = frozenset(
    "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
)
_Z85_KEY_LENGTH = 40


class Form(Enum):
    """The two forms of the handshake that implementations use (H2)."""

    SIGNED_FRAME = "signed-frame"
    HANDSHAKE_REQUEST = "handshake-request"


@dataclass(frozen=True)
class Ports:
    """The five ports of a kernel, 1-65535; the kernel chooses a port for each 0."""

    shell: int = 0
    iopub: int = 0
    stdin: int = 0
    control: int = 0
    hb: int = 0

    @classmethod
    def from_keys(cls, data: Mapping[str, int]) -> Ports:
        """Return the ports in ``{"shell_port": 1, ...}``; a missing port is 0."""
        return cls(**{channel: data.get(f"{channel}_port", 0) for channel in CHANNELS})

    def to_keys(self) -> dict[str, int]:
        """Return ``{"shell_port": 1, ...}``."""
        return {f"{channel}_port": port for channel, port in self.items()}

    def items(self) -> Iterator[tuple[str, int]]:
        """Yield (channel, port)."""
        return ((channel, getattr(self, channel)) for channel in CHANNELS)

    def values(self) -> Iterator[int]:
        """Yield the ports."""
        return (getattr(self, channel) for channel in CHANNELS)


@dataclass(frozen=True)
class CurveKeys:
    """The CURVE key pair of the kernel's sockets, each key 40 bytes of Z85 (F6).

    https://rfc.zeromq.org/spec/26/
    """

    publickey: bytes
    secretkey: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class _CommonFields:
    """The fields of both kinds of file; ``path`` names the file itself."""

    key: bytes = field(repr=False)
    transport: str = "tcp"
    signature_scheme: str = DEFAULT_SIGNATURE_SCHEME
    curve: CurveKeys | None = None
    path: str = ""

    def _common_json(self) -> JsonObject:
        data: JsonObject = {
            "transport": self.transport,
            "signature_scheme": self.signature_scheme,
            "key": self.key.decode("utf-8"),
        }
        if self.curve is not None:
            data["curve_publickey"] = self.curve.publickey.decode("ascii")
            data["curve_secretkey"] = self.curve.secretkey.decode("ascii")
        return data


@dataclass(frozen=True, kw_only=True)
class ConnectionFile(_CommonFields):
    """A connection file: the addresses that a kernel binds.

    Attributes: ``ip``, ``ports``, ``extra`` (all other keys of the file; a rewrite keeps them).
    """

    ip: str = LOOPBACK
    ports: Ports = Ports()
    extra: JsonObject = field(default_factory=dict, repr=False)

    def to_json(self) -> JsonObject:
        """Return the JSON object of the file."""
        return {**self.extra, **self._common_json(), "ip": self.ip, **self.ports.to_keys()}


@dataclass(frozen=True, kw_only=True)
class RegistrationFile(_CommonFields):
    """A registration file: the address at which a kernel registers the ports that it chose.

    Attributes:
        form: the keys decide: ``kernel_id`` or ``registration_ip`` means signed frame (H2).
        registration_ip, registration_port: address of the launcher's registration socket.
        ip: address that the kernel's own sockets bind; None: see `sockets.bind_address` (F2).
        kernel_id: identifies the kernel in its registration; None: not in the file.
        connection_file: path of the connection file that the kernel writes (ours, H6).
        kernel_name: copied into that connection file (ours).
        preferred_ports: ports to bind if they are free (ours, L6).
        port_range: tcp ports to choose from; None: any free port (ours).
        advertised_ip: address for clients; None: the address that the kernel binds (ours).
    """

    form: Form
    registration_ip: str
    registration_port: int
    ip: str | None = None
    kernel_id: str | None = None
    connection_file: str | None = None
    kernel_name: str | None = None
    preferred_ports: Ports = Ports()
    port_range: range | None = None
    advertised_ip: str | None = None

    def to_json(self) -> JsonObject:
        """Return the JSON object of the file, as kernels that use its form can read it."""
        data = self._common_json()
        if self.ip is not None:
            data["ip"] = self.ip
        if self.form is Form.SIGNED_FRAME:
            data["registration_ip"] = self.registration_ip
            # The documentation shows a number, but xeus 6.0.5 reads only a string, and exits
            # without a message otherwise (F2).
            data["registration_port"] = str(self.registration_port)
            if self.kernel_id is not None:
                data["kernel_id"] = self.kernel_id
        else:
            # ark reads one address for both purposes, and only a number (u16) as port (F2).
            data["ip"] = self.registration_ip
            data["registration_port"] = self.registration_port
        if self.connection_file is not None:
            data["connection_file"] = self.connection_file
        if self.kernel_name is not None:
            data["kernel_name"] = self.kernel_name
        if any(self.preferred_ports.values()):
            data["preferred_ports"] = self.preferred_ports.to_keys()
        if self.port_range is not None:
            data["port_range"] = f"{self.port_range[0]}-{self.port_range[-1]}"
        if self.advertised_ip is not None:
            data["advertised_ip"] = self.advertised_ip
        return data


StartupFile = ConnectionFile | RegistrationFile


def parse(text: str | bytes, path: str = "<startup file>") -> StartupFile:
    """Parse the text of a startup file.

    Args:
        text: JSON; bytes are UTF-8.
        path: names the file in errors, and in the result.

    Raises:
        StartupFileError: the file cannot be used; the error names file, field and fault (F3).
    """
    reader = _FieldReader(path, _parse_object(text, path))
    common = reader.common()
    # The key decides, never trial and error: ark parses a registration file that has five ports
    # as a connection file (F1).
    if "registration_port" in reader.data:
        return _registration_file(reader, common)
    return _connection_file(reader, common)


def _parse_object(text: str | bytes, path: str) -> JsonObject:
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        data = json.loads(text)
    except UnicodeDecodeError as error:
        raise StartupFileError(path, None, f"not UTF-8 (byte {error.start})") from None
    except RecursionError:
        raise StartupFileError(path, None, "not usable JSON: nested too deeply") from None
    except json.JSONDecodeError as error:
        fault = f"{error.msg}, line {error.lineno} column {error.colno}"
        raise StartupFileError(path, None, f"not JSON ({fault})") from None
    except ValueError as error:  # an integer with more digits than Python converts
        raise StartupFileError(path, None, f"not usable JSON ({error})") from None
    if not isinstance(data, dict):
        raise StartupFileError(path, None, f"a JSON object is needed, not {_json_type(data)}")
    return data


def _connection_file(reader: _FieldReader, common: dict[str, Any]) -> ConnectionFile:
    ports = reader.ports(reader.data)
    known = {f"{channel}_port" for channel in CHANNELS}
    known |= {"transport", "ip", "signature_scheme", "key", "curve_publickey", "curve_secretkey"}
    return ConnectionFile(
        **common,
        ip=reader.text("ip", default_ip(common["transport"], reader.path)),
        ports=ports,
        extra={name: value for name, value in reader.data.items() if name not in known},
    )


def default_ip(transport: str, path: str) -> str:
    """Return the ``ip`` of a file that has no such key; jupyter_client uses the same default.

    Args:
        transport: ``"tcp"`` or ``"ipc"``.
        path: of the file; an ``ipc`` address is this path without its extension.
    """
    if transport == "ipc":
        name = path.rpartition("/")[2]
        dot = name.rfind(".", len(name) - len(name.lstrip(".")))
        return f"{path if dot < 0 else path[: dot - len(name)]}-ipc"
    return LOOPBACK


def _registration_file(reader: _FieldReader, common: dict[str, Any]) -> RegistrationFile:
    data = reader.data
    is_signed_frame = "kernel_id" in data or "registration_ip" in data
    ip = reader.text("ip", None)
    registration_ip = reader.text("registration_ip", ip)
    if registration_ip is None:
        raise reader.error("ip", "missing, and registration_ip is missing too")
    preferred = data.get("preferred_ports", {})
    if not isinstance(preferred, dict):
        raise reader.error("preferred_ports", f"an object is needed, not {_json_type(preferred)}")
    return RegistrationFile(
        **common,
        form=Form.SIGNED_FRAME if is_signed_frame else Form.HANDSHAKE_REQUEST,
        registration_ip=registration_ip,
        registration_port=reader.registration_port(),
        ip=ip,
        kernel_id=reader.text("kernel_id", None),
        connection_file=reader.text("connection_file", None),
        kernel_name=reader.text("kernel_name", None),
        preferred_ports=reader.ports(preferred, "preferred_ports."),
        port_range=reader.port_range(),
        advertised_ip=reader.text("advertised_ip", None),
    )


@dataclass(frozen=True)
class _FieldReader:
    """Returns fields of a startup file, checked; its errors name the field (F3)."""

    path: str
    data: JsonObject = field(repr=False)

    def error(self, name: str, problem: str) -> StartupFileError:
        return StartupFileError(self.path, name, problem)

    def text(self, name: str, default: Any) -> Any:
        """Return a string field; ``default`` if the file does not have it."""
        if name not in self.data:
            return default
        value = self.data[name]
        if not isinstance(value, str):
            raise self.error(name, f"a string is needed, not {_json_type(value)}")
        # JSON allows control characters and lone surrogates; sockets, paths and keys do not.
        if name != "key" and not value:
            raise self.error(name, "empty")
        if name != "key" and any(ord(char) < 32 for char in value):
            raise self.error(name, "contains a control character")
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            raise self.error(name, "contains a character that is not valid Unicode") from None
        return value

    def common(self) -> dict[str, Any]:
        """Return the fields of both kinds of file."""
        if "key" not in self.data:
            raise self.error("key", "missing (an empty string means unauthenticated messages)")
        transport = self.text("transport", "tcp").lower()
        if transport not in TRANSPORTS:
            raise self.error("transport", f"unknown: {transport!r}; use 'tcp' or 'ipc'")
        scheme = self.text("signature_scheme", DEFAULT_SIGNATURE_SCHEME)
        try:
            hash_name(scheme)
        except ValueError as error:
            raise self.error("signature_scheme", str(error)) from None
        return {
            "key": self.text("key", None).encode("utf-8"),
            "transport": transport,
            "signature_scheme": scheme,
            "curve": self.curve(),
            "path": self.path,
        }

    def curve(self) -> CurveKeys | None:
        names = ("curve_publickey", "curve_secretkey")
        present = [name for name in names if self.data.get(name) is not None]
        if not present:
            return None
        for name in names:
            # A CURVE server needs both keys (F6).
            if name not in present:
                raise self.error(name, f"missing, but {present[0]} is set")
            value = self.text(name, None)
            if len(value) != _Z85_KEY_LENGTH or not _Z85.issuperset(value):
                raise self.error(name, "not a CURVE key (40 characters of Z85)")
        public, secret = (self.data[name].encode("ascii") for name in names)
        return CurveKeys(public, secret)

    def ports(self, source: Mapping[str, Any], prefix: str = "") -> Ports:
        """Return the five ports in ``source``; a missing port is 0."""
        names: dict[int, str] = {}
        for channel in CHANNELS:
            name = f"{channel}_port"
            value = source.get(name, 0)
            field_name = prefix + name
            if not isinstance(value, int) or isinstance(value, bool):
                problem = f"a whole number is needed, not {_json_type(value)}"
                raise self.error(field_name, problem)
            if not 0 <= value <= MAX_PORT:
                raise self.error(field_name, f"{value} is not a port (0-{MAX_PORT})")
            if value and value in names:
                raise self.error(field_name, f"{value} is already the {names[value]}")
            names[value] = name
        return Ports.from_keys(source)

    def port_range(self) -> range | None:
        text = self.text("port_range", None)
        try:
            return None if text is None else port_range(text)
        except ValueError as error:
            raise self.error("port_range", str(error)) from None

    def registration_port(self) -> int:
        """Return the port, a number or a numeric string (F2)."""
        value = self.data["registration_port"]
        port: int | None = None
        if isinstance(value, int) and not isinstance(value, bool):
            port = value
        elif isinstance(value, str):
            port = port_from_digits(value)
        if port is None or not 1 <= port <= MAX_PORT:
            shown = value if isinstance(value, int | str) else _json_type(value)
            raise self.error("registration_port", f"{shown!r:.40} is not a port (1-{MAX_PORT})")
        return port


def port_range(text: str) -> range:
    """Parse ``"LOW-HIGH"``; both ports belong to the range.

    Raises:
        ValueError: ``text`` is not two ports 1-65535, the lower one first.
    """
    low, _, high = text.partition("-")
    first, last = port_from_digits(low), port_from_digits(high)
    if first is None or last is None or first > last:
        raise ValueError(f"{text!r} is not a port range such as 50000-50100")
    return range(first, last + 1)


def port_from_digits(text: str) -> int | None:
    """Return the port 1-65535 that ``text`` is, in ASCII digits; None if it is not one."""
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_PORT))):
        return None
    port = int(text)
    return port if 1 <= port <= MAX_PORT else None


def _json_type(value: object) -> str:
    """Return the name of the JSON type of ``value``. The value itself may be a key."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    if value is None:
        return "null"
    return names.get(type(value), "a number")
