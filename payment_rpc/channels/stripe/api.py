"""HTTP calls to Stripe: forms in, JSON out, one deadline for all calls of one question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import urlencode

import msgspec

from mesh.logs import get_logger
from mesh.outbound.connections import Answer, Connections, Lost, NotSent
from payment_rpc.channels.doubt import Unclear
from payment_rpc.channels.provider_clocks import PROVIDER_CLOCKS
from payment_rpc.channels.stripe.objects import UNREADABLE, Error, error_of
from payment_rpc.channels.time_left import TimeLeft

API_VERSION = "2026-10-28.endive"
LIVE_URL = "https://api.stripe.com"  # of both modes; the key says which
OK = 200
_ANSWER_BYTES_MAX = 1024 * 1024
PAGE_BYTES_MAX = 8 * 1024 * 1024  # 100 rows with their sources

log = get_logger()
T = TypeVar("T")
Form = Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """An answer that is no success.

    Attributes:
        error: what Stripe says of it; empty where the answer is none of Stripe's.
    """

    status_code: int
    error: Error

    def __str__(self) -> str:
        words = (f"answered {self.status_code}", self.error.type, self.error.code or "")
        return " ".join(word for word in words if word)


class StripeApi:
    """Sends requests with the key of one account."""

    def __init__(self, base_url: str, *, secret_key: str) -> None:
        headers = {
            "authorization": f"Bearer {secret_key}",
            "stripe-version": API_VERSION,
            "content-type": "application/x-www-form-urlencoded",
            "accept-encoding": "identity",
        }
        self._connections = Connections(base_url, headers=headers, heard=PROVIDER_CLOCKS.heard)

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._connections.aclose()

    async def post(self, path: str, form: Form, *, key: str = "", time_left: TimeLeft) -> Answer:
        """Sends a form, under an idempotency key where one is given.

        Raises:
            NotSent: no byte of the request left. Lost: it may have arrived.
        """
        answer = await self._connections.exchange(
            "POST",
            path,
            body=urlencode(form).encode(),
            timeout_seconds=time_left.in_seconds,
            headers={"idempotency-key": key} if key else {},
            answer_bytes_max=_ANSWER_BYTES_MAX,
        )
        _log(path, answer)
        return answer

    async def get(
        self,
        path: str,
        query: Sequence[tuple[str, str]] = (),
        *,
        time_left: TimeLeft,
        answer_bytes_max: int = _ANSWER_BYTES_MAX,
    ) -> Answer:
        """Asks for something. Raises as `post` does."""
        answer = await self._connections.exchange(
            "GET",
            f"{path}?{urlencode(query)}" if query else path,
            body=None,
            timeout_seconds=time_left.in_seconds,
            answer_bytes_max=answer_bytes_max,
        )
        _log(path, answer)
        return answer

    async def read(
        self,
        path: str,
        query: Sequence[tuple[str, str]] = (),
        *,
        kind: type[T],
        time_left: TimeLeft,
    ) -> T:
        """Asks for an object.

        Raises:
            Unclear: no answer, a refusal, or something else.
        """
        try:
            answer = await self.get(path, query, time_left=time_left)
        except (NotSent, Lost) as problem:
            raise Unclear(str(problem)) from None
        if answer.status_code != OK:
            raise Unclear(str(refusal(answer)))
        return decode(answer.body, kind)


def decode(body: bytes, kind: type[T]) -> T:
    """An object of Stripe's.

    Raises:
        Unclear: it is something else.
    """
    try:
        return msgspec.json.decode(body, type=kind)
    except UNREADABLE:
        raise Unclear("the answer cannot be read") from None


def refusal(answer: Answer) -> Refused:
    """What an answer that is no success says."""
    return Refused(status_code=answer.status_code, error=error_of(answer.body))


def is_repeated(answer: Answer) -> bool:
    """Stripe gave the first answer under an idempotency key once more, an error of its own too."""
    return answer.headers.get("idempotent-replayed") == "true"


def _log(path: str, answer: Answer) -> None:
    """Stripe's support asks for the request id of a call that went wrong."""
    if answer.status_code != OK:
        log.info(
            "stripe_refused",
            path=path,
            status_code=answer.status_code,
            request_id=answer.headers.get("request-id", "")[:64],
        )
