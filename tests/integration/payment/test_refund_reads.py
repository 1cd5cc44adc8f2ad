"""Refunds and wallet entries are read by those whose they are: buyer against buyer, shop against
shop, for one row and for lists.
"""

from __future__ import annotations

import pytest
from paymesh.payment.v1 import refund_pb2

from mesh.call import NOBODY, Caller, Role
from mesh.errors import PermissionDenied
from mesh.money import RequestedAmount
from mesh.paging import PageTokens
from payment_rpc.domain.errors import RefundNotFound
from payment_rpc.domain.payment import Payment
from payment_rpc.domain.refund import Refund
from payment_rpc.domain.wallet import EntryKind
from payment_rpc.servicer.refunds import RefundServicer, refund_message
from payment_rpc.store import wallets
from payment_rpc.usecases.refund_start import CreateRefund
from tests.builders.order import ADMIN, PAGE_TOKEN_SECRET, buyer, merchant
from tests.builders.payment import PaymentWorld

OWNERS = [
    buyer("u1"),
    merchant(),
    ADMIN,
    Caller(role=Role.SERVICE, subject="order_rpc", service="order_rpc"),
]
STRANGERS = [buyer("u2"), buyer("u1", "shop2"), merchant("shop2")]


async def refunded(
    world: PaymentWorld, caller: Caller, *amounts: str
) -> tuple[Payment, list[Refund]]:
    """A paid order of a buyer, and refunds of it."""
    payment = await world.charge(await world.order(caller=caller))
    clerk = merchant(caller.merchant_id)
    return payment, [
        await world.app.refunds.create_refund(
            CreateRefund(
                payment_id=payment.payment_id,
                amount=RequestedAmount(amount),
                reason="",
                request_id="",
                key="",
            ),
            clerk,
        )
        for amount in amounts
    ]


@pytest.mark.parametrize("reader", OWNERS, ids=lambda caller: str(caller.role))
async def test_a_refund_is_shown_to_its_buyer_its_shop_staff_and_services(
    world: PaymentWorld, reader: Caller
) -> None:
    payment, (refund,) = await refunded(world, buyer("u1"), "10.00")
    assert await world.app.refunds.get_refund(refund.refund_id, reader) == refund
    listed = await world.app.refunds.list_refunds(
        payment_id=payment.payment_id,
        merchant_id="",
        order_id="",
        before=None,
        limit=10,
        caller=reader,
    )
    assert list(listed) == [refund]


@pytest.mark.parametrize(
    "reader", STRANGERS, ids=lambda caller: f"{caller.role} {caller.merchant_id}/{caller.subject}"
)
async def test_a_refund_of_somebody_else_is_not_there(world: PaymentWorld, reader: Caller) -> None:
    payment, (refund,) = await refunded(world, buyer("u1"), "10.00")
    with pytest.raises(RefundNotFound):
        await world.app.refunds.get_refund(refund.refund_id, reader)
    for scope in (
        {"payment_id": payment.payment_id, "merchant_id": "", "order_id": ""},
        {"payment_id": "", "merchant_id": "mall", "order_id": payment.order_id},
    ):
        assert (
            list(
                await world.app.refunds.list_refunds(**scope, before=None, limit=10, caller=reader)
            )
            == []
        )


async def test_nobody_in_particular_reads_no_refund(world: PaymentWorld) -> None:
    _, (refund,) = await refunded(world, buyer("u1"), "10.00")
    with pytest.raises(PermissionDenied):
        await world.app.refunds.get_refund(refund.refund_id, NOBODY)


async def test_refunds_of_an_order_are_those_of_its_shop(world: PaymentWorld) -> None:
    one, ours = await refunded(world, buyer("u1"), "10.00", "20.00")
    _, theirs = await refunded(world, buyer("u1", "shop2"), "30.00")
    listed = await world.app.refunds.list_refunds(
        payment_id="",
        merchant_id="mall",
        order_id=one.order_id,
        before=None,
        limit=10,
        caller=ADMIN,
    )
    assert list(listed) == list(reversed(ours))
    assert theirs[0] not in listed
    elsewhere = await world.app.refunds.list_refunds(
        payment_id="",
        merchant_id="shop2",
        order_id=one.order_id,
        before=None,
        limit=10,
        caller=ADMIN,
    )
    assert list(elsewhere) == []


async def test_the_servicer_shows_a_refund_and_pages_through_them(
    world: PaymentWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    payment, refunds = await refunded(world, buyer("u1"), "1.00", "2.00", "3.00")
    servicer = RefundServicer(refunds=world.app.refunds, page_tokens=PageTokens(PAGE_TOKEN_SECRET))
    monkeypatch.setattr("payment_rpc.servicer.refunds.current_caller", lambda: buyer("u1"))
    shown = await servicer.GetRefund(
        refund_pb2.GetRefundRequest(refund_id=refunds[0].refund_id), None
    )
    assert shown.refund == refund_message(refunds[0])
    seen: list[str] = []
    token = ""
    while True:
        page = await servicer.ListRefunds(
            refund_pb2.ListRefundsRequest(
                payment_id=payment.payment_id, page_size=2, page_token=token
            ),
            None,
        )
        seen += [refund.refund_id for refund in page.refunds]
        token = page.next_page_token
        if not token:
            break
    assert seen == [refund.refund_id for refund in reversed(refunds)]


async def test_wallet_entries_are_those_of_one_buyer_in_one_currency(world: PaymentWorld) -> None:
    payments = {
        (shop, user, currency): await world.charge(
            await world.order(caller=buyer(user, shop), currency=currency)
        )
        for shop, user in (("mall", "u1"), ("mall", "u2"), ("shop2", "u1"))
        for currency in ("CNY", "USD")
    }
    for number, payment in enumerate(payments.values()):
        await world.db.run(
            wallets.credit,
            payment,
            payment.captured,
            kind=EntryKind.TOP_UP,
            entry_id=f"WE{number}",
            at=world.clock.now(),
        )
    for (shop, user, currency), payment in payments.items():
        entries = await world.db.read(
            wallets.list_entries,
            merchant_id=shop,
            user_id=user,
            currency=currency,
            before=None,
            limit=10,
        )
        assert [(entry.payment_id, entry.amount.currency) for entry in entries] == [
            (payment.payment_id, currency)
        ]
