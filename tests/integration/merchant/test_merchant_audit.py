"""What `paymesh audit` finds in merchant_rpc, and what `paymesh explain` says of a merchant."""

from __future__ import annotations

from datetime import timedelta

import pytest

from merchant_rpc.audit import AUDIT
from mesh.audit import AuditTolerance
from tests.builders.merchant import MerchantWorld
from tests.builders.merchant_corruptions import lived


async def found(shops: MerchantWorld, *, strict: bool = True) -> set[tuple[str, str]]:
    tolerance = AuditTolerance(now=shops.clock.now(), strict=strict)
    return {
        (violation.check, violation.subject)
        async for violation in AUDIT.violations(shops.db, tolerance)
    }


async def test_what_use_cases_leave_holds(shops: MerchantWorld) -> None:
    await lived(shops)
    assert await found(shops) == set()


async def test_a_sign_up_that_should_have_ended_is_found(shops: MerchantWorld) -> None:
    await lived(shops)
    shops.clock.advance(timedelta(hours=25).total_seconds())
    assert ("sign_up_late", "pending") in await found(shops, strict=False)


@pytest.mark.parametrize("name", ["acme", "acme_test"])
async def test_a_merchant_is_explained_with_what_was_done_to_it(
    shops: MerchantWorld, name: str
) -> None:
    await lived(shops)
    explained = await AUDIT.explain_others(shops.db, name)
    assert list(explained) == [("acme", "acme")]
    [explanation] = explained.values()
    assert "takes real money. People: 2;" in explanation.headlines[0]
    texts = [entry.text for entry in explanation.timeline]
    assert texts[0] == "It signed up."
    assert "ActivateMerchant on acme by root (because)." in texts
    assert texts[-1].startswith("InviteMember on sha256:"), "oldest first"
    assert not any("@" in text for text in texts)


async def test_a_sign_up_says_when_its_id_is_free_again(shops: MerchantWorld) -> None:
    await lived(shops)
    [explanation] = (await AUDIT.explain_others(shops.db, "pending")).values()
    assert "waits for its owner" in explanation.headlines[0]
    [step] = explanation.pending
    assert step.at == shops.clock.now() + timedelta(hours=24)


async def test_nothing_is_said_of_what_is_not_there(shops: MerchantWorld) -> None:
    assert await AUDIT.explain_others(shops.db, "nobody") == {}
    assert list(await AUDIT.find_orders(shops.db, "acme")) == []
    assert await AUDIT.explain_order(shops.db, ("acme", "ORD1")) is None
