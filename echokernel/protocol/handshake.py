"""The handshake of JEP 66: both forms, both ends, side by side.

========================  =======================  ============================================
kernel's end              on the wire              launcher's end
========================  =======================  ============================================
`pack_registration`       registration  ------>    `unpack_registration`
`unpack_receipt`          <------  receipt         `pack_receipt`, `pack_refusal`
`KernelHandshake`                                   `LauncherHandshake`
========================  =======================  ============================================

The *signed frame* form (messaging docs 5.6) carries one JSON object under one signature, ports
as strings; the *handshake request* form (ark, Kallichore) carries a Jupyter message, ports as
integers, and comes from a REQ socket: one empty frame more in front. A launcher answers either
with every frame that stood before the delimiter, so that one ROUTER serves both.

The states are the table `TRANSITIONS`; the README's drawing is tested against it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from .errors import MalformedMessage, WireError
from .startup import CHANNELS, MAX_PORT, Form, Ports, RegistrationFile, port_from_digits
from .wire import (
    JsonObject,
    Message,
    Signer,
    pack_json,
    pack_message,
    pack_signed_frame,
    split,
    unpack_message,
    unpack_object,
    unpack_signed_frame,
)

REQUEST = "handshake_request"
REPLY = "handshake_reply"

SIGNED_FRAME_RECEIPT = b"ACK"
"""What xeus sends and expects; the content is free (it need not even be JSON)."""


# --- the registration: kernel -> launcher -------------------------------------------------


@dataclass(frozen=True)
class Registration:
    """What a kernel tells its launcher. ``kernel_id`` is None where the form has none."""

    form: Form
    ports: Ports
    kernel_id: str | None = None


def pack_registration(
    registration: Registration, signer: Signer, header: JsonObject
) -> list[bytes]:
    """Return the frames a kernel sends; ``header`` is used by the handshake request only."""
    if registration.form is Form.SIGNED_FRAME:
        # Ports are strings here: xeus's launcher side reads nothing else.
        body: JsonObject = {name: str(port) for name, port in registration.ports.to_keys().items()}
        if registration.kernel_id is not None:
            body["kernel_id"] = registration.kernel_id
        return pack_signed_frame(pack_json(body), signer)
    # The peer is a REP, or a ROUTER that takes us for a REQ: one empty frame in front.
    content = registration.ports.to_keys()
    return pack_message(Message(header, content=content, identities=[b""]), signer)


def unpack_registration(frames: Sequence[bytes], signer: Signer) -> Registration:
    """Return the registration in ``frames``, verified.

    Raises:
        MalformedMessage: no registration, or ports that nobody can connect to (L3).
        BadSignature: not signed with this signer's key.
    """
    if form_of(frames) is Form.SIGNED_FRAME:
        body = unpack_object(unpack_signed_frame(frames, signer), "the registration")
        kernel_id = body.get("kernel_id")
        if kernel_id is not None and not isinstance(kernel_id, str):
            raise MalformedMessage("kernel_id is not a string")
        return Registration(Form.SIGNED_FRAME, _ports(body), kernel_id)
    message = unpack_message(frames, signer)
    if message.msg_type != REQUEST:
        raise MalformedMessage(f"msg_type is not {REQUEST}")
    return Registration(Form.HANDSHAKE_REQUEST, _ports(message.content))


def form_of(frames: Sequence[bytes]) -> Form:
    """Tell the form of a registration or receipt by the number of frames behind the delimiter.

    Raises:
        MalformedMessage: neither form has that many.
    """
    _, rest = split(frames)
    if len(rest) == 2:
        return Form.SIGNED_FRAME
    if len(rest) == 5:
        return Form.HANDSHAKE_REQUEST
    raise MalformedMessage(f"{len(rest)} frames behind the delimiter; a registration has 2 or 5")


def _ports(content: Mapping[str, Any]) -> Ports:
    """L3: whole numbers 1-65535 (or, for the sake of either form, strings of them), distinct."""
    ports: dict[str, int] = {}
    for channel in CHANNELS:
        value = content.get(f"{channel}_port")
        port = port_from_digits(value) if isinstance(value, str) else value
        if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= MAX_PORT:
            raise MalformedMessage(f"{channel}_port is not a port (1-{MAX_PORT})")
        if port in ports.values():
            raise MalformedMessage(f"{channel}_port is another channel's port, too")
        ports[channel] = port
    return Ports(**ports)


# --- the receipt: launcher -> kernel ------------------------------------------------------


@dataclass(frozen=True)
class Receipt:
    """The launcher's answer; ``refusal`` is its reason to say no, None if it said yes."""

    refusal: str | None = None


def pack_receipt(frames: Sequence[bytes], signer: Signer, header: JsonObject) -> list[bytes]:
    """Return the receipt for a registration that was received as ``frames``."""
    return _pack_answer(frames, signer, header, {"status": "ok"})


def pack_refusal(
    frames: Sequence[bytes], signer: Signer, header: JsonObject, reason: str
) -> list[bytes]:
    """Return the refusal of a registration that was received as ``frames``."""
    return _pack_answer(frames, signer, header, {"status": "error", "error": reason})


def _pack_answer(
    frames: Sequence[bytes], signer: Signer, header: JsonObject, content: JsonObject
) -> list[bytes]:
    way_back, rest = split(frames)
    if form_of(frames) is Form.SIGNED_FRAME:
        ok = content["status"] == "ok"
        # Exactly one frame behind the signature: xeus gives up on any other number.
        return pack_signed_frame(
            SIGNED_FRAME_RECEIPT if ok else pack_json(content), signer, way_back
        )
    parent = unpack_object(rest[1], "header")
    try:
        return pack_message(Message(header, parent, {}, content, identities=way_back), signer)
    except (ValueError, RecursionError):  # NaN, 1e999 or a lone surrogate in it
        raise MalformedMessage("header cannot be sent back") from None


def unpack_receipt(frames: Sequence[bytes], signer: Signer, form: Form) -> Receipt:
    """Return the receipt in ``frames``, verified (H3).

    Raises:
        MalformedMessage: no receipt of this form.
        BadSignature: not signed with this signer's key.
    """
    if form is Form.SIGNED_FRAME:
        body = unpack_signed_frame(frames, signer)
        try:
            content = unpack_object(body, "the receipt")
        except MalformedMessage:
            # The content of a signed frame's receipt is free: the signature is the receipt.
            return Receipt()
        if "shell_port" in content:
            # A stranger who sends our own words back has our signature on them (H3).
            raise MalformedMessage("a registration, not a receipt")
        # Ours: the form knows no refusal; an object that says "error" can mean nothing else.
        return Receipt(_reason(content) if content.get("status") == "error" else None)
    message = unpack_message(frames, signer)
    if message.msg_type != REPLY:
        raise MalformedMessage(f"msg_type is not {REPLY}")
    status = message.content.get("status")
    if status == "error":
        return Receipt(_reason(message.content))
    if status != "ok":
        raise MalformedMessage("status is neither 'ok' nor 'error'")
    return Receipt()


def _reason(content: JsonObject) -> str:
    """Return the launcher's reason: Kallichore's ``error``, or Jupyter's ``evalue``."""
    for name in ("error", "evalue", "ename"):
        text = content.get(name)
        if isinstance(text, str) and text.strip():
            # One line for a terminal, whatever control characters it holds.
            return " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return "no reason given"


# --- the states ---------------------------------------------------------------------------


class State(Enum):
    """Where the kernel's end of a handshake stands."""

    OPEN = "open"  # the sockets are bound, the registration is not sent
    REGISTERED = "registered"  # sent, waiting for the receipt
    ACCEPTED = "accepted"  # the receipt came
    REFUSED = "refused"  # the launcher said no
    EXPIRED = "expired"  # the deadline passed


class Event(Enum):
    """What moves a handshake."""

    REGISTRATION = "registration"
    RECEIPT = "receipt"
    REFUSAL = "refusal"
    INVALID = "invalid"  # a wrong signature, malformed frames, a stranger
    DEADLINE = "deadline"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.OPEN, Event.REGISTRATION): State.REGISTERED,
    # H3: whatever is invalid is ignored, and the wait goes on.
    (State.REGISTERED, Event.INVALID): State.REGISTERED,
    (State.REGISTERED, Event.RECEIPT): State.ACCEPTED,
    (State.REGISTERED, Event.REFUSAL): State.REFUSED,
    # H4: the deadline ends it.
    (State.REGISTERED, Event.DEADLINE): State.EXPIRED,
}
"""(state, happening) -> next state. A pair that is not here cannot happen."""

FINAL = frozenset({State.ACCEPTED, State.REFUSED, State.EXPIRED})


@dataclass
class KernelHandshake:
    """The kernel's end of one handshake.

    ``register`` once, then ``receive`` each answer and call ``tick`` as time passes, until
    ``done``. ``now`` and ``deadline`` are seconds on the caller's monotonic clock.
    """

    file: RegistrationFile
    deadline: float
    state: State = State.OPEN
    refusal: str | None = None
    ignored: int = 0
    _signer: Signer = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._signer = Signer(self.file.key, self.file.signature_scheme)

    @property
    def done(self) -> bool:
        return self.state in FINAL

    def register(self, ports: Ports, header: JsonObject) -> list[bytes]:
        """Return the frames of the registration of ``ports``."""
        self._move(Event.REGISTRATION)
        registration = Registration(self.file.form, ports, self.file.kernel_id)
        return pack_registration(registration, self._signer, header)

    def receive(self, frames: Sequence[bytes]) -> None:
        """Take an answer; an invalid one only raises ``ignored``."""
        try:
            receipt = unpack_receipt(frames, self._signer, self.file.form)
        except WireError:
            self.ignored += 1
            self._move(Event.INVALID)
            return
        self.refusal = receipt.refusal
        # F4: a launcher that quotes its registration file must not have us print the key.
        if self.refusal and self.file.key:
            self.refusal = self.refusal.replace(self.file.key.decode(), "[the key]")
        self._move(Event.REFUSAL if receipt.refusal is not None else Event.RECEIPT)

    def tick(self, now: float) -> None:
        """Let the time be ``now``."""
        if self.state is State.REGISTERED and now >= self.deadline:
            self._move(Event.DEADLINE)

    def _move(self, happening: Event) -> None:
        self.state = TRANSITIONS[self.state, happening]


@dataclass(frozen=True)
class Accepted:
    """A registration that completes the launch ``launch_id``; ``receipt`` goes back."""

    launch_id: str
    registration: Registration
    receipt: list[bytes]


@dataclass(frozen=True)
class Ignored:
    """Frames that are nobody's registration; ``why`` holds nothing the sender wrote."""

    why: str


@dataclass
class LauncherHandshake:
    """The launcher's end: any number of launches that wait for their registration.

    L3: whatever is not the registration of a waiting launch is `Ignored` and leaves every
    wait as it was; a registration is accepted once.
    """

    _waiting: dict[str, Signer] = field(default_factory=dict, repr=False)

    def expect(self, launch_id: str, signer: Signer) -> None:
        """Wait for the kernel that was told to register as ``launch_id``, or with this key.

        Raises:
            ValueError: this ``launch_id`` is waiting already.
        """
        if launch_id in self._waiting:
            raise ValueError(f"a launch with the id {launch_id!r} is waiting already")
        self._waiting[launch_id] = signer

    def forget(self, launch_id: str) -> None:
        """Wait no longer; no matter whether there was such a launch."""
        self._waiting.pop(launch_id, None)

    def receive(self, frames: Sequence[bytes], header: JsonObject) -> Accepted | Ignored:
        """Take what the registration socket received; ``header`` is for the reply."""
        try:
            launch_id, registration = self._recognise(frames)
            receipt = pack_receipt(frames, self._waiting[launch_id], header)
        except WireError as error:
            return Ignored(str(error))
        self.forget(launch_id)
        return Accepted(launch_id, registration, receipt)

    def _recognise(self, frames: Sequence[bytes]) -> tuple[str, Registration]:
        """L2: a kernel is known by its ``kernel_id``, else by the key that verifies it."""
        named = _claimed_id(frames)
        if named is not None:
            # Only the id counts then: after a restart the old process's late registration
            # verifies with the same key, and must not be taken for the new one.
            if named not in self._waiting:
                raise MalformedMessage("a kernel_id that no launch is waiting for")
            return named, unpack_registration(frames, self._waiting[named])
        refused: WireError = MalformedMessage("no launch is waiting")
        # Keyed launches first: without a key anything verifies (F4).
        for launch_id, signer in sorted(self._waiting.items(), key=lambda item: not item[1].keyed):
            try:
                return launch_id, unpack_registration(frames, signer)
            except WireError as error:
                refused = error
        raise refused


def _claimed_id(frames: Sequence[bytes]) -> str | None:
    """Return the ``kernel_id`` a registration claims, not verified yet."""
    if form_of(frames) is not Form.SIGNED_FRAME:
        return None
    _, rest = split(frames)
    kernel_id = unpack_object(rest[1], "the registration").get("kernel_id")
    if kernel_id is not None and not isinstance(kernel_id, str):
        raise MalformedMessage("kernel_id is not a string")
    return kernel_id
