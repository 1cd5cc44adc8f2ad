"""Calls about PaymentIntents. Each gives the object as it is afterwards, or raises `Stopped` with
what is known instead.
"""

from __future__ import annotations

from collections.abc import Mapping

from mesh.outbound.connections import Answer, Lost, NotSent
from payment_rpc.channels.doubt import Unclear
from payment_rpc.channels.stripe.answers import check_attempt
from payment_rpc.channels.stripe.api import (
    OK,
    Refused,
    StripeApi,
    decode,
    is_repeated,
    refusal,
)
from payment_rpc.channels.stripe.objects import PaymentIntent
from payment_rpc.channels.time_left import TimeLeft
from payment_rpc.domain.facts import ChannelStatus

EXPAND = "latest_charge.balance_transaction"  # the fee stands there
# refused before anything was executed; the same request may be sent again
NOT_EXECUTED = frozenset({401, 403, 429})
_INVALID = frozenset({400, 404})


class Stopped(Exception):
    """A call gave no object."""

    def __init__(self, status: ChannelStatus, problem: str, *, ref: str = "") -> None:
        """
        Args:
            status: NOT_SENT, FAILED or UNKNOWN.
            ref: Stripe's id of the payment, "" while it is not known.
        """
        super().__init__(problem)
        self.status = status
        self.ref = ref


class Intents:
    """Creates PaymentIntents and takes their steps."""

    def __init__(self, api: StripeApi) -> None:
        self._api = api

    async def create(
        self, form: Mapping[str, str], *, attempt_id: str, time_left: TimeLeft
    ) -> PaymentIntent:
        """Creates one that is not confirmed: no money can move by it yet."""
        answer = await created(
            self._api, "/v1/payment_intents", form, attempt_id=attempt_id, time_left=time_left
        )
        try:
            intent = decode(answer.body, PaymentIntent)
            check_attempt(intent.metadata, attempt_id)
        except Unclear as problem:
            raise Stopped(ChannelStatus.UNKNOWN, str(problem)) from None
        return intent

    async def get(self, attempt_id: str, ref: str, *, time_left: TimeLeft) -> PaymentIntent:
        """Asks for one."""
        try:
            intent = await self._api.read(
                f"/v1/payment_intents/{ref}",
                [("expand[]", EXPAND)],
                kind=PaymentIntent,
                time_left=time_left,
            )
            _check(intent, attempt_id, ref)
        except Unclear as problem:
            raise Stopped(ChannelStatus.UNKNOWN, str(problem), ref=ref) from None
        return intent

    async def confirm(
        self, attempt_id: str, ref: str, *, return_url: str, time_left: TimeLeft
    ) -> PaymentIntent:
        """Lets the money move. Without a `return_url` there is no buyer to ask."""
        form = {"return_url": return_url} if return_url else {"off_session": "true"}
        intent = await self._step(
            "confirm",
            form,
            key=f"{attempt_id}-confirm",
            about=(attempt_id, ref),
            time_left=time_left,
        )
        if intent.status == "requires_confirmation":
            raise Stopped(ChannelStatus.FAILED, "Stripe refused to confirm it", ref=ref)
        return intent

    async def cancel(self, attempt_id: str, ref: str, *, time_left: TimeLeft) -> PaymentIntent:
        """Cancels one, and lets held money go. It needs no idempotency key: the second call is
        refused with the object as it is, while a key would repeat an old refusal for a day.
        """
        return await self._step("cancel", {}, key="", about=(attempt_id, ref), time_left=time_left)

    async def capture(
        self, attempt_id: str, ref: str, form: Mapping[str, str], *, key: str, time_left: TimeLeft
    ) -> PaymentIntent:
        """Takes held money. A capture that is refused leaves the object as it was."""
        return await self._step(
            "capture", form, key=key, about=(attempt_id, ref), time_left=time_left
        )

    async def _step(
        self,
        verb: str,
        form: Mapping[str, str],
        *,
        key: str,
        about: tuple[str, str],
        time_left: TimeLeft,
    ) -> PaymentIntent:
        attempt_id, ref = about
        try:
            answer = await self._api.post(
                f"/v1/payment_intents/{ref}/{verb}",
                {**form, "expand[0]": EXPAND},
                key=key,
                time_left=time_left,
            )
        except NotSent as problem:
            raise Stopped(ChannelStatus.NOT_SENT, str(problem), ref=ref) from None
        except Lost as problem:
            raise Stopped(ChannelStatus.UNKNOWN, str(problem), ref=ref) from None
        if is_repeated(answer):  # it says how the payment was at the first time
            intent = await self.get(attempt_id, ref, time_left=time_left)
            if answer.status_code >= 500 and intent.status == "requires_confirmation":
                raise Stopped(ChannelStatus.UNKNOWN, str(refusal(answer)), ref=ref)
            return intent
        if answer.status_code == OK:
            return _decoded(answer, attempt_id, ref)
        carried = _refused(refusal(answer), attempt_id, ref)
        return carried or await self.get(attempt_id, ref, time_left=time_left)


async def created(
    api: StripeApi, path: str, form: Mapping[str, str], *, attempt_id: str, time_left: TimeLeft
) -> Answer:
    """The answer to a call that creates something for an attempt."""
    try:
        answer = await api.post(path, form, key=f"{attempt_id}-create", time_left=time_left)
    except NotSent as problem:
        raise Stopped(ChannelStatus.NOT_SENT, str(problem)) from None
    except Lost as problem:
        raise Stopped(ChannelStatus.UNKNOWN, str(problem)) from None
    if answer.status_code == OK:
        return answer
    refused = refusal(answer)
    if refused.status_code in NOT_EXECUTED:
        raise Stopped(ChannelStatus.NOT_SENT, str(refused))
    # an idempotency error is ours, and the first request under the key stands
    if refused.status_code in _INVALID and refused.error.type == "invalid_request_error":
        raise Stopped(ChannelStatus.FAILED, refused.error.message or str(refused))
    raise Stopped(ChannelStatus.UNKNOWN, str(refused))


def _decoded(answer: Answer, attempt_id: str, ref: str) -> PaymentIntent:
    try:
        intent = decode(answer.body, PaymentIntent)
        _check(intent, attempt_id, ref)
    except Unclear as problem:
        raise Stopped(ChannelStatus.UNKNOWN, str(problem), ref=ref) from None
    return intent


def _refused(refused: Refused, attempt_id: str, ref: str) -> PaymentIntent | None:
    """The object that a refusal carries; None where it carries none and has to be asked for."""
    if refused.status_code in NOT_EXECUTED:
        raise Stopped(ChannelStatus.NOT_SENT, str(refused), ref=ref)
    intent = refused.error.payment_intent
    if refused.status_code in (400, 402) and intent is not None:
        try:
            _check(intent, attempt_id, ref)
        except Unclear as problem:
            raise Stopped(ChannelStatus.UNKNOWN, str(problem), ref=ref) from None
        return intent
    if refused.status_code in (400, 402, 404) and refused.error.type:
        return None
    raise Stopped(ChannelStatus.UNKNOWN, str(refused), ref=ref)


def _check(intent: PaymentIntent, attempt_id: str, ref: str) -> None:
    check_attempt(intent.metadata, attempt_id)
    if intent.id != ref:
        raise Unclear("the answer is about another payment")
