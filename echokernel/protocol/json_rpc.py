"""JSON-RPC 2.0 in the ``data`` of comm messages (C6), in both directions. This use of it is ours.

Source: https://www.jsonrpc.org/specification
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
    """A call of ``method``; with ``wants_response`` False a notification, which has no ``id``."""

    method: str
    params: Any = None
    id: Id = None
    wants_response: bool = True


@dataclass(frozen=True)
class Response:
    """The response to the request ``id``: ``error`` or, where that is None, ``result``."""

    id: Id
    result: Any = None
    error: CommRequestError | None = None


@dataclass(frozen=True)
class Invalid:
    """Almost JSON-RPC, but not usable; ``error`` is the response to it, if it wants one."""

    id: Id
    error: CommRequestError
    wants_response: bool = True


@dataclass(frozen=True)
class Batch:
    """Several objects in one message; the responses are sent in one message, too."""

    items: tuple[Request | Response | Invalid, ...]


Received = Request | Response | Invalid | Batch


def parse(data: object) -> Received | None:
    """Parse any JSON value; None if it is not JSON-RPC 2.0, and may have another meaning."""
    if isinstance(data, dict):
        return _parse_object(data) if "jsonrpc" in data else None
    if isinstance(data, list) and any(
        isinstance(item, dict) and "jsonrpc" in item for item in data
    ):
        return Batch(tuple(_parse_object(item) for item in data))
    return None


def _parse_object(data: object) -> Request | Response | Invalid:
    if not isinstance(data, dict):
        return _invalid(None, "not an object")
    id_ = data.get("id")
    if isinstance(id_, bool) or not isinstance(id_, (str, int, float, type(None))):
        return _invalid(None, "id is not a string, a number or null")
    if data.get("jsonrpc") != "2.0":
        return _invalid(id_, "jsonrpc is not '2.0'")
    if "method" not in data:
        if "id" in data and ("result" in data) != ("error" in data):
            return _parse_response(id_, data)
        return _invalid(id_, "neither a method, nor an id with either a result or an error")
    method, params = data["method"], data.get("params")
    if not isinstance(method, str):
        return _invalid(id_, "method is not a string")
    if not isinstance(params, (dict, list, type(None))):
        error = CommRequestError(INVALID_PARAMS, "params are neither an object nor an array")
        return Invalid(id_, error, wants_response="id" in data)
    return Request(method, params, id_, wants_response="id" in data)


def _parse_response(id_: Id, data: dict[str, Any]) -> Response:
    if "error" not in data:
        return Response(id_, data["result"])
    error = data["error"] if isinstance(data["error"], dict) else {}
    code, message = error.get("code"), error.get("message")
    if type(code) is not int or not isinstance(message, str):
        # It is a response all the same: the caller must not wait forever.
        malformed = CommRequestError(INTERNAL_ERROR, "malformed error", data["error"])
        return Response(id_, error=malformed)
    return Response(id_, error=CommRequestError(code, message, error.get("data")))


def _invalid(id_: Id, reason: str) -> Invalid:
    return Invalid(id_, CommRequestError(INVALID_REQUEST, f"invalid request: {reason}"))


def pack_request(request: Request) -> dict[str, Any]:
    """Return ``request`` as ``data``; params that are None are left out."""
    packed = {"jsonrpc": "2.0", "method": request.method}
    if request.params is not None:
        packed["params"] = request.params
    return {**packed, "id": request.id} if request.wants_response else packed


def pack_response(response: Response) -> dict[str, Any]:
    """Return ``response`` as ``data``."""
    packed: dict[str, Any] = {"jsonrpc": "2.0", "id": response.id}
    if response.error is None:
        return {**packed, "result": response.result}
    error = {"code": response.error.code, "message": response.error.message}
    if response.error.data is not None:
        error["data"] = response.error.data
    return {**packed, "error": error}


def is_response(data: object) -> bool:
    """Return True if ``data`` is a response, or a batch that contains one."""
    if isinstance(data, list):
        return any(is_response(item) for item in data)
    return isinstance(data, dict) and "jsonrpc" in data and "method" not in data and "id" in data
