"""The handshake of JEP 66: both forms, both ends, side by side.

========================  =======================  ============================================
kernel's end              on the wire              launcher's end
========================  =======================  ============================================
`pack_registration`       registration  ------>    `unpack_registration`
`unpack_receipt`          <------  receipt         `pack_receipt`, `pack_refusal`
`KernelHandshake`                                   `LauncherHandshake`
========================  =======================  ============================================

The *signed frame* form (messaging protocol 5.6) carries one signed JSON object, with ports as
strings. The *handshake request* form (ark, Kallichore) carries a Jupyter message, with ports as
integers; the sender is a REQ socket, which puts one empty frame first. A launcher's answer starts
with every frame that preceded the delimiter, so one ROUTER serves both forms.

The states are the table `TRANSITIONS`. Sockets and clocks belong to the callers.

Sources: "Kernel startup handshake" in
https://jupyter-client.readthedocs.io/en/stable/messaging.html and
https://github.com/jupyter/enhancement-proposals/blob/master/66-jupyter-handshaking/jupyter-handshaking.md
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
"""The receipt that xeus-zmq 4 sends. The form leaves the content free; it need not be JSON."""


# --- the registration: kernel -> launcher -------------------------------------------------


@dataclass(frozen=True)
class Registration:
    """The ports that a kernel registers; ``kernel_id`` is None in handshake requests."""

    form: Form
    ports: Ports
    kernel_id: str | None = None


def pack_registration(
    registration: Registration, signer: Signer, header: JsonObject
) -> list[bytes]:
    """Return the frames that a kernel sends.

    Args:
        registration: of the kernel.
        signer: of the registration file's key.
        header: of the message; a signed frame has no header.
    """
    if registration.form is Form.SIGNED_FRAME:
        # Ports are strings: xeus-zmq 4 reads nothing else.
        body: JsonObject = {name: str(port) for name, port in registration.ports.to_keys().items()}
        if registration.kernel_id is not None:
            body["kernel_id"] = registration.kernel_id
        return pack_signed_frame(pack_json(body), signer)
    # The peer is a REP, or a ROUTER that serves REQ sockets: one empty frame comes first.
    content = registration.ports.to_keys()
    return pack_message(Message(header, content=content, identities=[b""]), signer)


def unpack_registration(frames: Sequence[bytes], signer: Signer) -> Registration:
    """Return the registration in ``frames``, verified.

    Raises:
        MalformedMessage: the frames are not a registration, or a port is not usable (L3).
        BadSignature: the registration is not signed with this signer's key.
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
    """Return the form of a registration: the number of frames after the delimiter decides.

    Raises:
        MalformedMessage: neither form has that number.
    """
    _, rest = split(frames)
    if len(rest) == 2:
        return Form.SIGNED_FRAME
    if len(rest) == 5:
        return Form.HANDSHAKE_REQUEST
    raise MalformedMessage(f"{len(rest)} frames after the delimiter; a registration has 2 or 5")


def _ports(content: Mapping[str, Any]) -> Ports:
    """Return five distinct ports 1-65535, which are numbers or strings in either form (L3)."""
    ports: dict[str, int] = {}
    for channel in CHANNELS:
        value = content.get(f"{channel}_port")
        port = port_from_digits(value) if isinstance(value, str) else value
        if not isinstance(port, int) or isinstance(port, bool) or not 1 <= port <= MAX_PORT:
            raise MalformedMessage(f"{channel}_port is not a port (1-{MAX_PORT})")
        if port in ports.values():
            raise MalformedMessage(f"{channel}_port is also the port of another channel")
        ports[channel] = port
    return Ports(**ports)


# --- the receipt: launcher -> kernel ------------------------------------------------------


@dataclass(frozen=True)
class Receipt:
    """The launcher's answer; ``refusal`` is the reason of an error, None for a receipt."""

    refusal: str | None = None


def pack_receipt(frames: Sequence[bytes], signer: Signer, header: JsonObject) -> list[bytes]:
    """Return the receipt for a registration.

    Args:
        frames: the registration, as received.
        signer: of the launch's key.
        header: of the reply; a signed frame has no header.

    Raises:
        MalformedMessage: the registration's header cannot be sent back as the reply's parent.
    """
    return _pack_answer(frames, signer, header, {"status": "ok"})


def pack_refusal(
    frames: Sequence[bytes], signer: Signer, header: JsonObject, reason: str
) -> list[bytes]:
    """Return the refusal of a registration, with a ``reason`` for the user; see `pack_receipt`."""
    return _pack_answer(frames, signer, header, {"status": "error", "error": reason})


def _pack_answer(
    frames: Sequence[bytes], signer: Signer, header: JsonObject, content: JsonObject
) -> list[bytes]:
    envelope, rest = split(frames)
    if form_of(frames) is Form.SIGNED_FRAME:
        # Exactly one frame after the signature: xeus-zmq 4 fails on any other number.
        body = SIGNED_FRAME_RECEIPT if content["status"] == "ok" else pack_json(content)
        return pack_signed_frame(body, signer, envelope)
    parent = unpack_object(rest[1], "header")
    try:
        return pack_message(Message(header, parent, {}, content, identities=envelope), signer)
    except (ValueError, RecursionError):  # 1e999, or a lone surrogate
        raise MalformedMessage("header cannot be encoded again") from None


def unpack_receipt(frames: Sequence[bytes], signer: Signer, form: Form) -> Receipt:
    """Return the receipt in ``frames``, verified (H3).

    Args:
        frames: the launcher's answer.
        signer: of the registration file's key.
        form: of the registration.

    Raises:
        MalformedMessage: the frames are not a receipt of this form.
        BadSignature: the receipt is not signed with this signer's key.
    """
    if form is Form.SIGNED_FRAME:
        body = unpack_signed_frame(frames, signer)
        try:
            content = unpack_object(body, "the receipt")
        except MalformedMessage:
            # The form leaves the content free: the signature proves the receipt.
            return Receipt()
        if "shell_port" in content:
            # An unauthenticated peer can send the kernel's own signed registration back (H3).
            raise MalformedMessage("a registration, not a receipt")
        # Ours: the form defines no refusal. An object with this status cannot mean anything else.
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
    """Return the launcher's reason, on one line: Kallichore's ``error`` or Jupyter's ``evalue``."""
    for name in ("error", "evalue", "ename"):
        text = content.get(name)
        if isinstance(text, str):
            # The line is for a terminal: control characters become spaces.
            line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
            if line:
                return line
    return "no reason given"


# --- the states ---------------------------------------------------------------------------


class State(Enum):
    """States of the kernel's end of a handshake."""

    OPEN = "open"  # the sockets are bound; the registration has not been sent
    REGISTERED = "registered"  # sent; the kernel waits for the receipt
    ACCEPTED = "accepted"  # the receipt arrived
    REFUSED = "refused"  # the launcher replied with an error
    EXPIRED = "expired"  # the deadline passed


class Event(Enum):
    """Events that change the state of a handshake."""

    REGISTRATION = "registration"
    RECEIPT = "receipt"
    REFUSAL = "refusal"
    INVALID = "invalid"  # a wrong signature, or malformed frames
    DEADLINE = "deadline"


TRANSITIONS: dict[tuple[State, Event], State] = {
    (State.OPEN, Event.REGISTRATION): State.REGISTERED,
    # An invalid answer is ignored, and the wait continues (H3).
    (State.REGISTERED, Event.INVALID): State.REGISTERED,
    (State.REGISTERED, Event.RECEIPT): State.ACCEPTED,
    (State.REGISTERED, Event.REFUSAL): State.REFUSED,
    # The deadline ends the wait (H4).
    (State.REGISTERED, Event.DEADLINE): State.EXPIRED,
}
"""(state, event) -> next state. Any other pair raises KeyError: a mistake of the caller."""

FINAL = frozenset({State.ACCEPTED, State.REFUSED, State.EXPIRED})


@dataclass
class KernelHandshake:
    """The kernel's end of one handshake.

    Call `register` once. Then pass each answer to `receive`, and the time to `tick`, until `done`.

    Args:
        file: the registration file.
        deadline: time at which the wait for the receipt ends, in seconds of the caller's clock.

    Attributes: ``refusal`` (the launcher's reason; None: none), ``ignored`` (invalid answers).
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
        """Return the frames that register ``ports``; ``header`` is as in `pack_registration`."""
        self._move(Event.REGISTRATION)
        registration = Registration(self.file.form, ports, self.file.kernel_id)
        return pack_registration(registration, self._signer, header)

    def receive(self, frames: Sequence[bytes]) -> None:
        """Apply an answer of the launcher; an invalid answer is only counted (H3)."""
        try:
            receipt = unpack_receipt(frames, self._signer, self.file.form)
        except WireError:
            self.ignored += 1
            self._move(Event.INVALID)
            return
        self.refusal = receipt.refusal
        # The reason can quote the registration file; the key must not be printed (F4).
        if self.refusal and self.file.key:
            self.refusal = self.refusal.replace(self.file.key.decode(), "[the key]")
        self._move(Event.REFUSAL if receipt.refusal is not None else Event.RECEIPT)

    def tick(self, now: float) -> None:
        """Apply the time ``now``, in seconds of the deadline's clock (H4)."""
        if self.state is State.REGISTERED and now >= self.deadline:
            self._move(Event.DEADLINE)

    def _move(self, event: Event) -> None:
        self.state = TRANSITIONS[self.state, event]


@dataclass(frozen=True)
class Accepted:
    """A registration that completes the launch ``launch_id``; ``receipt`` is the answer to send."""

    launch_id: str
    registration: Registration
    receipt: list[bytes]


@dataclass(frozen=True)
class Ignored:
    """Frames that no launch waits for; ``reason`` contains no text of the sender."""

    reason: str


@dataclass
class LauncherHandshake:
    """The launcher's end of any number of handshakes.

    A registration is accepted once. Any other frames are `Ignored` and change nothing (L3).
    """

    _waiting: dict[str, Signer] = field(default_factory=dict, repr=False)

    def expect(self, launch_id: str, signer: Signer) -> None:
        """Wait for one registration.

        Args:
            launch_id: the ``kernel_id`` of the registration file, if it has one.
            signer: of the registration file's key.

        Raises:
            ValueError: a launch with this id is waiting already.
        """
        if launch_id in self._waiting:
            raise ValueError(f"a launch with the id {launch_id!r} is waiting already")
        self._waiting[launch_id] = signer

    def forget(self, launch_id: str) -> None:
        """Stop waiting for a launch; an unknown id has no effect."""
        self._waiting.pop(launch_id, None)

    def receive(self, frames: Sequence[bytes], header: JsonObject) -> Accepted | Ignored:
        """Apply a message of the registration socket; ``header`` is as in `pack_receipt`."""
        try:
            launch_id, registration = self._identify(frames)
            receipt = pack_receipt(frames, self._waiting[launch_id], header)
        except WireError as error:
            return Ignored(reason=str(error))
        self.forget(launch_id)
        return Accepted(launch_id, registration, receipt)

    def _identify(self, frames: Sequence[bytes]) -> tuple[str, Registration]:
        """Return the launch: its ``kernel_id``, otherwise its key identifies a kernel (L2)."""
        kernel_id = _claimed_id(frames)
        if kernel_id is not None:
            # The key does not count here: after a restart, a late registration of the old process
            # is signed with the same key.
            if kernel_id not in self._waiting:
                raise MalformedMessage("a kernel_id that no launch is waiting for")
            return kernel_id, unpack_registration(frames, self._waiting[kernel_id])
        failure: WireError = MalformedMessage("no launch is waiting")
        # Launches with a key come first, because an empty key verifies every signature (F4).
        for launch_id, signer in sorted(self._waiting.items(), key=lambda item: not item[1].keyed):
            try:
                return launch_id, unpack_registration(frames, signer)
            except WireError as error:
                failure = error
        raise failure


def _claimed_id(frames: Sequence[bytes]) -> str | None:
    """Return the ``kernel_id`` of a registration that has not been verified; None: it has none."""
    if form_of(frames) is not Form.SIGNED_FRAME:
        return None
    _, rest = split(frames)
    kernel_id = unpack_object(rest[1], "the registration").get("kernel_id")
    if kernel_id is not None and not isinstance(kernel_id, str):
        raise MalformedMessage("kernel_id is not a string")
    return kernel_id
