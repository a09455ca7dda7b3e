"""errors.py: the tree, and every sentence in it."""

from __future__ import annotations

import inspect
import re

import pytest

from echokernel.protocol import errors

# An error, its attributes, and its sentence.
SENTENCES = [
    (
        errors.StartupFileError("/run/k.json", "key", "missing"),
        {"path": "/run/k.json", "field": "key", "problem": "missing"},
        "/run/k.json: key: missing",
    ),
    (
        errors.StartupFileError("/run/k.json", None, "not JSON"),
        {"path": "/run/k.json", "field": None, "problem": "not JSON"},
        "/run/k.json: not JSON",
    ),
    (
        errors.BindError("shell", "tcp://127.0.0.1:1", "Permission denied"),
        {"channel": "shell", "address": "tcp://127.0.0.1:1", "problem": "Permission denied"},
        "cannot bind the shell socket to tcp://127.0.0.1:1: Permission denied",
    ),
    (
        errors.ConnectionFileError("/run/k.json", "No space left"),
        {"path": "/run/k.json", "problem": "No space left"},
        "cannot write the connection file /run/k.json: No space left",
    ),
    (
        errors.RegistrationRefused("tcp://127.0.0.1:5", "unknown kernel"),
        {"address": "tcp://127.0.0.1:5", "reason": "unknown kernel"},
        "the launcher at tcp://127.0.0.1:5 refused the registration: unknown kernel",
    ),
    (
        errors.RegistrationTimeout("tcp://127.0.0.1:5", 5.0, 0),
        {"address": "tcp://127.0.0.1:5", "waited": 5.0, "ignored": 0},
        "no valid receipt from the launcher at tcp://127.0.0.1:5 within 5 s (no answer);"
        " is the launcher that wrote the registration file still running?",
    ),
    (
        errors.RegistrationTimeout("tcp://127.0.0.1:5", 0.25, 3),
        {"waited": 0.25, "ignored": 3},
        "no valid receipt from the launcher at tcp://127.0.0.1:5 within 0.25 s"
        " (3 invalid answer(s) were ignored);"
        " is the launcher that wrote the registration file still running?",
    ),
    (
        errors.CommDisconnected("no subscriber", "one", "s1"),
        {"reason": "no subscriber", "comm_id": "one", "session": "s1"},
        "the comm one is disconnected: no subscriber",
    ),
    (
        errors.CommTimeout("answer", 2.5, "one"),
        {"method": "answer", "timeout": 2.5, "comm_id": "one"},
        "answer: no response on the comm one within 2.5 s",
    ),
    (
        errors.CommRequestError(-32601, "there is no method x", [1]),
        {"code": -32601, "message": "there is no method x", "data": [1]},
        "there is no method x (-32601)",
    ),
    (
        errors.KernelDied(
            "the kernel ended", tried="python -m k", elapsed=0.31, exit_status=1,
            stderr_tail="a\nb\n",
        ),
        {"problem": "the kernel ended", "tried": "python -m k", "elapsed": 0.31,
         "exit_status": 1, "stderr_tail": "a\nb\n"},
        "the kernel ended (after 0.3 s; tried: python -m k)\nlast lines of its stderr:\na\nb",
    ),
    (
        errors.LaunchTimeout("no registration", tried="python -m k", elapsed=60),
        {"exit_status": None, "stderr_tail": ""},
        "no registration (after 60.0 s; tried: python -m k)",
    ),
    (
        errors.NotReady("no answer", 2.04),
        {"problem": "no answer", "waited": 2.04},
        "the kernel is not ready after 2.0 s: no answer",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("error", "facts", "sentence"), SENTENCES, ids=lambda value: "")
def test_a_sentence_contains_the_facts(error, facts, sentence):
    """F3, H4, L4: the facts are attributes, and the sentence contains them."""
    assert str(error) == sentence
    assert {name: getattr(error, name) for name in facts} == facts


def test_the_docstring_draws_the_tree_of_the_code():
    drawn: dict[str, str] = {}
    parents: list[str] = []
    for line in inspect.getdoc(errors).splitlines():
        if match := re.match(r"([ │├└─]*)([A-Z]\w+(?:Error|[a-z]))(?:\s{2,}|$)", line.strip("\n")):
            indent, name = match.groups()
            depth = (len(indent) - 4) // 4
            parents[depth:] = [name]
            drawn[name] = parents[depth - 1] if depth else "Exception"
    real = {
        name: kind.__bases__[0].__name__
        for name, kind in vars(errors).items()
        if inspect.isclass(kind) and issubclass(kind, Exception)
    }
    assert drawn == real


@pytest.mark.parametrize("kind", [errors.LaunchError, errors.NotReady])
def test_launch_errors_are_runtime_errors(kind):
    """L4, S3: jupyter_client and its users catch RuntimeError."""
    assert issubclass(kind, RuntimeError)
