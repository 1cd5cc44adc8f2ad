"""What happens around every call of /v1: the key, the version, the form, the idempotency key, the
headers of the answer.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from sandbox.providers.faults import Answer, work
from sandbox.providers.stripe.account import Account, Cause
from sandbox.providers.stripe.config import API_VERSION
from sandbox.providers.stripe.errors import StripeError
from sandbox.providers.stripe.forms import parse_form
from sandbox.providers.stripe.idempotency import IdempotencyKeys, Outcome
from sandbox.providers.stripe.views import Json, check_paths

# from the ids of the path and the parameters to the answer's body
Operation = Callable[[Mapping[str, str], dict[str, Any]], Json]
_VERSION = re.compile(r"20[0-9]{2}-[01][0-9]-[0-3][0-9](\.[a-z]+)?")
_FORM: Final = "application/x-www-form-urlencoded"


class Endpoints:
    """Wraps the operations of an account."""

    def __init__(self, account: Account) -> None:
        self._account = account
        self._keys = IdempotencyKeys(account.simulation.clock)

    def serve(self, operation: Operation) -> Callable[[Request], Awaitable[Response]]:
        """The endpoint of an operation. `expand` is obeyed by all."""

        async def endpoint(request: Request) -> Response:
            request_id = self._account.new_id("req_")
            headers = {"request-id": request_id, "stripe-version": _version(request)}
            key = request.headers.get("idempotency-key", "") if request.method == "POST" else ""
            if key:
                headers |= {"idempotency-key": key, "original-request": request_id}
            try:
                self._check_key(request)
                _check_version(headers["stripe-version"])
                outcome = await self._outcome(operation, request, key, request_id)
            except StripeError as error:
                outcome = _refused(error, request_id)
            if outcome.request_id != request_id:
                headers |= {
                    "idempotent-replayed": "true",
                    "original-request": outcome.request_id,
                }
            return Response(
                outcome.body, outcome.status, headers=headers, media_type="application/json"
            )

        return endpoint

    def broken(self, scope: Scope, body: bytes, answer: Answer) -> None:
        """A fault answered a request. Stripe keeps a 500 under the key, as it keeps a success; 429
        and the like are kept by nobody.
        """
        key = Headers(scope=scope).get("idempotency-key", "")
        if scope["method"] == "POST" and key and answer.status == 500:
            outcome = Outcome(status=500, body=answer.body, request_id=self._account.new_id("req_"))
            self._keys.replace(key, _fingerprint("POST", scope["path"], body), outcome)

    async def _outcome(
        self, operation: Operation, request: Request, key: str, request_id: str
    ) -> Outcome:
        if request.method == "GET":
            return self._run(operation, request, request.url.query.encode(), Cause(request_id))
        body = await request.body()
        kind = request.headers.get("content-type", "").partition(";")[0]
        if body and kind != _FORM:
            raise StripeError(400, f"Invalid content type: {kind}, use {_FORM}", executed=False)
        if not key:
            await work(request.scope)
            return self._run(operation, request, body, Cause(request_id))
        known = self._keys.claim(key, _fingerprint("POST", request.url.path, body))
        if known is not None:
            return known
        try:
            await work(request.scope)
            outcome = self._run(operation, request, body, Cause(request_id, key))
        except BaseException as error:
            if isinstance(error, StripeError) and error.executed:
                self._keys.keep(key, _refused(error, request_id))
            else:
                self._keys.forget(key)
            raise
        self._keys.keep(key, outcome)
        return outcome

    def _run(self, operation: Operation, request: Request, encoded: bytes, cause: Cause) -> Outcome:
        sent = parse_form(encoded)
        self._account.cause = cause
        paths = sent.get("expand", [])
        check_paths(paths)
        body = operation(request.path_params, sent)
        shown = self._account.views.expanded(body, paths)
        return Outcome(status=200, body=_json(shown), request_id=str(cause.request_id))

    def _check_key(self, request: Request) -> None:
        config = self._account.config
        key = _api_key(request)
        if not key:
            raise StripeError(
                401,
                "You did not provide an API key. You need to provide your API key in the "
                "Authorization header, using Bearer auth (e.g. 'Authorization: Bearer "
                "YOUR_SECRET_KEY').",
                executed=False,
            )
        shown = f"{key[:8]}{'*' * 8}{key[-4:]}" if len(key) > 16 else "****"
        if _is(key, config.publishable_key):
            raise StripeError(
                403,
                "This API call cannot be made with a publishable API key. Please use a secret API "
                "key.",
                code="secret_key_required",
                executed=False,
            )
        if _is(key, config.reading_key) and request.method != "GET":
            raise StripeError(
                403,
                f"The provided key '{shown}' does not have the required permissions for this "
                "endpoint.",
                executed=False,
            )
        if not _is(key, config.secret_key) and not _is(key, config.reading_key):
            raise StripeError(401, f"Invalid API Key provided: {shown}", executed=False)


def _is(key: str, known: str) -> bool:
    return hmac.compare_digest(key.encode(), known.encode())


def _api_key(request: Request) -> str:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return given.strip()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(given, validate=True).decode().partition(":")[0]
        except (binascii.Error, UnicodeDecodeError):
            return ""
    return ""


def _version(request: Request) -> str:
    return request.headers.get("stripe-version", API_VERSION)


def _check_version(version: str) -> None:
    if not _VERSION.fullmatch(version):
        raise StripeError(400, f"Invalid Stripe API version: {version}", executed=False)


def _fingerprint(method: str, path: str, body: bytes) -> bytes:
    """Equal for equal parameters, in whatever order."""
    parameters = json.dumps(parse_form(body), sort_keys=True)
    return hashlib.sha256(f"{method} {path} {parameters}".encode()).digest()


def _refused(error: StripeError, request_id: str) -> Outcome:
    body = error.body()
    body["error"]["request_log_url"] = f"https://dashboard.stripe.com/test/logs/{request_id}"
    return Outcome(status=error.status, body=_json(body), request_id=request_id)


def _json(body: Json) -> bytes:
    return json.dumps(body, indent=2, ensure_ascii=False).encode()
