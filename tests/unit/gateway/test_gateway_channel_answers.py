"""The answer to a channel's message has the status, type and bytes that the channel expects."""

from __future__ import annotations

import pytest
from google.api import httpbody_pb2
from paymesh.payment.v1 import callback_pb2

from gateway.responses import ResponseBuilder
from gateway.schema import load_schema

SCHEMA = load_schema()
[METHOD] = [each for each in SCHEMA.methods if each.descriptor.name == "HandleCallback"]


@pytest.mark.parametrize(
    ("said", "status"), [(0, 200), (200, 200), (204, 204), (400, 400), (503, 503)]
)
def test_the_status_of_an_answer_is_the_one_that_it_names(said: int, status: int) -> None:
    answer = callback_pb2.HandleCallbackResponse(
        body=httpbody_pb2.HttpBody(content_type="application/json", data=b'{"code": "FAIL"}'),
        status_code=said,
    )
    builder = ResponseBuilder(METHOD, METHOD.rules[0], SCHEMA.encoders)
    response = builder.success(answer.SerializeToString(), "trace")
    assert (response.status, response.content_type, response.body) == (
        status,
        b"application/json",
        b'{"code": "FAIL"}',
    )
