"""Amounts near the end of what a column holds: a clear refusal or the right sum, and never an error
for everybody else.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.audit import AuditTolerance, Violation
from mesh.errors import InvalidArgument
from order_rpc.audit.checks import violations as of_orders
from payment_rpc.audit.checks import violations as of_payments
from payment_rpc.domain.wallet import BALANCE_MINOR_MAX
from tests.builders.payment import PaymentWorld
from tests.builders.payment_steps import top_up
from tests.support.databases import plant

LARGE = 9 * 10**18  # fits into 64 bits once, and not twice


async def test_a_top_up_that_a_wallet_cannot_hold_is_refused_before_the_card_is_asked(
    world: PaymentWorld,
) -> None:
    await top_up(world, "5.00")
    await plant(world.db, f"UPDATE wallet SET balance_minor = {BALANCE_MINOR_MAX - 100}")
    with pytest.raises(InvalidArgument) as refused:
        await top_up(world, "1.01")
    assert refused.value.fields == {"amount": "the wallet would hold more than it can"}
    assert len(await world.at_sandbox()) == 1
    await top_up(world, "1.00")
    wallet = await world.app.wallet_queries.get_wallet(
        merchant_id="mall", user_id="u1", currency=""
    )
    assert wallet.balance.minor == BALANCE_MINOR_MAX


async def found_by(violations: AsyncIterator[Violation]) -> set[str]:
    return {violation.check async for violation in violations}


async def test_sums_beyond_64_bits_end_no_audit(world: PaymentWorld) -> None:
    order = await world.order()
    tolerance = AuditTolerance(now=world.clock.now(), strict=False)
    await plant(
        world.order_side.db,
        f"INSERT INTO order_item (merchant_id, order_id, sku_id, name, unit_price_minor, "
        f"quantity, amount_minor, "
        f"stock_source, activity_id) SELECT merchant_id, order_id, 'B', name, {LARGE}, 1, "
        f"{LARGE}, stock_source, "
        f"activity_id FROM order_item WHERE order_id = '{order.order_id}'",
        f"UPDATE order_item SET amount_minor = {LARGE} WHERE order_id = '{order.order_id}'",
    )
    assert "order_total" in await found_by(of_orders(world.order_side.db, tolerance))
    for _ in range(2):
        await top_up(world, "5.00")
    await plant(
        world.db,
        f"UPDATE wallet_entry SET amount_minor = {LARGE}",
        f"UPDATE ledger_posting SET amount_minor = {LARGE}",
    )
    assert {"ledger_wallet_balance", "log_chained"} <= await found_by(
        of_payments(world.db, tolerance)
    )


@pytest.mark.parametrize(
    ("values", "total"),
    [
        ((2**62, 2**62 - 1), 2**63 - 1),
        ((2**62 + 1, 1, -(2**62)), 2),
        ((2**63 - 1, 1, -1), 2**63 - 1),
        ((-5, None), -5),
        ((None,), None),
        ((2**63 - 1, 2**63 - 1), 2**64 - 2),
    ],
)
async def test_a_sum_is_exact_where_it_fits_and_no_error_where_it_does_not(
    world: PaymentWorld, values: tuple[int | None, ...], total: int | None
) -> None:
    rows = " UNION ALL ".join(
        f"SELECT {'NULL' if value is None else value} AS amount" for value in values
    )

    async def add(tx: AsyncConnection) -> object:
        return (await tx.execute(text(f"SELECT SUM(amount) FROM ({rows}) amounts"))).scalar()

    found = await world.db.read(add)
    if total is None or abs(total) < 2**63:
        assert found == total
    else:
        assert int(found) == pytest.approx(total)  # type: ignore[call-overload]
