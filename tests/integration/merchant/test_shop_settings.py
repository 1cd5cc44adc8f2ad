"""What merchants decide for their shops."""

from __future__ import annotations

import asyncio
import json

import pytest

from merchant_rpc.domain.errors import MerchantNotFound, MerchantStateInvalid, SettingsChanged
from merchant_rpc.domain.shop_settings import (
    AmountRule,
    IntegerAmounts,
    LateMoney,
    ShopSettings,
)
from merchant_rpc.tables import ADMIN_ACTION, MERCHANT, MERCHANT_SETTING
from mesh.errors import InvalidArgument
from tests.builders.merchant import ADMIN, MerchantWorld, as_member

FIRST = ShopSettings(
    return_urls=("https://acme.example/",),
    late_money=LateMoney.REVIVE_IF_STOCK,
    shipping=(AmountRule(currency="EUR", amount="4.90", threshold="50"),),
    discount=(AmountRule(currency="JPY", amount="100"),),
    payment_window_minutes=15,
    integer_amounts=IntegerAmounts.MINOR,
    channels=("sandbox",),
)
SECOND = ShopSettings(late_money=LateMoney.ALWAYS_REFUND)


async def test_before_anything_is_set_everything_is_as_the_installation_has_it(
    shops: MerchantWorld,
) -> None:
    await shops.merchant()
    found = await shops.app.settings.get(merchant_id="acme", caller=ADMIN)
    assert (found.version, found.settings) == (0, ShopSettings())


async def test_a_new_version_is_in_force_and_the_old_one_stays(shops: MerchantWorld) -> None:
    await shops.merchant()
    owner = as_member(await shops.owner())
    first = await shops.update_settings(FIRST, caller=owner)
    second = await shops.update_settings(SECOND, read_version=1, caller=owner)
    assert (first.version, second.version) == (1, 2)
    assert await shops.app.settings.get(merchant_id="acme", caller=owner) == second
    listed, token = await shops.app.settings.list_versions(
        merchant_id="acme", page_size=0, page_token="", caller=owner
    )
    assert (listed, token) == ((second, first), "")
    assert first.created_by == owner.subject


async def test_versions_come_in_pages(shops: MerchantWorld) -> None:
    await shops.merchant()
    for version in range(3):
        await shops.update_settings(FIRST, read_version=version)
    seen, token = [], ""
    for _ in range(2):
        found, token = await shops.app.settings.list_versions(
            merchant_id="acme", page_size=2, page_token=token, caller=ADMIN
        )
        seen += [version.version for version in found]
    assert (seen, token) == ([3, 2, 1], "")


@pytest.mark.parametrize("read_version", [0, 2, 99])
async def test_nobody_overwrites_what_he_has_not_seen(
    shops: MerchantWorld, read_version: int
) -> None:
    await shops.merchant()
    await shops.update_settings(FIRST)
    with pytest.raises(SettingsChanged) as refused:
        await shops.update_settings(SECOND, read_version=read_version)
    assert refused.value.metadata["version"] == "1"
    assert len(await shops.rows(MERCHANT_SETTING)) == 1


async def test_of_people_who_write_at_once_one_does(shops: MerchantWorld) -> None:
    await shops.merchant()
    answers = await asyncio.gather(
        *(shops.update_settings(FIRST) for _ in range(5)), return_exceptions=True
    )
    assert sum(isinstance(answer, SettingsChanged) for answer in answers) == 4
    assert len(await shops.rows(MERCHANT_SETTING)) == 1


async def test_the_sibling_has_settings_of_its_own(shops: MerchantWorld) -> None:
    await shops.merchant()
    await shops.update_settings(FIRST, merchant_id="acme_test")
    found = await shops.app.settings.get(merchant_id="acme", caller=ADMIN)
    assert found.version == 0


@pytest.mark.parametrize("merchant_id", ["shop", "acme_test", "nobody"])
async def test_settings_of_others_are_not_found(shops: MerchantWorld, merchant_id: str) -> None:
    await shops.merchant()
    await shops.merchant("shop")
    owner = as_member(await shops.owner())
    with pytest.raises(MerchantNotFound):
        await shops.app.settings.get(merchant_id=merchant_id, caller=owner)
    with pytest.raises(MerchantNotFound):
        await shops.update_settings(FIRST, merchant_id=merchant_id, caller=owner)
    with pytest.raises(MerchantNotFound):
        await shops.app.settings.list_versions(
            merchant_id=merchant_id, page_size=0, page_token="", caller=owner
        )


async def test_a_closed_merchant_decides_nothing_any_more(shops: MerchantWorld) -> None:
    await shops.merchant()
    await shops.step("close")
    with pytest.raises(MerchantStateInvalid):
        await shops.update_settings(FIRST)


async def test_a_suspended_merchant_still_decides(shops: MerchantWorld) -> None:
    await shops.merchant()
    await shops.step("suspend")
    assert (await shops.update_settings(FIRST)).version == 1


async def test_a_sign_up_that_is_not_confirmed_decides_nothing(shops: MerchantWorld) -> None:
    await shops.sign_up()
    with pytest.raises(MerchantStateInvalid):
        await shops.update_settings(FIRST)


async def test_what_cannot_be_in_force_is_refused_before_anything_is_written(
    shops: MerchantWorld,
) -> None:
    await shops.merchant()
    with pytest.raises(InvalidArgument):
        await shops.update_settings(
            ShopSettings(shipping=(AmountRule(currency="JPY", amount="1.5"),))
        )
    assert await shops.rows(MERCHANT_SETTING) == []


async def test_services_are_told_what_they_must_know(shops: MerchantWorld) -> None:
    await shops.merchant()
    await shops.step("activate")
    await shops.update_settings(FIRST)
    known = await shops.app.settings.for_service("acme")
    assert known is not None
    merchant, version = known
    assert (merchant.state, version.version, version.settings) == ("LIVE", 1, FIRST)
    sibling = await shops.app.settings.for_service("acme_test")
    assert sibling is not None
    assert (sibling[0].is_test, sibling[1].version) == (True, 0)


@pytest.mark.parametrize("merchant_id", ["mall", "pending"])
async def test_services_are_told_that_a_merchant_is_not_known(
    shops: MerchantWorld, merchant_id: str
) -> None:
    """A sign-up that nobody confirmed changes nothing for whoever had the name before."""
    await shops.sign_up("pending")
    assert await shops.app.settings.for_service(merchant_id) is None


async def test_a_change_is_in_the_log_by_the_digests_of_both_versions(
    shops: MerchantWorld,
) -> None:
    await shops.merchant()
    await shops.update_settings(FIRST)
    action = (await shops.rows(ADMIN_ACTION))[-1]
    assert (action.method, action.target, action.reason) == (
        "UpdateSettings",
        "version 1",
        "a sale",
    )
    before, after = json.loads(action.before_json), json.loads(action.after_json)
    assert (before["version"], after["version"]) == (0, 1)
    assert before["body"] != after["body"]


async def test_a_change_raises_the_version_of_the_merchant(shops: MerchantWorld) -> None:
    merchant = await shops.merchant()
    await shops.update_settings(FIRST)
    row = (await shops.rows(MERCHANT))[0]
    assert (row.version, row.settings_version) == (merchant.version + 1, 1)
