"""Facts about calls that ended without an answer that can be believed."""

from __future__ import annotations

from mesh.free_text import plain
from mesh.logs import get_logger
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.domain.refund_facts import RefundChannelStatus, RefundFact

_MESSAGE_MAX = 200  # as wide as our columns

_log = get_logger()


class Unclear(Exception):
    """An answer came that is invalid, contradicts the request, or says nothing certain."""


def message_of(text: object) -> str:
    """A text of a provider or about one, as facts carry it."""
    return plain(str(text))[:_MESSAGE_MAX]


class Doubt:
    """Makes and logs such facts for one account."""

    def __init__(self, account: str) -> None:
        self._account = account

    def unknown(self, attempt_id: str, problem: object, *, ref: str = "") -> ChannelFact:
        """Nothing that can be believed about an attempt."""
        message = message_of(problem)
        _log.warning(
            "channel_answer_unknown", channel=self._account, attempt_id=attempt_id, problem=message
        )
        return ChannelFact(
            attempt_id=attempt_id, status=ChannelStatus.UNKNOWN, message=message, ref=ref
        )

    def not_sent(self, attempt_id: str, problem: object) -> ChannelFact:
        """Proof that a call did not reach the channel, or that it did not carry it out."""
        message = message_of(problem)
        _log.error(
            "channel_not_reached", channel=self._account, attempt_id=attempt_id, problem=message
        )
        return ChannelFact(
            attempt_id=attempt_id,
            status=ChannelStatus.NOT_SENT,
            reason="CHANNEL_UNAVAILABLE",
            message=message,
        )

    def refund_unknown(self, refund_id: str, problem: object) -> RefundFact:
        """Nothing that can be believed about a refund."""
        message = message_of(problem)
        _log.warning(
            "channel_answer_unknown", channel=self._account, refund_id=refund_id, problem=message
        )
        return RefundFact(refund_id=refund_id, status=RefundChannelStatus.UNKNOWN, message=message)

    def refund_not_sent(self, refund_id: str, problem: object) -> RefundFact:
        """Proof that a refund did not reach the channel, or that it did not carry it out."""
        message = message_of(problem)
        _log.error(
            "channel_not_reached", channel=self._account, refund_id=refund_id, problem=message
        )
        return RefundFact(
            refund_id=refund_id,
            status=RefundChannelStatus.NOT_SENT,
            reason="CHANNEL_UNAVAILABLE",
            message=message,
        )
