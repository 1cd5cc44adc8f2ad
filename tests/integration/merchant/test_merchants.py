"""What administrators do to merchants, and what is kept of it."""

from __future__ import annotations

import asyncio
import json

import pytest

from merchant_rpc.domain.errors import MerchantNotFound, MerchantStateInvalid
from merchant_rpc.domain.member import MemberRole
from merchant_rpc.domain.merchant import MerchantState
from merchant_rpc.domain.one_time_link import LinkKind
from merchant_rpc.tables import ADMIN_ACTION, MERCHANT, ONE_TIME_LINK, SESSION
from merchant_rpc.usecases.merchants import ListMerchants
from mesh.errors import PageTokenInvalid
from tests.builders.merchant import ADMIN, MerchantWorld, as_member

STATES = MerchantState


async def states(shops: MerchantWorld) -> dict[str, str]:
    return {row.merchant_id: row.state for row in await shops.rows(MERCHANT)}


async def test_activation_makes_the_merchant_live_and_never_its_sibling(
    shops: MerchantWorld,
) -> None:
    await shops.merchant()
    assert (await shops.step("activate")).state is STATES.LIVE
    assert await states(shops) == {"acme": "LIVE", "acme_test": "TEST_ONLY"}


@pytest.mark.parametrize("was", ["TEST_ONLY", "LIVE"])
async def test_a_suspension_covers_the_sibling_and_ends_where_it_began(
    shops: MerchantWorld, was: str
) -> None:
    await shops.merchant()
    if was == "LIVE":
        await shops.step("activate")
    await shops.step("suspend")
    assert await states(shops) == {"acme": "SUSPENDED", "acme_test": "SUSPENDED"}
    assert (await shops.step("resume")).state == was
    assert await states(shops) == {"acme": was, "acme_test": "TEST_ONLY"}


async def test_a_closed_merchant_loses_its_sessions_and_invitations_and_keeps_its_rows(
    shops: MerchantWorld,
) -> None:
    await shops.merchant()
    await shops.merchant("shop")
    owner = (await shops.owner()).account.member_id
    await shops.session("S1", owner, "acme")
    await shops.session("S2", owner, "acme_test")
    await shops.session("S3", (await shops.owner("shop")).account.member_id, "shop")
    await shops.invite()
    await shops.invite("clerk@shop.example", merchant_id="shop")
    await shops.step("close")
    assert await states(shops) == {
        "acme": "CLOSED",
        "acme_test": "CLOSED",
        "shop": "TEST_ONLY",
        "shop_test": "TEST_ONLY",
    }
    living = [row.session_id for row in await shops.rows(SESSION) if row.revoked_at is None]
    assert living == ["S3"]
    open_links = [row.subject for row in await shops.rows(ONE_TIME_LINK) if row.used_at is None]
    assert len(open_links) == 1
    assert open_links[0].startswith("shop/")
    assert len(await shops.people()) == 1


@pytest.mark.parametrize(
    ("before", "verb"),
    [
        ((), "resume"),
        (("activate",), "activate"),
        (("suspend",), "suspend"),
        (("close",), "close"),
    ],
)
async def test_a_step_that_was_taken_finds_what_it_wanted_and_writes_nothing(
    shops: MerchantWorld, before: tuple[str, ...], verb: str
) -> None:
    await shops.merchant()
    for step in before:
        await shops.step(step)
    actions = len(await shops.rows(ADMIN_ACTION))
    versions = [row.version for row in await shops.rows(MERCHANT)]
    await shops.step(verb)
    assert len(await shops.rows(ADMIN_ACTION)) == actions
    assert [row.version for row in await shops.rows(MERCHANT)] == versions


@pytest.mark.parametrize(
    ("before", "verb"),
    [
        (("close",), "activate"),
        (("close",), "suspend"),
        (("close",), "resume"),
        (("suspend",), "activate"),
    ],
)
async def test_a_step_that_the_table_does_not_have_is_refused(
    shops: MerchantWorld, before: tuple[str, ...], verb: str
) -> None:
    await shops.merchant()
    for step in before:
        await shops.step(step)
    with pytest.raises(MerchantStateInvalid):
        await shops.step(verb)


@pytest.mark.parametrize("verb", ["activate", "suspend", "resume", "close"])
async def test_a_sign_up_that_is_not_confirmed_takes_no_step(
    shops: MerchantWorld, verb: str
) -> None:
    await shops.sign_up()
    with pytest.raises(MerchantStateInvalid):
        await shops.step(verb)


@pytest.mark.parametrize("verb", ["activate", "suspend", "resume", "close"])
async def test_a_sibling_takes_no_step_alone(shops: MerchantWorld, verb: str) -> None:
    await shops.merchant()
    with pytest.raises(MerchantStateInvalid) as refused:
        await shops.step(verb, "acme_test")
    assert "acme" in refused.value.fields["merchant_id"]


@pytest.mark.parametrize("verb", ["activate", "suspend", "resume", "close"])
async def test_a_merchant_that_is_not_there_takes_no_step(shops: MerchantWorld, verb: str) -> None:
    with pytest.raises(MerchantNotFound):
        await shops.step(verb)


async def test_of_equal_steps_at_once_one_is_written(shops: MerchantWorld) -> None:
    await shops.merchant()
    await asyncio.gather(*(shops.step("suspend") for _ in range(6)))
    methods = [row.method for row in await shops.rows(ADMIN_ACTION)]
    assert methods == ["ConfirmSignUp", "SuspendMerchant"]


async def test_a_step_is_in_the_log_with_who_why_and_what_changed(shops: MerchantWorld) -> None:
    await shops.merchant()
    await shops.step("suspend", reason="too many complaints")
    action = (await shops.rows(ADMIN_ACTION))[-1]
    assert (action.actor, action.method, action.target) == ("root", "SuspendMerchant", "acme")
    assert (action.reason, action.outcome) == ("too many complaints", "DONE")
    assert json.loads(action.before_json) == {"state": "TEST_ONLY"}
    assert json.loads(action.after_json) == {"state": "SUSPENDED"}


async def test_a_merchant_reads_itself_and_nobody_else(shops: MerchantWorld) -> None:
    await shops.merchant()
    await shops.merchant("shop")
    caller = as_member(await shops.owner())
    found = await shops.app.merchants.get(merchant_id="acme", caller=caller)
    assert found.name == "Acme"
    for stranger in ("shop", "acme_test", "nobody"):
        with pytest.raises(MerchantNotFound):
            await shops.app.merchants.get(merchant_id=stranger, caller=caller)
        with pytest.raises(MerchantNotFound):
            await shops.app.merchants.list_actions(
                merchant_id=stranger, page_size=0, page_token="", caller=caller
            )


async def test_merchants_are_listed_newest_first_without_their_siblings(
    shops: MerchantWorld,
) -> None:
    for merchant_id in ("one", "two", "three"):
        await shops.merchant(merchant_id)
    await shops.sign_up("four", "p@four.example")
    await shops.step("suspend", "two")

    async def listed(state: MerchantState | None, size: int) -> list[list[str]]:
        pages, token = [], ""
        while True:
            found, token = await shops.app.merchants.list_merchants(
                ListMerchants(state=state, page_size=size, page_token=token)
            )
            pages.append([merchant.merchant_id for merchant in found])
            if not token:
                return pages

    assert await listed(None, 3) == [["four", "three", "two"], ["one"]]
    assert await listed(STATES.TEST_ONLY, 1) == [["three"], ["one"]]
    assert await listed(STATES.SUSPENDED, 0) == [["two"]]
    assert await listed(STATES.LIVE, 0) == [[]]


async def test_merchants_of_one_moment_are_listed_once_each(shops: MerchantWorld) -> None:
    for at in range(4):
        await shops.sign_up(f"shop{at}", f"p{at}@acme.example")
    seen, token = [], ""
    for _ in range(4):
        found, token = await shops.app.merchants.list_merchants(
            ListMerchants(state=None, page_size=1, page_token=token)
        )
        seen += [merchant.merchant_id for merchant in found]
    assert (seen, token) == (["shop3", "shop2", "shop1", "shop0"], "")


async def test_a_page_token_of_another_filter_is_refused(shops: MerchantWorld) -> None:
    for at in range(2):
        await shops.sign_up(f"shop{at}", f"p{at}@acme.example")
    _, token = await shops.app.merchants.list_merchants(
        ListMerchants(state=None, page_size=1, page_token="")
    )
    with pytest.raises(PageTokenInvalid):
        await shops.app.merchants.list_merchants(
            ListMerchants(state=STATES.LIVE, page_size=1, page_token=token)
        )


async def test_actions_of_a_merchant_and_its_sibling_are_one_list(shops: MerchantWorld) -> None:
    await shops.merchant()
    await shops.merchant("shop")
    await shops.member(MemberRole.VIEWER)
    await shops.step("suspend")
    owner = as_member(await shops.owner(), merchant_id="acme_test")
    seen, token = [], ""
    for _ in range(4):
        found, token = await shops.app.merchants.list_actions(
            merchant_id="acme_test", page_size=1, page_token=token, caller=owner
        )
        seen += [action.method for action in found]
    assert seen == ["SuspendMerchant", "AcceptInvitation", "InviteMember", "ConfirmSignUp"]
    assert token == ""


async def test_the_log_shows_who_changed_it_behind_our_back(shops: MerchantWorld) -> None:
    await shops.merchant()
    await shops.step("suspend")
    rows = await shops.rows(ADMIN_ACTION)
    assert [row.chain_seq for row in rows] == [1, 2]
    assert len({row.chain_hash for row in rows}) == 2


async def test_open_links_of_other_kinds_outlive_a_merchant(shops: MerchantWorld) -> None:
    await shops.merchant()

    async def write(tx: object) -> str:
        return await shops.app.links.issue(tx, LinkKind.PASSWORD_RESET, "acme/x", {})  # type: ignore[arg-type]

    await shops.db.run(write)
    await shops.step("close")
    kinds = [row.kind for row in await shops.rows(ONE_TIME_LINK)]
    assert "PASSWORD_RESET" in kinds


async def test_an_administrator_sees_every_merchant(shops: MerchantWorld) -> None:
    await shops.merchant()
    for merchant_id in ("acme", "acme_test"):
        found = await shops.app.merchants.get(merchant_id=merchant_id, caller=ADMIN)
        assert found.merchant_id == merchant_id
