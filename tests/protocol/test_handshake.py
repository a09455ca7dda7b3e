"""handshake.py: both forms and both ends, tested with the vectors, with each other, and fuzzed."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator

import pytest
from support.vectors import params, to_bytes, to_frames

from echokernel.protocol.errors import BadSignature, MalformedMessage
from echokernel.protocol.handshake import (
    FINAL,
    REPLY,
    REQUEST,
    TRANSITIONS,
    Accepted,
    Event,
    Ignored,
    KernelHandshake,
    LauncherHandshake,
    Receipt,
    Registration,
    State,
    pack_receipt,
    pack_refusal,
    pack_registration,
    unpack_receipt,
    unpack_registration,
)
from echokernel.protocol.headers import header
from echokernel.protocol.startup import CurveKeys, Form, Ports, RegistrationFile
from echokernel.protocol.wire import DELIMITER, Signer, pack_signed_frame, split

ERRORS = {"malformed": MalformedMessage, "bad-signature": BadSignature}
SEED = 66
KEY, OTHER_KEY = b"a-key-that-must-stay-secret", b"another-key"
PORTS = Ports(50001, 50002, 50003, 50004, 50005)
ROUTER_ID = b"\0kern"
DEADLINE = 5.0
FORMS = pytest.mark.parametrize("form", list(Form), ids=lambda form: form.value)
KEYS = pytest.mark.parametrize("key", [KEY, b""], ids=["keyed", "keyless"])


def signer_of(vector: dict) -> Signer:
    return Signer(to_bytes(vector["key"]), vector["signature_scheme"])


def head(msg_type: str) -> dict:
    return header(msg_type, msg_id="m", session="s", date="2026-11-20T12:00:00Z")


def kernel_end(form: Form = Form.SIGNED_FRAME, key: bytes = KEY, **rest) -> KernelHandshake:
    """Return a kernel's end in this form; its ``kernel_id`` is "k" if the form has that field."""
    identity = {"kernel_id": "k"} if form is Form.SIGNED_FRAME else {}
    address = {"registration_ip": "127.0.0.1", "registration_port": 5555}
    file = RegistrationFile(**(address | identity | {"key": key, "form": form} | rest))
    return KernelHandshake(file, deadline=DEADLINE)


def launcher_end(**keys: bytes) -> LauncherHandshake:
    """Return a launcher's end that waits for these launches: id=key."""
    launcher = LauncherHandshake()
    for launch_id, key in keys.items():
        launcher.expect(launch_id, Signer(key))
    return launcher


def registered(kernel: KernelHandshake, ports: Ports = PORTS) -> list[bytes]:
    """Return the kernel's registration, as the launcher's ROUTER socket returns it."""
    return [ROUTER_ID, *kernel.register(ports, head(REQUEST))]


def as_received(receipt: list[bytes]) -> list[bytes]:
    """Return a message to the launcher's ROUTER socket, as the kernel's DEALER returns it."""
    assert receipt[0] == ROUTER_ID
    return receipt[1:]


# --- the vectors --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "vector", params("registration-signed-frame", "registration-handshake-request")
)
def test_a_registration_is_packed_and_unpacked(vector):
    """H2, H3a, L2, L3: the vectors, as frames and for a launcher that waits."""
    signer, frames, form = signer_of(vector), to_frames(vector["frames"]), Form(vector["form"])
    launch_id = "7c9e6679-7425-40de-944b-e07fc1f90ae7"
    if "error" in vector:
        with pytest.raises(ERRORS[vector["error"]]):
            unpack_registration(frames, signer)
    else:
        value = vector["value"]
        registration = Registration(form, Ports.from_keys(value["ports"]), value["kernel_id"])
        assert unpack_registration(frames, signer) == registration
        if vector.get("both_directions"):
            assert pack_registration(registration, signer, vector.get("header", {})) == frames
        launch_id = value["kernel_id"] or launch_id
    launcher = LauncherHandshake()
    launcher.expect(launch_id, signer)
    result = launcher.receive(frames, head(REPLY))
    if "error" in vector:
        assert isinstance(result, Ignored)
    else:
        assert (result.launch_id, result.registration) == (launch_id, registration)


@pytest.mark.parametrize("vector", params("receipt-signed-frame", "receipt-handshake-reply"))
def test_a_receipt_is_packed_and_unpacked(vector):
    """H3, H3a, H4: the vectors, as frames and for a kernel that waits."""
    signer, frames, form = signer_of(vector), to_frames(vector["frames"]), Form(vector["form"])
    kernel = kernel_end(form, to_bytes(vector["key"]))
    kernel.register(PORTS, head(REQUEST))
    kernel.receive(frames)
    if "error" in vector:
        with pytest.raises(ERRORS[vector["error"]]):
            unpack_receipt(frames, signer, form)
        assert (kernel.state, kernel.ignored, kernel.done) == (State.REGISTERED, 1, False)
        return
    refusal = vector["value"]["refusal"]
    assert unpack_receipt(frames, signer, form) == Receipt(refusal)
    assert kernel.state is (State.ACCEPTED if refusal is None else State.REFUSED)
    assert (kernel.refusal, kernel.ignored, kernel.done) == (refusal, 0, True)
    if vector.get("both_directions"):
        registration = to_frames(vector["registration"])
        reply = vector.get("header", {})
        if refusal is None:
            assert pack_receipt(registration, signer, reply) == frames
        else:
            assert pack_refusal(registration, signer, reply, refusal) == frames


# --- the states ---------------------------------------------------------------------------


@pytest.mark.parametrize("state", list(State), ids=lambda state: state.value)
@pytest.mark.parametrize("event", list(Event), ids=lambda event: event.value)
def test_only_transitions_of_the_table_are_possible(state, event):
    """H3, H4: a state and an event that are not in the table raise KeyError."""
    kernel = kernel_end()
    kernel.state = state
    if (state, event) in TRANSITIONS:
        kernel._move(event)
        assert kernel.state is TRANSITIONS[state, event]
    else:
        with pytest.raises(KeyError):
            kernel._move(event)
        assert kernel.state is state


def test_every_state_is_reachable_and_final_states_have_no_transitions():
    """H4."""
    reached = {State.OPEN}
    for _ in State:
        reached |= {after for (before, _), after in TRANSITIONS.items() if before in reached}
    assert reached == set(State)
    assert set(State) - {before for before, _ in TRANSITIONS} == FINAL
    assert {event for _, event in TRANSITIONS} == set(Event)


def test_a_kernel_registers_once_and_receives_only_between_registration_and_receipt():
    """H5: an answer before the registration or after the receipt is a caller's mistake."""
    kernel = kernel_end()
    receipt = pack_signed_frame(b"ACK", Signer(KEY))
    with pytest.raises(KeyError):
        kernel.receive(receipt)
    kernel.register(PORTS, {})
    with pytest.raises(KeyError):
        kernel.register(PORTS, {})
    kernel.receive(receipt)
    with pytest.raises(KeyError):
        kernel.receive(receipt)


def test_the_deadline_ends_the_wait_only():
    """H4: at the deadline, not before; no effect before the registration or in a final state."""
    kernel = kernel_end()
    kernel.tick(DEADLINE + 1)
    assert kernel.state is State.OPEN
    kernel.register(PORTS, {})
    kernel.tick(DEADLINE - 0.001)
    assert (kernel.state, kernel.done) == (State.REGISTERED, False)
    kernel.tick(DEADLINE)
    assert (kernel.state, kernel.done) == (State.EXPIRED, True)
    kernel.tick(DEADLINE + 1)
    assert kernel.state is State.EXPIRED


# --- both ends together -------------------------------------------------------------------


@FORMS
@KEYS
def test_both_ends_agree(form, key):
    """H2, H3, L2, L3, F4."""
    kernel, launcher = kernel_end(form, key), launcher_end(k=key)
    result = launcher.receive(registered(kernel), head(REPLY))
    kernel_id = "k" if form is Form.SIGNED_FRAME else None
    assert isinstance(result, Accepted)
    assert (result.launch_id, result.registration) == ("k", Registration(form, PORTS, kernel_id))
    kernel.receive(as_received(result.receipt))
    assert (kernel.state, kernel.refusal) == (State.ACCEPTED, None)


@FORMS
@KEYS
def test_a_refusal_arrives_with_its_reason(form, key):
    """H4."""
    kernel = kernel_end(form, key)
    frames = pack_refusal(registered(kernel), Signer(key), head(REPLY), "no\nroom")
    kernel.receive(as_received(frames))
    assert (kernel.state, kernel.refusal) == (State.REFUSED, "no room")


@FORMS
def test_a_registration_is_accepted_once(form):
    """L3."""
    launcher = launcher_end(k=KEY)
    frames = registered(kernel_end(form))
    assert isinstance(launcher.receive(frames, head(REPLY)), Accepted)
    assert isinstance(launcher.receive(frames, head(REPLY)), Ignored)


@FORMS
def test_a_forgotten_launch_is_not_accepted(form):
    """L3: a second ``forget`` has no effect."""
    launcher = launcher_end(k=KEY)
    launcher.forget("k")
    launcher.forget("k")
    assert isinstance(launcher.receive(registered(kernel_end(form)), head(REPLY)), Ignored)


def test_a_launch_id_cannot_wait_twice_at_the_same_time():
    """L3."""
    launcher = launcher_end(k=KEY)
    with pytest.raises(ValueError, match="'k' is waiting already"):
        launcher.expect("k", Signer(KEY))
    launcher.forget("k")
    launcher.expect("k", Signer(KEY))


# Two kernels that have an id and a key of their own, and one that has a key only.
MANY = {
    "a": {"key": KEY, "kernel_id": "a"},
    "b": {"key": OTHER_KEY, "kernel_id": "b"},
    "c": {"key": b"third", "form": Form.HANDSHAKE_REQUEST, "kernel_id": None},
}


@pytest.mark.parametrize("order", list(itertools.permutations(MANY)), ids="".join)
def test_concurrent_launches_register_in_any_order_with_junk_between(order):
    """L2, L3: an unauthenticated peer cannot end another kernel's handshake."""
    launcher = launcher_end(**{name: fields["key"] for name, fields in MANY.items()})
    kernels = {name: kernel_end(**fields) for name, fields in MANY.items()}
    junk = [[], [b""], [DELIMITER], [ROUTER_ID, DELIMITER, b"", b"{}"]]
    for number, name in enumerate(order):
        for frames in junk:
            assert isinstance(launcher.receive(frames, head(REPLY)), Ignored)
        ports = Ports(*range(1 + number, 6 + number))
        result = launcher.receive(registered(kernels[name], ports), head(REPLY))
        assert (result.launch_id, result.registration.ports) == (name, ports)
        for frames in junk:
            kernels[name].receive(frames)
        # A kernel that has not registered is not affected.
        for other in order[number + 1 :]:
            assert kernels[other].state is State.OPEN
        kernels[name].receive(as_received(result.receipt))
        assert (kernels[name].state, kernels[name].ignored) == (State.ACCEPTED, len(junk))


def test_the_receipt_of_another_launch_is_ignored():
    """H3: its signature is made with another key."""
    kernel, other = kernel_end(), kernel_end(key=OTHER_KEY)
    kernel.register(PORTS, {})
    result = launcher_end(k=OTHER_KEY).receive(registered(other), head(REPLY))
    kernel.receive(as_received(result.receipt))
    assert (kernel.state, kernel.ignored) == (State.REGISTERED, 1)


@pytest.mark.parametrize("key", [KEY, b""], ids=["keyed", "keyless"])
def test_a_late_registration_of_an_old_launch_is_ignored(key):
    """L2, L6: after a restart the key is the same; the kernel_id is not."""
    old, new = kernel_end(key=key, kernel_id="k-1"), kernel_end(key=key, kernel_id="k-2")
    launcher = launcher_end(**{"k-2": key})
    assert isinstance(launcher.receive(registered(old), head(REPLY)), Ignored)
    assert launcher.receive(registered(new), head(REPLY)).launch_id == "k-2"


def test_a_kernel_id_without_its_key_is_not_accepted():
    """L3: the kernel_id is not a secret; the key of that launch must have signed."""
    launcher = launcher_end(a=KEY, b=OTHER_KEY)
    kernel = kernel_end(key=OTHER_KEY, kernel_id="a")
    assert isinstance(launcher.receive(registered(kernel), head(REPLY)), Ignored)


@FORMS
def test_a_keyless_launch_does_not_accept_the_kernel_of_another_launch(form):
    """F4, L2: without a key every signature verifies, so launches with a key have precedence."""
    nameless = {"kernel_id": None}
    launcher = launcher_end(open=b"", keyed=KEY)
    assert launcher.receive(registered(kernel_end(form, **nameless)), {}).launch_id == "keyed"
    assert launcher.receive(registered(kernel_end(form, b"", **nameless)), {}).launch_id == "open"


# --- unauthenticated peers ----------------------------------------------------------------


@FORMS
def test_a_reflected_registration_is_not_a_receipt(form):
    """H3: an unauthenticated peer on the launcher's port can send the registration back."""
    kernel = kernel_end(form)
    sent = kernel.register(PORTS, head(REQUEST))
    kernel.receive(sent)
    assert (kernel.state, kernel.ignored) == (State.REGISTERED, 1)


@pytest.mark.parametrize("key", [KEY, b""], ids=["keyed", "keyless"])
@pytest.mark.parametrize(
    "text",
    [
        b'{"msg_id":"m","msg_type":"handshake_request","x":1e999}',
        b'{"msg_id":"m","msg_type":"handshake_request","x":NaN}',
        b'{"msg_id":"\\ud800","msg_type":"handshake_request"}',
    ],
    ids=["infinity", "nan", "surrogate"],
)
def test_a_header_that_cannot_be_serialized_does_not_raise(text, key):
    """L3: JSON that can be parsed but not sent back; without a key any peer can send it."""
    signer, launcher = Signer(key), launcher_end(k=key)
    good = registered(kernel_end(Form.HANDSHAKE_REQUEST, key))
    parts = [text, *good[5:]]
    result = launcher.receive([*good[:3], signer.sign(parts), *parts], head(REPLY))
    if isinstance(result, Ignored):  # then the wait continues
        assert isinstance(launcher.receive(good, head(REPLY)), Accepted)
    else:
        assert as_received(result.receipt)[:2] == [b"", DELIMITER]


def mutants(frames: list[bytes], signed: int, rounds: int) -> Iterator[list[bytes]]:
    """Yield damaged copies of valid ``frames``.

    A copy differs in the delimiter or in the ``signed`` frames after it. Identities and buffers are
    not signed, so a change there does not make a message invalid.
    """
    chance = random.Random(SEED)
    odd = [b"", b"{}", b"[]", b"null", DELIMITER, b"ACK", b"\xff", b"[" * 3000, b"0" * 64]
    _, valid = split(frames)
    for _ in range(rounds):
        mutant = list(frames)
        for _ in range(chance.randint(1, 3)):
            at = chance.randrange(len(mutant)) if mutant else 0
            kind = chance.randrange(8)
            if not mutant or kind == 0:
                mutant.insert(at, chance.choice(odd))
            elif kind == 1:
                del mutant[at]
            elif kind == 2:
                mutant[at] = chance.choice(odd)
            elif kind == 3:
                mutant[at] = mutant[at][: chance.randrange(len(mutant[at]) + 1)]
            elif kind == 4:
                mutant[at] = mutant[at].swapcase()
            elif kind == 5:
                mutant[at] = chance.randbytes(chance.randrange(80))
            elif kind == 6:
                chance.shuffle(mutant)
            elif mutant[at]:
                damaged = bytearray(mutant[at])
                damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
                mutant[at] = bytes(damaged)
        if DELIMITER not in mutant or split(mutant)[1][:signed] != valid[:signed]:
            yield mutant


@FORMS
def test_fuzzed_registrations_are_ignored_without_an_exception(form):
    """L3: the launcher then still accepts the valid registration."""
    launcher = launcher_end(k=KEY, other=OTHER_KEY)
    good = registered(kernel_end(form))
    # A registration has no buffers: every frame after the delimiter is signed.
    count = 0
    for count, frames in enumerate(mutants(good, 99, 1500), 1):  # noqa: B007
        result = launcher.receive(frames, head(REPLY))
        assert isinstance(result, Ignored), frames
        assert KEY.decode() not in result.reason
    assert count > 1000
    assert isinstance(launcher.receive(good, head(REPLY)), Accepted)


@FORMS
@pytest.mark.parametrize("refused", [False, True], ids=["receipt", "refusal"])
def test_fuzzed_receipts_are_ignored_without_an_exception(form, refused):
    """H3: the kernel continues to wait, and then accepts the valid receipt."""
    kernel = kernel_end(form)
    arguments = registered(kernel), Signer(KEY), head(REPLY)
    good = as_received(pack_refusal(*arguments, "no") if refused else pack_receipt(*arguments))
    count = 0
    for count, frames in enumerate(mutants(good, 5, 800), 1):
        kernel.receive(frames)
        assert (kernel.state, kernel.ignored) == (State.REGISTERED, count), frames
    assert count > 500
    kernel.receive(good)
    assert kernel.state is (State.REFUSED if refused else State.ACCEPTED)


@FORMS
def test_fuzzed_messages_without_a_key_raise_no_exception(form):
    """F4: without a key any peer may be accepted, but no exception is raised."""
    frames = registered(kernel_end(form, b""))
    for odd in mutants(frames, 99, 300):
        assert isinstance(launcher_end(k=b"").receive(odd, head(REPLY)), Accepted | Ignored)
    receipt = as_received(pack_receipt(frames, Signer(b""), head(REPLY)))
    for odd in mutants(receipt, 5, 300):
        kernel = kernel_end(form, b"")
        kernel.register(PORTS, head(REQUEST))
        kernel.receive(odd)


@FORMS
def test_no_repr_shows_a_key(form):
    """F4: the ends, their files and their results."""
    secret = b"s" * 40
    kernel, launcher = kernel_end(form, curve=CurveKeys(b"p" * 40, secret)), launcher_end(k=KEY)
    frames = registered(kernel)
    ignored = launcher.receive([*frames, b"x"], {})
    for shown in map(repr, (kernel, launcher, ignored, launcher.receive(frames, head(REPLY)))):
        assert KEY.decode() not in shown
        assert secret.decode() not in shown
