"""Turns the bytes of a call into the request that its handler gets: within the limits of its size,
with what headers and the caller's claims say, and by the rules of the contract.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from google.protobuf.message import DecodeError, Message

from mesh.access import Access, TextField
from mesh.bounds import CHECKED_FROM_BYTES, Bounds
from mesh.call import Caller, Role
from mesh.errors import IdempotencyKeyMissing, InvalidArgument, RequestTooLarge
from mesh.free_text import FreeTexts
from mesh.policies import Idempotency, MethodPolicy
from mesh.validation import broken_rules, violations_of

_KEY = re.compile(r"[\x21-\x7e]{1,255}")


class RequestReader:
    """Reads the requests of one method."""

    __slots__ = (
        "_access",
        "_bounds",
        "_free_texts",
        "_headers",
        "_idempotency",
        "_parse",
        "_request_bytes_max",
        "bound_headers",
        "takes_key",
    )

    def __init__(
        self,
        policy: MethodPolicy,
        access: Access,
        parse: Callable[[bytes], Any],
        request_class: type[Message],
    ) -> None:
        descriptor: Any = request_class.DESCRIPTOR
        self._access = access
        self._parse = parse
        self._request_bytes_max = policy.max_request_bytes
        self._bounds = Bounds(descriptor)
        self._free_texts = FreeTexts(descriptor)
        self._headers = tuple(
            (binding.header, TextField(binding.field)) for binding in policy.http.headers
        )
        self._idempotency = policy.idempotency
        self.bound_headers = frozenset(header for header, _ in self._headers)
        self.takes_key = policy.idempotency is not Idempotency.NONE

    def read(self, raw: bytes, values: dict[str, str], caller: Caller) -> Any:
        """The request, with what headers and the caller's claims say, when it keeps the rules of
        the contract.
        """
        if len(raw) > self._request_bytes_max:
            raise RequestTooLarge(f"The request must be at most {self._request_bytes_max} bytes.")
        try:
            request = self._parse(raw)
        except DecodeError:
            raise InvalidArgument("The request is not a message of this method.") from None
        if len(raw) > CHECKED_FROM_BYTES:
            self._bounds.check(request)
        if self._headers:
            self._fill_from_headers(request, values)
        self._access.own(request, caller)
        violations = violations_of(request)
        problems = (
            self._free_texts.problems(request)
            if self._free_texts and caller.role is not Role.SERVICE
            else {}
        )
        if violations or problems:
            raise broken_rules(violations, problems)
        return request

    def _fill_from_headers(self, request: Any, values: dict[str, str]) -> None:
        for header, field in self._headers:
            value = values.get(header)
            if isinstance(value, str) and not field.get(request):
                field.set(request, value)

    def idempotency_key(self, key: str | None) -> str:
        if key is None:
            if self._idempotency is Idempotency.REQUIRED:
                raise IdempotencyKeyMissing
            return ""
        if _KEY.fullmatch(key) is None:
            raise InvalidArgument.of(
                "Idempotency-Key", "expected 1 to 255 printable ASCII characters without spaces"
            )
        return key
