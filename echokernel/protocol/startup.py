"""Startup files: the text that ``-f`` names becomes one of two types, decided once, by its keys.

F1: with ``registration_port`` it is a `RegistrationFile` (the kernel chooses its ports and
registers them), otherwise a `ConnectionFile` (the launcher chose the ports). Both ends live
here: `parse` for the kernel, ``to_json`` for whoever writes the file.

Sources: messaging docs, "Connection files" and "Handshake"; JEP 66.
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
"""The five channels, as the keys ``<channel>_port`` name them."""

TRANSPORTS = ("tcp", "ipc")
MAX_PORT = 65535
LOOPBACK = "127.0.0.1"

_Z85 = frozenset(
    "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-:+=^!/*?&<>()[]{}@%$#"
)
_Z85_KEY_LENGTH = 40


class Form(Enum):
    """The two forms of the handshake in the field (SPEC section 1)."""

    SIGNED_FRAME = "signed-frame"
    HANDSHAKE_REQUEST = "handshake-request"


@dataclass(frozen=True)
class Ports:
    """The five ports of a kernel, 1-65535; 0 where the kernel is to choose."""

    shell: int = 0
    iopub: int = 0
    stdin: int = 0
    control: int = 0
    hb: int = 0

    @classmethod
    def from_keys(cls, data: Mapping[str, int]) -> Ports:
        """Build from ``{"shell_port": 1, ...}``; keys that are missing count as 0."""
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
    """A CURVE key pair, Z85 (40 bytes each). The kernel's sockets are servers with it (F6)."""

    publickey: bytes
    secretkey: bytes = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class _StartupFile:
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
class ConnectionFile(_StartupFile):
    """A connection file: where a kernel listens (or is to listen, where a port is 0).

    ``extra`` holds the keys that are not ours to know; a rewrite keeps them.
    """

    ip: str = LOOPBACK
    ports: Ports = Ports()
    extra: JsonObject = field(default_factory=dict, repr=False)

    def to_json(self) -> JsonObject:
        """Return the object to write, with the field's own key names."""
        return {**self.extra, **self._common_json(), "ip": self.ip, **self.ports.to_keys()}


@dataclass(frozen=True, kw_only=True)
class RegistrationFile(_StartupFile):
    """A registration file: where a kernel must register the ports that it chose itself.

    Attributes:
        form: decided by the keys: ``kernel_id`` or ``registration_ip`` means signed frame.
        registration_ip, registration_port: the launcher's registration socket.
        ip: where the kernel's own sockets bind; None: see ``channels.bind_address`` (F2).
        kernel_id: what the registration calls the kernel; None in handshake-request files.
        connection_file: where the kernel puts its connection file (ours, H6).
        kernel_name: copied into that connection file (ours).
        preferred_ports: ports to take again if they are free (ours, L6).
        port_range: tcp ports to choose from; None: the system's choice (ours).
        advertised_ip: where clients reach the kernel, if not where it binds (ours).
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
        """Return the object to write, as the form's kernels in the field can read it."""
        data = self._common_json()
        if self.ip is not None:
            data["ip"] = self.ip
        if self.form is Form.SIGNED_FRAME:
            data["registration_ip"] = self.registration_ip
            # xeus reads only a string here and exits without a word on a number; the
            # messaging docs show a number. Ours reads both.
            data["registration_port"] = str(self.registration_port)
            if self.kernel_id is not None:
                data["kernel_id"] = self.kernel_id
        else:
            # ark has one address for both, and reads only a number (u16).
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
    """Read the text of a startup file; ``path`` only names it in errors.

    Raises:
        StartupFileError: F3; names the file, the field and what is wrong with it.
    """
    reader = _Reader(path, _load(text, path))
    common = reader.common()
    # F1: decided by the key, never by trial: ark's trial parse takes a registration file with
    # five ports for a connection file.
    if "registration_port" in reader.data:
        return _registration_file(reader, common)
    return _connection_file(reader, common)


def _load(text: str | bytes, path: str) -> JsonObject:
    try:
        if isinstance(text, bytes):
            text = text.decode("utf-8")
        data = json.loads(text)
    except UnicodeDecodeError as error:
        raise StartupFileError(path, None, f"not UTF-8 (byte {error.start})") from None
    except RecursionError:
        raise StartupFileError(path, None, "not usable JSON: nested too deeply") from None
    except json.JSONDecodeError as error:
        at = f"{error.msg}, line {error.lineno} column {error.colno}"
        raise StartupFileError(path, None, f"not JSON ({at})") from None
    except ValueError as error:  # an integer of more digits than Python converts
        raise StartupFileError(path, None, f"not usable JSON ({error})") from None
    if not isinstance(data, dict):
        raise StartupFileError(path, None, f"a JSON object is needed, not {_kind(data)}")
    return data


def _connection_file(reader: _Reader, common: dict[str, Any]) -> ConnectionFile:
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
    """Return what ``ip`` is when a file leaves it out, as ``jupyter_client`` has it."""
    if transport == "ipc":
        name = path.rpartition("/")[2]
        dot = name.rfind(".", len(name) - len(name.lstrip(".")))
        return f"{path if dot < 0 else path[: dot - len(name)]}-ipc"
    return LOOPBACK


def _registration_file(reader: _Reader, common: dict[str, Any]) -> RegistrationFile:
    data = reader.data
    # H2: the file decides the form.
    named = "kernel_id" in data or "registration_ip" in data
    ip = reader.text("ip", None)
    # F2: registration_ip, else ip, is the address to connect to.
    registration_ip = reader.text("registration_ip", ip)
    if registration_ip is None:
        raise reader.error("ip", "missing, and there is no registration_ip either")
    preferred = data.get("preferred_ports", {})
    if not isinstance(preferred, dict):
        raise reader.error("preferred_ports", f"an object is needed, not {_kind(preferred)}")
    return RegistrationFile(
        **common,
        form=Form.SIGNED_FRAME if named else Form.HANDSHAKE_REQUEST,
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
class _Reader:
    """Takes fields out of a startup file, and says which one is wrong (F3)."""

    path: str
    data: JsonObject = field(repr=False)

    def error(self, name: str, problem: str) -> StartupFileError:
        return StartupFileError(self.path, name, problem)

    def text(self, name: str, default: Any) -> Any:
        """Return a string field, or ``default`` if the file has none."""
        if name not in self.data:
            return default
        value = self.data[name]
        if not isinstance(value, str):
            raise self.error(name, f"a string is needed, not {_kind(value)}")
        # What passes JSON but no socket, path or key: control characters, lone surrogates.
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
        """Return what both kinds of file have."""
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
        given = [name for name in names if self.data.get(name) is not None]
        if not given:
            return None
        for name in names:
            # Neither half is worth anything alone: a server needs both (F6).
            if name not in given:
                raise self.error(name, f"missing, though {given[0]} is there")
            value = self.text(name, None)
            if len(value) != _Z85_KEY_LENGTH or not _Z85.issuperset(value):
                raise self.error(name, "not a CURVE key (40 characters of Z85)")
        public, secret = (self.data[name].encode("ascii") for name in names)
        return CurveKeys(public, secret)

    def ports(self, source: Mapping[str, Any], prefix: str = "") -> Ports:
        """Return the five ports in ``source``; one that is missing is 0."""
        found: dict[int, str] = {}
        for channel in CHANNELS:
            name = f"{channel}_port"
            value = source.get(name, 0)
            if not isinstance(value, int) or isinstance(value, bool):
                raise self.error(prefix + name, f"a whole number is needed, not {_kind(value)}")
            if not 0 <= value <= MAX_PORT:
                raise self.error(prefix + name, f"{value} is not a port (0-{MAX_PORT})")
            if value and value in found:
                raise self.error(prefix + name, f"{value} is {found[value]} already")
            found[value] = name
        return Ports.from_keys(source)

    def port_range(self) -> range | None:
        text = self.text("port_range", None)
        try:
            return None if text is None else port_range(text)
        except ValueError as error:
            raise self.error("port_range", str(error)) from None

    def registration_port(self) -> int:
        """F2: a number or a numeric string, 1-65535."""
        value = self.data["registration_port"]
        port: int | None = None
        if isinstance(value, int) and not isinstance(value, bool):
            port = value
        elif isinstance(value, str):
            port = port_from_digits(value)
        if port is None or not 1 <= port <= MAX_PORT:
            shown = value if isinstance(value, int | str) else _kind(value)
            raise self.error("registration_port", f"{shown!r:.40} is not a port (1-{MAX_PORT})")
        return port


def port_range(text: str) -> range:
    """Read ``"LOW-HIGH"`` (both included).

    Raises:
        ValueError: not two ports 1-65535 in order.
    """
    low, _, high = text.partition("-")
    first, last = port_from_digits(low), port_from_digits(high)
    if first is None or last is None or first > last:
        raise ValueError(f"{text!r} is not a port range such as 50000-50100")
    return range(first, last + 1)


def port_from_digits(text: str) -> int | None:
    """Return the port 1-65535 that a string of ASCII digits names, else None."""
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(MAX_PORT))):
        return None
    port = int(text)
    return port if 1 <= port <= MAX_PORT else None


def _kind(value: object) -> str:
    """Name the JSON type of ``value``, never the value itself: it may be a key."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "a boolean"}
    if value is None:
        return "null"
    return names.get(type(value), "a number")
