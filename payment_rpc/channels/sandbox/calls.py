"""Calls to the sandbox as facts: every way in which one can end."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from mesh.money import Money
from mesh.outbound.connections import Lost, NotSent
from payment_rpc.channels.doubt import Doubt, Unclear
from payment_rpc.channels.sandbox import answers
from payment_rpc.channels.sandbox.api import SandboxApi
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.refund_facts import RefundChannelStatus, RefundFact

NAME = "sandbox"
_NOT_FOUND = 404
_NOT_CLOSABLE = (409, "not_closable")

# The sandbox's documentation says that it records nothing when it answers these.
_REFUSED_UNSEEN = frozenset({(400, "invalid_request"), (401, "unauthorized")})


class SandboxFacts:
    """Makes calls and reads their answers; `doubt` has the facts about those that say nothing."""

    def __init__(self, api: SandboxApi) -> None:
        self._api = api
        self.doubt = Doubt(NAME)

    async def refund(
        self,
        body: Mapping[str, object],
        *,
        refund_id: str,
        attempt_id: str,
        amount: Money,
        timeout_seconds: float,
    ) -> RefundFact:
        """A call that may give money back."""
        try:
            status_code, content = await self._api.exchange(
                "POST", "/v1/refunds", body, timeout_seconds=timeout_seconds
            )
            if (status_code, answers.error_code(content)) not in _REFUSED_UNSEEN:
                _must_be_ok(status_code, content)
                return answers.read_refund(
                    content, refund_id=refund_id, attempt_id=attempt_id, amount=amount
                )
            problem = f"refused with {status_code}"
        except NotSent as error:
            problem = str(error)
        except (Lost, Unclear) as error:
            return self.doubt.refund_unknown(refund_id, error)
        return self.doubt.refund_not_sent(refund_id, problem)

    async def query_refund(self, refund_id: str, *, timeout_seconds: float) -> RefundFact:
        """What became of a refund."""
        try:
            status_code, content = await self._api.exchange(
                "GET",
                f"/v1/refunds/{quote(refund_id, safe='')}",
                None,
                timeout_seconds=timeout_seconds,
            )
            if status_code == _NOT_FOUND and answers.error_code(content) == "not_found":
                return RefundFact(refund_id=refund_id, status=RefundChannelStatus.NOT_FOUND)
            _must_be_ok(status_code, content)
            return answers.read_refund(content, refund_id=refund_id)
        except (NotSent, Lost, Unclear) as error:
            return self.doubt.refund_unknown(refund_id, error)

    async def open(
        self, path: str, body: Mapping[str, object], *, attempt_id: str, timeout_seconds: float
    ) -> ChannelFact:
        """A call that may move money."""
        try:
            status_code, content = await self._api.exchange(
                "POST", path, body, timeout_seconds=timeout_seconds
            )
            if (
                status_code == answers.OK
                or (status_code, answers.error_code(content)) not in _REFUSED_UNSEEN
            ):
                return _read_answer(status_code, content, attempt_id=attempt_id)
            problem = f"refused with {status_code}"
        except NotSent as error:
            problem = str(error)
        except (Lost, Unclear) as error:
            return self.doubt.unknown(attempt_id, error)
        return self.doubt.not_sent(attempt_id, problem)

    async def ask(
        self, method: str, path: str, *, attempt_id: str, timeout_seconds: float
    ) -> ChannelFact:
        """A call that moves no money: its failure says nothing about the attempt."""
        try:
            status_code, content = await self._api.exchange(
                method, path, None, timeout_seconds=timeout_seconds
            )
            if status_code == _NOT_FOUND and answers.error_code(content) == "not_found":
                return ChannelFact(attempt_id=attempt_id, status=ChannelStatus.NOT_FOUND)
            if (status_code, answers.error_code(content)) == _NOT_CLOSABLE:
                return ChannelFact(attempt_id=attempt_id, status=ChannelStatus.NOT_CLOSABLE)
            return _read_answer(status_code, content, attempt_id=attempt_id)
        except (NotSent, Lost, Unclear) as error:
            return self.doubt.unknown(attempt_id, error)


def _read_answer(status_code: int, content: bytes, *, attempt_id: str) -> ChannelFact:
    _must_be_ok(status_code, content)
    return answers.read_transaction(content, attempt_id=attempt_id)


def _must_be_ok(status_code: int, content: bytes) -> None:
    if status_code != answers.OK:
        raise Unclear(f"answered {status_code} {answers.error_code(content)}".rstrip())
