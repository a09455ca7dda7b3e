"""json_rpc.py: JSON-RPC 2.0 objects <-> requests, responses, batches and errors (C6)."""

from __future__ import annotations

import pytest

from echokernel.protocol.errors import CommRequestError
from echokernel.protocol.json_rpc import (
    INTERNAL_ERROR,
    INVALID_PARAMS,
    INVALID_REQUEST,
    Batch,
    Invalid,
    Request,
    Response,
    is_response,
    pack_request,
    pack_response,
    parse,
)

V = {"jsonrpc": "2.0"}


@pytest.mark.parametrize("data", [None, 1, "text", {}, {"method": "a", "id": 1}, [], [1], [{}]])
def test_data_without_json_rpc_is_not_parsed(data):
    """C6: it belongs to the comm's own handlers."""
    assert parse(data) is None


@pytest.mark.parametrize(
    ("data", "request_"),
    [
        ({**V, "method": "a", "id": 1}, Request("a", None, 1)),
        ({**V, "method": "a", "id": "x", "params": [1]}, Request("a", [1], "x")),
        ({**V, "method": "a", "id": None, "params": {"b": 2}}, Request("a", {"b": 2}, None)),
        ({**V, "method": "a"}, Request("a", None, None, wants_response=False)),
    ],
)
def test_a_request_is_parsed_and_packed(data, request_):
    """C6: a request has an id; a notification has none."""
    assert parse(data) == request_
    assert pack_request(request_) == data


def test_a_response_is_parsed_and_packed():
    """C6: a result or an error, never both."""
    result = {**V, "id": 3, "result": None}
    assert parse(result) == Response(3, None)
    assert pack_response(Response(3, None)) == result
    for error in ({"code": 1, "message": "no"}, {"code": 1, "message": "no", "data": [1]}):
        data = {**V, "id": 3, "error": error}
        response = parse(data)
        assert isinstance(response, Response)
        assert response.error is not None
        assert (response.error.code, response.error.message) == (1, "no")
        assert response.error.data == error.get("data")
        assert pack_response(response) == data


@pytest.mark.parametrize("error", [None, "no", {}, {"code": True, "message": "no"}, {"code": 1}])
def test_a_malformed_error_is_still_a_response(error):
    """C6: otherwise the request would wait forever."""
    response = parse({**V, "id": 3, "error": error})
    assert isinstance(response, Response)
    assert response.error is not None
    assert (response.error.code, response.error.data) == (INTERNAL_ERROR, error)


@pytest.mark.parametrize(
    ("data", "id_", "code", "reason"),
    [
        ({"jsonrpc": "1.0", "method": "a", "id": 1}, 1, INVALID_REQUEST, "jsonrpc is not '2.0'"),
        ({**V, "method": 1, "id": 1}, 1, INVALID_REQUEST, "method is not a string"),
        ({**V, "method": "a", "id": True}, None, INVALID_REQUEST, "id is not a string"),
        ({**V, "method": "a", "id": []}, None, INVALID_REQUEST, "id is not a string"),
        ({**V, "id": 1}, 1, INVALID_REQUEST, "neither a method"),
        ({**V, "result": 1}, None, INVALID_REQUEST, "neither a method"),
        ({**V, "id": 1, "result": 1, "error": {}}, 1, INVALID_REQUEST, "neither a method"),
        ({**V, "method": "a", "id": 1, "params": 5}, 1, INVALID_PARAMS, "neither an object"),
    ],
)
def test_an_invalid_object_has_a_code_and_a_reason(data, id_, code, reason):
    """C6."""
    invalid = parse(data)
    assert isinstance(invalid, Invalid)
    assert (invalid.id, invalid.error.code, invalid.wants_response) == (id_, code, True)
    assert reason in invalid.error.message


def test_a_notification_with_wrong_params_is_not_answered():
    """C6."""
    invalid = parse({**V, "method": "a", "params": 5})
    assert isinstance(invalid, Invalid)
    assert not invalid.wants_response


def test_a_batch_is_parsed_item_by_item():
    """C6."""
    batch = parse([{**V, "method": "a"}, 1, {**V, "id": 1, "result": 2}])
    assert isinstance(batch, Batch)
    first, second, third = batch.items
    assert first == Request("a", wants_response=False)
    assert isinstance(second, Invalid)
    assert third == Response(1, 2)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({**V, "id": 1, "result": 2}, True),
        ({**V, "id": 1, "error": None}, True),
        ([{"a": 1}, {**V, "id": 1, "result": 2}], True),
        ({**V, "id": 1, "method": "a"}, False),
        ({"id": 1, "result": 2}, False),
        ([], False),
        ("text", False),
    ],
)
def test_responses_are_distinguished_from_requests(data, expected):
    """C1, C6."""
    assert is_response(data) is expected


def test_the_text_of_an_error_has_message_and_code():
    """C6."""
    assert str(CommRequestError(5, "too late")) == "too late (5)"
