"""JSON-RPC 2.0 in the ``data`` of comm messages (SPEC C6): objects <-> what they mean.

``parse`` takes anything that JSON can hold; what is no JSON-RPC is None, and means something else
to somebody else. https://www.jsonrpc.org/specification
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .errors import CommRequestError

INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603

Id = str | int | float | None


@dataclass(frozen=True)
class Request:
    """A call of ``method``; with ``wants_answer`` False a notification, which has no ``id``."""

    method: str
    params: Any = None
    id: Id = None
    wants_answer: bool = True


@dataclass(frozen=True)
class Answer:
    """What became of the request ``id``: ``error`` or, where that is None, ``result``."""

    id: Id
    result: Any = None
    error: CommRequestError | None = None


@dataclass(frozen=True)
class Invalid:
    """Meant as JSON-RPC, but it cannot be used; ``error`` is the answer to it, if it wants one."""

    id: Id
    error: CommRequestError
    wants_answer: bool = True


@dataclass(frozen=True)
class Batch:
    """Several at once; the answers to them go back in one message, too."""

    items: tuple[Request | Answer | Invalid, ...]


Received = Request | Answer | Invalid | Batch


def parse(data: object) -> Received | None:
    """Return what ``data`` says; None if it is no JSON-RPC 2.0."""
    if isinstance(data, dict):
        return _parse_object(data) if "jsonrpc" in data else None
    if isinstance(data, list) and any(
        isinstance(each, dict) and "jsonrpc" in each for each in data
    ):
        return Batch(tuple(_parse_object(each) for each in data))
    return None


def _parse_object(data: object) -> Request | Answer | Invalid:
    if not isinstance(data, dict):
        return _invalid(None, "not an object")
    id_ = data.get("id")
    if isinstance(id_, bool) or not isinstance(id_, (str, int, float, type(None))):
        return _invalid(None, "id is no string, number or null")
    if data.get("jsonrpc") != "2.0":
        return _invalid(id_, "jsonrpc is not '2.0'")
    if "method" not in data:
        if "id" in data and ("result" in data) != ("error" in data):
            return _parse_answer(id_, data)
        return _invalid(id_, "neither a method, nor an id with either a result or an error")
    method, params = data["method"], data.get("params")
    if not isinstance(method, str):
        return _invalid(id_, "method is not a string")
    if not isinstance(params, (dict, list, type(None))):
        error = CommRequestError(INVALID_PARAMS, "params are neither an object nor an array")
        return Invalid(id_, error, wants_answer="id" in data)
    return Request(method, params, id_, wants_answer="id" in data)


def _parse_answer(id_: Id, data: dict[str, Any]) -> Answer:
    if "error" not in data:
        return Answer(id_, data["result"])
    error = data["error"] if isinstance(data["error"], dict) else {}
    code, message = error.get("code"), error.get("message")
    if type(code) is not int or not isinstance(message, str):
        # It is an answer all the same: whoever waits for it must not wait for ever.
        return Answer(id_, error=CommRequestError(INTERNAL_ERROR, "malformed error", data["error"]))
    return Answer(id_, error=CommRequestError(code, message, error.get("data")))


def _invalid(id_: Id, why: str) -> Invalid:
    return Invalid(id_, CommRequestError(INVALID_REQUEST, f"invalid request: {why}"))


def pack_request(request: Request) -> dict[str, Any]:
    """Return ``request`` as ``data``; params that are None are left out."""
    packed = {"jsonrpc": "2.0", "method": request.method}
    if request.params is not None:
        packed["params"] = request.params
    return {**packed, "id": request.id} if request.wants_answer else packed


def pack_answer(answer: Answer) -> dict[str, Any]:
    """Return ``answer`` as ``data``."""
    packed: dict[str, Any] = {"jsonrpc": "2.0", "id": answer.id}
    if answer.error is None:
        return {**packed, "result": answer.result}
    error = {"code": answer.error.code, "message": answer.error.message}
    if answer.error.data is not None:
        error["data"] = answer.error.data
    return {**packed, "error": error}


def is_answer(data: object) -> bool:
    """Tell whether ``data`` answers a request, or has an answer among others."""
    if isinstance(data, list):
        return any(is_answer(each) for each in data)
    return isinstance(data, dict) and "jsonrpc" in data and "method" not in data and "id" in data
