"""The responses of an operation: its success by status, and how it refuses."""

from __future__ import annotations

from typing import Any, Final

from gateway.codec.dialect import HTTP_BODY
from gateway.openapi.examples import Examples
from gateway.openapi.refusals import refusals_of
from gateway.openapi.schemas import Schemas
from gateway.schema import HttpRule, Method, body_type
from mesh.policies import Idempotency
from mesh.wire_errors import ErrorCatalogue, ErrorSpec

Node = dict[str, Any]

TRACE_ID: Final[Node] = {
    "type": "string",
    "pattern": "^[0-9a-f]{32}$",
    "description": "W3C trace id; also in the header traceparent.",
}


class Responses:
    """Describes responses, and collects the examples of errors that they refer to."""

    def __init__(self, errors: ErrorCatalogue, schemas: Schemas, samples: Examples) -> None:
        self._errors = errors
        self._schemas = schemas
        self._samples = samples
        self.examples: dict[str, Node] = {}

    def of(self, method: Method, rule: HttpRule) -> Node:
        """The responses object of one operation."""
        responses: dict[str, Node] = {}
        http = method.policy.http
        statuses = {http.success_status: "Success."}
        statuses |= {
            choice.status: f"Success with {choice.field} {choice.value}."
            for choice in http.status_by_enum
        }
        for status, text in statuses.items():
            responses[str(status)] = self._success(method, rule, text)
        by_status: dict[int, list[ErrorSpec]] = {}
        for spec in refusals_of(method, self._errors, rule=rule):
            by_status.setdefault(spec.http_status, []).append(spec)
        for status, specs in sorted(by_status.items()):
            responses[str(status)] = self._error(specs)
        return responses

    def _success(self, method: Method, rule: HttpRule, text: str) -> Node:
        headers: Node = {
            "X-Request-Id": {"schema": {"type": "string"}},
            "traceparent": {"schema": {"type": "string"}},
        }
        if method.policy.idempotency is not Idempotency.NONE:
            headers["Idempotent-Replayed"] = {
                "description": "Present on the answer of an earlier call with the same key.",
                "schema": {"type": "string", "enum": ["true"]},
            }
        body = body_type(method.output_type, rule.response_body or "*")
        if body is not None and body.full_name == HTTP_BODY:
            return {"description": text, "headers": headers, "content": {"*/*": {"schema": {}}}}
        if rule.response_body:
            field = method.output_type.fields_by_name[rule.response_body]
            data = self._schemas.field(field, "out", always=True)
            example = self._samples.value(field)
        else:
            data = self._schemas.message(method.output_type, "out")
            example = self._samples.of(method.output_type)
        envelope: Node = {
            "type": "object",
            "required": ["code", "message", "data", "trace_id"],
            "properties": {
                "code": {"const": "00000"},
                "message": {"const": "success"},
                "data": data,
                "trace_id": TRACE_ID,
            },
        }
        if method.policy.server_streaming:
            envelope["description"] = "What `data:` of an event holds."
            return {
                "description": "Events.",
                "headers": headers,
                "content": {"text/event-stream": {"schema": envelope}},
            }
        whole = {
            "code": "00000",
            "message": "success",
            "data": example,
            "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
        }
        return {
            "description": text,
            "headers": headers,
            "content": {"application/json": {"schema": envelope, "example": whole}},
        }

    def _error(self, specs: list[ErrorSpec]) -> Node:
        examples: dict[str, Node] = {}
        for spec in specs:
            key = f"{spec.domain}.{spec.reason}"
            examples[key.removeprefix("paymesh.")] = {"$ref": f"#/components/examples/{key}"}
            self.examples[key] = {
                "summary": spec.reason,
                "value": {
                    "code": spec.business_code,
                    "message": spec.texts.text(None),
                    "data": None,
                    "details": {"reason": spec.reason},
                    "trace_id": "0" * 31 + "1",
                },
            }
        lines = [f"`{spec.business_code}` {spec.reason}: {spec.texts.en}" for spec in specs]
        return {
            "description": "\n\n".join(lines),
            "content": {
                "application/json": {
                    "schema": {"$ref": "#/components/schemas/Error"},
                    "examples": examples,
                }
            },
        }


def error_schema() -> Node:
    """The component of every error."""
    return {
        "type": "object",
        "description": "A refusal.",
        "required": ["code", "message", "data", "details", "trace_id"],
        "properties": {
            "code": {"type": "string", "description": "Business code."},
            "message": {
                "type": "string",
                "description": "One sentence for a buyer, in the language that Accept-Language "
                "prefers.",
            },
            "data": {"type": "null"},
            "details": {
                "type": "object",
                "required": ["reason"],
                "properties": {
                    "reason": {"type": "string", "description": "The stable contract."},
                    "explanation": {
                        "type": "string",
                        "description": "What exactly was refused, in English, for developers.",
                    },
                    "fields": {
                        "type": "array",
                        "items": {
                            "type": "object",
                            "required": ["field", "description"],
                            "properties": {
                                "field": {"type": "string"},
                                "description": {"type": "string"},
                            },
                        },
                    },
                    "retry_after_ms": {"type": "integer", "minimum": 0},
                    "outcome": {
                        "type": "string",
                        "description": "What happened to the money.",
                        "enum": [
                            "UNSPECIFIED",
                            "NOT_ATTEMPTED",
                            "DECLINED",
                            "TECH_FAILED",
                            "UNKNOWN",
                            "PENDING",
                            "CAPTURED",
                        ],
                    },
                    "safe_to_retry": {
                        "type": "boolean",
                        "description": "The same request may be sent again without any risk of "
                        "paying twice.",
                    },
                    "payment_id": {"type": "string"},
                    "metadata": {"type": "object", "additionalProperties": {"type": "string"}},
                },
            },
            "trace_id": TRACE_ID,
        },
    }
