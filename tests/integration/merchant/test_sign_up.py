"""How a merchant begins."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from merchant_rpc.domain.errors import (
    LinkInvalid,
    LoginDelayed,
    MailUnavailable,
    MerchantIdTaken,
)
from merchant_rpc.domain.member import MemberRole
from merchant_rpc.domain.merchant import MerchantState
from merchant_rpc.tables import (
    ADMIN_ACTION,
    MEMBER,
    MEMBERSHIP,
    MERCHANT,
    ONE_TIME_LINK,
)
from merchant_rpc.usecases.one_time_links import digest
from merchant_rpc.usecases.sign_ups import GRACE
from mesh.call import NOBODY
from mesh.errors import InvalidArgument
from mesh.outbox import OUTBOX
from tests.builders.merchant import HOME, PASSWORD, MerchantWorld

DAY = timedelta(hours=24)


async def test_a_confirmed_sign_up_is_a_test_merchant_with_a_sibling_and_an_owner(
    shops: MerchantWorld,
) -> None:
    await shops.sign_up(email=" Owner@Acme.example ")
    merchant = await shops.confirm()
    assert (merchant.state, merchant.test_merchant_id) == (MerchantState.TEST_ONLY, "acme_test")
    assert (merchant.contact_email, merchant.default_currency) == ("owner@acme.example", "EUR")
    rows = {row.merchant_id: row for row in await shops.rows(MERCHANT)}
    assert set(rows) == {"acme", "acme_test"}
    assert (rows["acme_test"].is_test, rows["acme_test"].state) == (True, "TEST_ONLY")
    [owner] = await shops.people()
    assert (owner.role, owner.account.email) == (MemberRole.OWNER, "owner@acme.example")
    assert await shops.people("acme_test") == [owner]


async def test_the_mail_names_the_page_and_the_token_stands_where_no_server_sees_it(
    shops: MerchantWorld,
) -> None:
    await shops.sign_up()
    [mail] = await shops.mails()
    assert mail["link"].startswith("https://pay.example/console/confirm#token=")
    assert (mail["template"], mail["address"]) == ("SIGN_UP", "owner@acme.example")
    [link] = await shops.rows(ONE_TIME_LINK)
    token = await shops.token()
    assert link.token_digest == digest(token)
    assert token not in repr(link)


async def test_a_mail_that_was_handed_over_is_kept_without_its_link(shops: MerchantWorld) -> None:
    await shops.sign_up()
    assert await shops.app.mail_relay.run_once() == 1
    [row] = await shops.rows(OUTBOX)
    assert (row.state, row.payload) == ("DONE", "{}")


async def test_a_link_works_once(shops: MerchantWorld) -> None:
    await shops.sign_up()
    token = await shops.token()
    await shops.confirm(token)
    with pytest.raises(LinkInvalid):
        await shops.confirm(token)
    assert len(await shops.rows(MEMBER)) == 1


async def test_of_ten_who_show_one_link_at_once_one_confirms(shops: MerchantWorld) -> None:
    await shops.sign_up()
    token = await shops.token()
    answers = await asyncio.gather(
        *(shops.confirm(token, address=f"203.0.113.{at}") for at in range(4)),
        return_exceptions=True,
    )
    assert sum(not isinstance(answer, BaseException) for answer in answers) == 1
    assert len(await shops.rows(MEMBERSHIP)) == 1
    assert len(await shops.rows(ADMIN_ACTION)) == 1


async def test_a_link_ends_after_a_day(shops: MerchantWorld) -> None:
    await shops.sign_up()
    shops.clock.advance(DAY.total_seconds())
    with pytest.raises(LinkInvalid):
        await shops.confirm()


async def test_a_token_that_nobody_made_is_refused(shops: MerchantWorld) -> None:
    with pytest.raises(LinkInvalid):
        await shops.confirm("A" * 43)


async def test_a_link_of_another_kind_confirms_nothing(shops: MerchantWorld) -> None:
    await shops.merchant()
    token = await shops.invite()
    with pytest.raises(LinkInvalid):
        await shops.confirm(token)


async def test_an_address_with_an_account_gets_the_same_answer_and_a_mail_that_says_so(
    shops: MerchantWorld,
) -> None:
    await shops.merchant()
    await shops.sign_up("other", "owner@acme.example")
    mail = (await shops.mails())[-1]
    assert (mail["template"], mail["link"]) == (
        "ACCOUNT_EXISTS",
        "https://pay.example/console/login",
    )
    assert len(await shops.rows(ONE_TIME_LINK)) == 1


async def test_no_second_sign_up_tells_who_has_an_account(shops: MerchantWorld) -> None:
    """The id is reserved for either."""
    await shops.merchant()
    for merchant_id, email in (("one", "owner@acme.example"), ("two", "nobody@acme.example")):
        await shops.sign_up(merchant_id, email)
        with pytest.raises(MerchantIdTaken):
            await shops.sign_up(merchant_id, "me@evil.example")


async def test_an_account_that_began_meanwhile_is_not_overwritten(shops: MerchantWorld) -> None:
    await shops.sign_up("one", "owner@acme.example")
    first = await shops.token()
    await shops.sign_up("two", "owner@acme.example")
    await shops.confirm(first)
    with pytest.raises(LinkInvalid):
        await shops.confirm(password="another password")
    [row] = await shops.rows(MEMBER)
    assert await shops.passwords.verify(row.password_hash, PASSWORD)


@pytest.mark.parametrize("merchant_id", ["mall", "admin", "api", "acme_test", "x_test", "pay_rpc"])
async def test_reserved_ids_are_taken(shops: MerchantWorld, merchant_id: str) -> None:
    with pytest.raises(MerchantIdTaken):
        await shops.sign_up(merchant_id)
    assert await shops.rows(MERCHANT) == []


async def test_ids_of_tenants_that_are_kept_elsewhere_are_taken(shops: MerchantWorld) -> None:
    with pytest.raises(MerchantIdTaken):
        await shops.sign_up("legacy", app=shops.make(reserved=["legacy"]))


async def test_an_id_is_taken_once(shops: MerchantWorld) -> None:
    await shops.sign_up()
    with pytest.raises(MerchantIdTaken):
        await shops.sign_up(email="other@acme.example")
    assert len(await shops.rows(OUTBOX)) == 1


async def test_of_people_who_want_one_id_at_once_one_gets_it(shops: MerchantWorld) -> None:
    answers = await asyncio.gather(
        *(shops.sign_up(email=f"p{at}@acme.example", address=f"203.0.113.{at}") for at in range(8)),
        return_exceptions=True,
    )
    assert sorted(type(answer).__name__ for answer in answers) == ["MerchantIdTaken"] * 7 + [
        "NoneType"
    ]
    assert len(await shops.rows(MERCHANT)) == 1


async def test_without_mail_nothing_is_written(shops: MerchantWorld) -> None:
    with pytest.raises(MailUnavailable):
        await shops.sign_up(app=shops.make(logs_mail=False))
    assert await shops.rows(MERCHANT) == []


async def test_a_network_signs_up_five_times_an_hour(shops: MerchantWorld) -> None:
    for at in range(5):
        await shops.sign_up(f"shop{at}", f"p{at}@acme.example")
    with pytest.raises(LoginDelayed) as refused:
        await shops.sign_up("shop5", "p5@acme.example")
    assert refused.value.retry_after_seconds == pytest.approx(720)
    await shops.sign_up("shop6", "p6@acme.example", address="198.51.100.1")
    shops.clock.advance(720)
    await shops.sign_up("shop5", "p5@acme.example")


async def test_replicas_count_sign_ups_together(shops: MerchantWorld) -> None:
    other = shops.make()
    for at in range(5):
        await shops.sign_up(f"shop{at}", f"p{at}@acme.example", app=other if at % 2 else None)
    for app in (shops.app, other):
        with pytest.raises(LoginDelayed):
            await shops.sign_up("shop5", "p5@acme.example", app=app)


async def test_sign_ups_at_once_find_the_same_few_places(shops: MerchantWorld) -> None:
    apps = [shops.make() for _ in range(3)]
    results = await asyncio.gather(
        *(shops.sign_up(f"shop{at}", f"p{at}@acme.example", app=apps[at % 3]) for at in range(12)),
        return_exceptions=True,
    )
    assert results.count(None) == 5
    assert {type(result) for result in results if result is not None} == {LoginDelayed}


async def test_who_may_not_write_to_a_mailbox_takes_nothing_from_his_network(
    shops: MerchantWorld,
) -> None:
    for at in range(5):
        await shops.sign_up(f"shop{at}", address=f"203.0.{at}.1")
    for _ in range(6):
        with pytest.raises(LoginDelayed):
            await shops.sign_up("shop5", address="198.51.100.1")
    await shops.sign_up("shop5", "other@acme.example", address="198.51.100.1")


async def test_replicas_count_links_together(shops: MerchantWorld) -> None:
    other = shops.make()
    for at in range(30):
        confirm = (other if at % 2 else shops.app).sign_ups.confirm
        with pytest.raises(LinkInvalid):
            await confirm(token=f"{at:043d}", password=PASSWORD, client_address=HOME, caller=NOBODY)
    with pytest.raises(LoginDelayed):
        await shops.confirm("A" * 43)


async def test_an_ipv6_network_is_one_network(shops: MerchantWorld) -> None:
    for at in range(5):
        await shops.sign_up(f"shop{at}", f"p{at}@acme.example", address=f"2001:db8::{at}")
    with pytest.raises(LoginDelayed):
        await shops.sign_up("shop5", "p5@acme.example", address="2001:db8::6")


async def test_nobodys_mailbox_is_filled_from_many_networks(shops: MerchantWorld) -> None:
    for at in range(5):
        await shops.sign_up(f"shop{at}", address=f"203.0.{at}.1")
    with pytest.raises(LoginDelayed):
        await shops.sign_up("shop5", "OWNER@acme.example", address="203.0.9.1")


async def test_a_network_shows_thirty_links_an_hour(shops: MerchantWorld) -> None:
    for at in range(30):
        with pytest.raises(LinkInvalid):
            await shops.confirm(f"{at:043d}")
    with pytest.raises(LoginDelayed):
        await shops.confirm("A" * 43)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("email", "no address"),
        ("email", "a@b"),
        ("email", "a@b.example\nBcc: c@d.example"),
        ("email", "ö@acme.example"),
        ("name", "Αcme"),
        ("time_zone", "Europe/Nowhere"),
        ("time_zone", "../../etc/passwd"),
        ("currency", "XXX"),
    ],
)
async def test_what_does_not_exist_is_refused_before_anything_is_written(
    shops: MerchantWorld, field: str, value: Any
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await shops.sign_up(**{field: value})
    assert set(refused.value.fields) == {{"currency": "default_currency"}.get(field, field)}
    assert await shops.rows(MERCHANT) == []


async def test_a_sign_up_that_nobody_confirms_gives_its_id_back_after_a_day(
    shops: MerchantWorld,
) -> None:
    await shops.merchant("shop")
    await shops.sign_up()
    shops.clock.advance((DAY + GRACE).total_seconds())
    assert await shops.app.sign_ups.expire_once() == 0
    shops.clock.advance(1)
    assert await shops.app.sign_ups.expire_once() == 1
    assert {row.merchant_id for row in await shops.rows(MERCHANT)} == {"shop", "shop_test"}
    assert {row.subject for row in await shops.rows(ONE_TIME_LINK)} == {"shop"}
    await shops.sign_up(email="other@acme.example")


async def test_what_a_confirmation_did_is_in_the_log_without_the_address(
    shops: MerchantWorld,
) -> None:
    await shops.merchant()
    [action] = await shops.rows(ADMIN_ACTION)
    [owner] = await shops.people()
    assert (action.method, action.actor) == (
        "ConfirmSignUp",
        f"member:{owner.account.member_id}",
    )
    assert "owner@acme" not in repr(action)
    assert "sha256:" in action.after_json


async def test_old_links_are_deleted(shops: MerchantWorld) -> None:
    await shops.merchant()
    shops.clock.advance(timedelta(days=8, seconds=-3600).total_seconds())
    assert await shops.app.links.purge_once(shops.db) == 0
    shops.clock.advance(3600)
    assert await shops.app.links.purge_once(shops.db) == 1
