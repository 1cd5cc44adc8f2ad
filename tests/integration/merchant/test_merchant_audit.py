"""What `paymesh audit` finds in merchant_rpc, and what `paymesh explain` says of a merchant."""

from __future__ import annotations

from datetime import timedelta

import pytest

from merchant_rpc.audit import AUDIT
from merchant_rpc.domain.shop_settings import ShopSettings
from mesh.audit import AuditTolerance
from tests.builders.merchant import MerchantWorld
from tests.support.databases import plant


async def found(shops: MerchantWorld, *, strict: bool = True) -> set[tuple[str, str]]:
    tolerance = AuditTolerance(now=shops.clock.now(), strict=strict)
    return {
        (violation.check, violation.subject)
        async for violation in AUDIT.violations(shops.db, tolerance)
    }


async def lived(shops: MerchantWorld) -> None:
    """A merchant with everything, one in each state, and no mail that waits."""
    await shops.merchant()
    await shops.member()
    await shops.invite("other@acme.example")
    await shops.update_settings(ShopSettings())
    await shops.update_settings(ShopSettings(), read_version=1)
    await shops.step("activate")
    for merchant_id, steps in (("shop", ("suspend",)), ("gone", ("close",)), ("back", ())):
        await shops.merchant(merchant_id)
        for step in steps:
            await shops.step(step, merchant_id)
    await shops.step("suspend", "back")
    await shops.step("resume", "back")
    await shops.sign_up("pending", "p@pending.example")
    while await shops.app.mail_relay.run_once():
        pass


async def test_what_use_cases_leave_holds(shops: MerchantWorld) -> None:
    await lived(shops)
    assert await found(shops) == set()


@pytest.mark.parametrize(
    ("corruption", "violation"),
    [
        (
            "DELETE FROM merchant WHERE merchant_id = 'acme_test'",
            ("sibling_exists", "acme"),
        ),
        (
            "UPDATE merchant SET merchant_id = 'lost_test' WHERE merchant_id = 'acme_test'",
            ("sibling_of_merchant", "lost_test"),
        ),
        (
            (
                "UPDATE merchant SET state = 'TEST_ONLY', state_before = NULL "
                "WHERE merchant_id = 'shop_test'"
            ),
            ("sibling_follows", "shop"),
        ),
        (
            "UPDATE merchant SET state = 'CLOSED' WHERE merchant_id = 'acme_test'",
            ("sibling_follows", "acme"),
        ),
        (
            "UPDATE merchant SET state = 'TEST_ONLY' WHERE merchant_id = 'acme'",
            ("log_leads_here", "acme"),
        ),
        (
            "UPDATE merchant SET settings_version = 1 WHERE merchant_id = 'acme'",
            ("settings_in_force", "acme"),
        ),
        (
            "DELETE FROM merchant_setting WHERE version = 1",
            ("settings_in_force", "acme"),
        ),
        (
            "UPDATE membership SET role = 'VIEWER' WHERE merchant_id = 'acme'",
            ("merchant_has_owner", "acme"),
        ),
        (
            "UPDATE admin_action SET reason = 'another' WHERE method = 'CloseMerchant'",
            ("log_chained", "gone"),
        ),
        (
            "DELETE FROM admin_action WHERE method = 'ActivateMerchant'",
            ("log_leads_here", "acme"),
        ),
        (
            (
                "UPDATE one_time_link SET used_at = NULL, subject = 'gone', kind = 'SIGN_UP', "
                "expires_at = 99999999999999"
            ),
            ("one_link_works", "gone"),
        ),
    ],
)
async def test_what_somebody_changed_behind_our_back_is_found(
    shops: MerchantWorld, corruption: str, violation: tuple[str, str]
) -> None:
    await lived(shops)
    await plant(shops.db, corruption)
    assert violation in await found(shops)


async def test_somebody_who_works_for_a_sibling_is_found(shops: MerchantWorld) -> None:
    await lived(shops)
    await plant(
        shops.db,
        "UPDATE membership SET merchant_id = 'acme_test' "
        "WHERE merchant_id = 'acme' AND role = 'SUPPORT'",
    )
    assert {check for check, _ in await found(shops)} == {"member_of_merchant"}


async def test_what_lives_of_a_closed_merchant_is_found(shops: MerchantWorld) -> None:
    await lived(shops)
    owner = (await shops.owner("gone")).account.member_id
    await shops.session("S1", owner, "gone")
    await shops.key("K1", "gone")
    await shops.key("K2", "acme_test")
    assert await found(shops) == {("closed_has_no_session", "S1"), ("closed_has_no_key", "K1")}


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
    assert texts[-1] == "ActivateMerchant on acme by root (because)."
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
