"""Texts about a payment or a refund that ended without success, in the language of the caller."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from paymesh.payment.v1 import errors_pb2, payment_pb2

from mesh.call import Role, current_caller, current_language
from mesh.languages import Bilingual
from mesh.wire_errors import ErrorCatalogue
from payment_rpc.domain.payment import CANCELLED_BY_BUYER, VOIDED, Failure

_CATALOGUE: Final = ErrorCatalogue([errors_pb2.ErrorReason.DESCRIPTOR])
_DOMAIN: Final = errors_pb2.DESCRIPTOR.package
_FAILED: Final = Bilingual("The payment did not succeed. No money moved.", "支付未成功，没有扣款。")
# Reasons that end a payment or a refund and are never the reason of an error.
_OTHERS: Final[Mapping[str, Bilingual]] = {
    CANCELLED_BY_BUYER: Bilingual(
        "The buyer cancelled this payment. No money moved.", "买家已取消支付，没有扣款。"
    ),
    VOIDED: Bilingual(
        "The shop did not take the money that was held for it.", "商家已放弃预授权款项，没有扣款。"
    ),
    "LOST_BEFORE_CHANNEL": _FAILED,
    "CLOSED": Bilingual("The payment was closed. No money moved.", "支付已关闭，没有扣款。"),
    "CONFLICT_RESOLVED": Bilingual(
        "The payment was checked and does not count for the order.", "经核实，该支付不计入订单。"
    ),
    "REFUND_REVERSED": Bilingual(
        "The refund came back and did not reach you.", "退款被退回，未到账。"
    ),
}
_CANCELLED_BY_YOU: Final = Bilingual(
    "You cancelled this payment. No money moved.", "您已取消支付，没有扣款。"
)


def failure_message(failure: Failure) -> payment_pb2.Failure:
    """A failure as the caller sees it. The buyer is addressed as "you"; texts of channels are never
    shown.
    """
    is_own = failure.reason == CANCELLED_BY_BUYER and current_caller().role is Role.USER
    texts = (
        _CANCELLED_BY_YOU
        if is_own
        else _OTHERS.get(failure.reason) or _CATALOGUE.texts(_DOMAIN, failure.reason) or _FAILED
    )
    return payment_pb2.Failure(reason=failure.reason, message=texts.text(current_language()))
