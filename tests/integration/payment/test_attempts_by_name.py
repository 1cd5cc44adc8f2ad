"""An attempt is found by the channel's own names of it, at that channel only."""

from __future__ import annotations

import pytest
from sqlalchemy import update

from payment_rpc.domain.errors import PaymentNotFound
from payment_rpc.store import attempts
from payment_rpc.tables import ATTEMPT
from tests.builders.payment import PaymentWorld


async def test_an_attempt_is_found_by_its_id_at_the_channel_or_its_trade_number(
    world: PaymentWorld,
) -> None:
    await world.charge(await world.order())
    [row] = await world.rows(ATTEMPT)
    await world.execute(update(ATTEMPT).values(channel_ref="cs_1"))
    for name in ("cs_1", row["channel_trade_no"]):
        found = await world.db.read(attempts.attempt_by_ref, "sandbox", name)
        assert found.attempt_id == row["attempt_id"]
    for channel, name in (("other", "cs_1"), ("sandbox", "cs_2"), ("sandbox", "")):
        with pytest.raises(PaymentNotFound):
            await world.db.read(attempts.attempt_by_ref, channel, name)
