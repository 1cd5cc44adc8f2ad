"""How order_rpc reads what merchant_rpc says of a merchant."""

from __future__ import annotations

from datetime import timedelta

import pytest
from paymesh.merchant.v1 import merchant_pb2

from mesh.merchant_status import MerchantStatus
from mesh.money import Money
from order_rpc.clients import terms_of
from order_rpc.domain.merchant_terms import MerchantTerms
from order_rpc.domain.policy import MerchantPolicy, PriceRule

M = merchant_pb2
RULE = PriceRule(amount=Money(800, "CNY"), threshold=None)
DEFAULTS = MerchantTerms(
    payment_window=timedelta(minutes=30),
    policy=MerchantPolicy(revives_if_stock=True, shipping={"CNY": RULE}),
)


def said(state: int = M.MERCHANT_STATE_LIVE, **answer: object) -> MerchantTerms:
    values = {"is_known": True, "state": state, **answer}
    return terms_of(M.GetMerchantSettingsResponse(**values), DEFAULTS)  # type: ignore[arg-type]


def test_what_is_not_set_is_the_default_and_what_is_set_counts() -> None:
    assert said() == DEFAULTS
    settings = M.Settings(
        late_money=M.LATE_MONEY_ALWAYS_REFUND,
        payment_window_minutes=90,
        ship_on_authorized=True,
        shipping=[M.AmountRule(currency="JPY", amount="500", threshold="9000")],
        discount=[M.AmountRule(currency="CNY", amount="1.50")],
    )
    terms = said(settings=settings)
    assert terms.payment_window == timedelta(minutes=90)
    assert terms.policy.revives_if_stock is False
    assert (terms.policy.ships_on_authorized, said().policy.ships_on_authorized) == (True, False)
    assert terms.policy.shipping == {
        "JPY": PriceRule(amount=Money(500, "JPY"), threshold=Money(9000, "JPY"))
    }
    assert terms.policy.discount == {"CNY": PriceRule(amount=Money(150, "CNY"), threshold=None)}


@pytest.mark.parametrize(
    ("state", "is_test", "status"),
    [
        (M.MERCHANT_STATE_LIVE, False, MerchantStatus.OPEN),
        (M.MERCHANT_STATE_LIVE, True, MerchantStatus.OPEN),
        (M.MERCHANT_STATE_TEST_ONLY, True, MerchantStatus.OPEN),
        (M.MERCHANT_STATE_TEST_ONLY, False, MerchantStatus.NOT_LIVE),
        (M.MERCHANT_STATE_PENDING_EMAIL, True, MerchantStatus.NOT_LIVE),
        (M.MERCHANT_STATE_SUSPENDED, True, MerchantStatus.SUSPENDED),
        (M.MERCHANT_STATE_CLOSED, False, MerchantStatus.SUSPENDED),
        (M.MERCHANT_STATE_UNSPECIFIED, False, MerchantStatus.NOT_LIVE),
    ],
)
def test_only_a_live_merchant_and_a_test_sibling_sell(
    state: int, is_test: bool, status: MerchantStatus
) -> None:
    assert said(state, is_test=is_test).status is status
