"""Who works for a merchant, and how they join."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from sqlalchemy import delete, insert, update

from merchant_rpc.domain.errors import (
    LastOwner,
    LinkInvalid,
    LoginDelayed,
    LoginFailed,
    MailUnavailable,
    MemberLimitReached,
    MemberNotFound,
    MerchantStateInvalid,
    PersonRequired,
    ScopeNotHeld,
)
from merchant_rpc.domain.member import MEMBERS_MAX, MemberRole
from merchant_rpc.tables import ADMIN_ACTION, MEMBER, MEMBERSHIP, ONE_TIME_LINK, SESSION
from mesh.call import Caller, Role
from mesh.errors import InvalidArgument
from tests.builders.merchant import MerchantWorld, as_member

OTHERS = [role for role in MemberRole if role is not MemberRole.OWNER]
KEY = Caller(role=Role.MERCHANT, subject="key:AK1", merchant_id="acme")
STAFF = Caller(role=Role.MERCHANT, subject="clerk", merchant_id="acme")


@pytest.fixture
async def acme(shops: MerchantWorld) -> MerchantWorld:
    """With one merchant."""
    await shops.merchant()
    return shops


# --- joining --------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", list(MemberRole))
async def test_who_accepts_works_for_the_merchant_as_he_was_invited(
    acme: MerchantWorld, role: MemberRole
) -> None:
    token = await acme.invite("Clerk@Acme.example", role)
    _, membership = await acme.accept(token, name="  Kim ")
    assert membership is not None
    assert (membership.role, membership.merchant_id) == (role, "acme")
    assert (membership.account.email, membership.account.name) == ("clerk@acme.example", "Kim")
    owner = (await acme.people())[0]
    assert membership.invited_by == f"member:{owner.account.member_id}"
    assert await acme.people("acme_test") == [owner, membership]


async def test_a_person_with_an_account_joins_with_his_password(acme: MerchantWorld) -> None:
    await acme.merchant("shop")
    token = await acme.invite("owner@shop.example")
    account, membership = await acme.accept(token)
    assert membership is not None
    assert account == (await acme.owner("shop")).account
    assert len(await acme.rows(MEMBER)) == 2


async def test_a_wrong_password_joins_nobody_and_leaves_the_link(acme: MerchantWorld) -> None:
    await acme.merchant("shop")
    token = await acme.invite("owner@shop.example")
    with pytest.raises(LoginFailed):
        await acme.accept(token, password="not his password")
    assert len(await acme.people()) == 1
    await acme.accept(token)


async def test_passwords_are_not_tried_by_an_invitation(acme: MerchantWorld) -> None:
    await acme.merchant("shop")
    token = await acme.invite("owner@shop.example")
    for at in range(5):
        with pytest.raises(LoginFailed):
            await acme.accept(token, password=f"guess number {at}", address=f"203.0.{at}.1")
    with pytest.raises(LoginDelayed):
        await acme.accept(token, address="203.0.9.1")


async def test_a_disabled_account_joins_nothing(acme: MerchantWorld) -> None:
    await acme.merchant("shop")
    token = await acme.invite("owner@shop.example")
    async with acme.db.engine.begin() as connection:
        await connection.execute(update(MEMBER).values(state="DISABLED"))
    with pytest.raises(LoginFailed):
        await acme.accept(token)


async def test_an_account_that_began_meanwhile_keeps_its_password(acme: MerchantWorld) -> None:
    token = await acme.invite()
    said = "clerk@acme.example"
    hashed = await acme.passwords.hash("whatever it is")
    await acme.sign_up("other", said, address="198.51.100.1")
    await acme.confirm()
    with pytest.raises(LoginFailed):
        await acme.db.run(acme.app.invitations._account, said, "", hashed)
    _, membership = await acme.accept(token)
    assert membership is not None


async def test_an_invitation_works_once(acme: MerchantWorld) -> None:
    token = await acme.invite()
    answers = await asyncio.gather(
        *(acme.accept(token, address=f"203.0.113.{at}") for at in range(4)),
        return_exceptions=True,
    )
    assert sum(not isinstance(answer, BaseException) for answer in answers) == 1
    assert len(await acme.people()) == 2


async def test_an_invitation_ends_after_a_day(acme: MerchantWorld) -> None:
    token = await acme.invite()
    acme.clock.advance(24 * 3600)
    with pytest.raises(LinkInvalid):
        await acme.accept(token)


async def test_only_the_last_mail_works(acme: MerchantWorld) -> None:
    first = await acme.invite(role=MemberRole.ADMIN)
    second = await acme.invite(role=MemberRole.VIEWER)
    with pytest.raises(LinkInvalid):
        await acme.accept(first)
    _, membership = await acme.accept(second)
    assert membership is not None
    assert membership.role is MemberRole.VIEWER


async def test_an_invitation_of_somebody_who_left_is_worth_nothing(acme: MerchantWorld) -> None:
    boss = await acme.member(MemberRole.OWNER, "boss@acme.example")
    token = await acme.invite(caller=as_member(boss))
    await acme.remove(boss.account.member_id, as_member(await acme.owner()))
    with pytest.raises(LinkInvalid):
        await acme.accept(token)


async def test_an_invitation_of_somebody_who_may_less_now_is_worth_nothing(
    acme: MerchantWorld,
) -> None:
    boss = await acme.member(MemberRole.OWNER, "boss@acme.example")
    token = await acme.invite(caller=as_member(boss))
    owner = as_member(await acme.owner())
    await acme.set_role(boss.account.member_id, MemberRole.ADMIN, owner)
    with pytest.raises(LinkInvalid):
        await acme.accept(token)


async def test_nobody_joins_a_closed_merchant(acme: MerchantWorld) -> None:
    token = await acme.invite()
    owner = as_member(await acme.owner())
    await acme.step("close")
    with pytest.raises(LinkInvalid):
        await acme.accept(token)
    with pytest.raises(MerchantStateInvalid):
        await acme.invite(caller=owner)


async def test_a_member_is_not_invited_again(acme: MerchantWorld) -> None:
    await acme.member()
    with pytest.raises(InvalidArgument, match="email"):
        await acme.invite("CLERK@acme.example")


async def test_without_mail_nobody_is_invited(acme: MerchantWorld) -> None:
    links = len(await acme.rows(ONE_TIME_LINK))
    with pytest.raises(MailUnavailable):
        await acme.invite(app=acme.make(logs_mail=False))
    assert len(await acme.rows(ONE_TIME_LINK)) == links


async def test_nobodys_mailbox_is_filled_with_invitations(acme: MerchantWorld) -> None:
    for _ in range(5):
        await acme.invite()
    with pytest.raises(LoginDelayed):
        await acme.invite()


async def crowd(shops: MerchantWorld, count: int) -> None:
    """Makes so many further members."""
    now = shops.clock.now()
    people = [f"M{at:03d}" for at in range(count)]
    async with shops.db.engine.begin() as connection:
        await connection.execute(
            insert(MEMBER),
            [
                {
                    "member_id": person,
                    "email_digest": person.rjust(64, "0"),
                    "email": f"{person}@acme.example".lower(),
                    "name": "",
                    "state": "ACTIVE",
                    "is_operator": False,
                    "created_at": now,
                    "updated_at": now,
                }
                for person in people
            ],
        )
        await connection.execute(
            insert(MEMBERSHIP),
            [
                {
                    "merchant_id": "acme",
                    "member_id": person,
                    "role": "VIEWER",
                    "invited_by": "",
                    "created_at": now,
                    "updated_at": now,
                }
                for person in people
            ],
        )


async def test_fifty_members_and_open_invitations_are_the_most(acme: MerchantWorld) -> None:
    await crowd(acme, MEMBERS_MAX - 3)
    first = await acme.invite("a@acme.example")
    await acme.invite("b@acme.example")
    with pytest.raises(MemberLimitReached):
        await acme.invite("c@acme.example")
    await acme.invite("b@acme.example")  # the same one again
    await acme.accept(first)
    with pytest.raises(MemberLimitReached):
        await acme.invite("c@acme.example")
    acme.clock.advance(24 * 3600)  # the invitation of b has ended
    await acme.invite("c@acme.example")


async def test_invitations_of_a_merchant_with_a_longer_name_do_not_count(
    acme: MerchantWorld,
) -> None:
    await acme.merchant("acme2")
    await acme.merchant("acme-x")
    await crowd(acme, MEMBERS_MAX - 2)
    await acme.invite("a@acme.example", merchant_id="acme2")
    await acme.invite("a@acme.example", merchant_id="acme-x")
    await acme.invite("b@acme.example")


async def test_nobody_joins_a_full_merchant(acme: MerchantWorld) -> None:
    token = await acme.invite()
    await crowd(acme, MEMBERS_MAX - 1)
    with pytest.raises(MemberLimitReached):
        await acme.accept(token)
    assert len(await acme.people()) == MEMBERS_MAX


# --- rights ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", OTHERS)
async def test_only_owners_change_people(acme: MerchantWorld, role: MemberRole) -> None:
    owner = await acme.owner()
    caller = replace(as_member(await acme.member(role)), scopes=None)
    for attempt in (
        acme.invite("x@acme.example", MemberRole.VIEWER, caller=caller),
        acme.set_role(owner.account.member_id, MemberRole.VIEWER, caller),
        acme.remove(owner.account.member_id, caller),
    ):
        with pytest.raises(ScopeNotHeld):
            await attempt


async def test_a_token_gives_no_more_than_it_says(acme: MerchantWorld) -> None:
    owner = await acme.owner()
    with pytest.raises(ScopeNotHeld) as refused:
        await acme.invite(
            "x@acme.example",
            MemberRole.SUPPORT,
            caller=as_member(owner, scopes=frozenset({"members:write", "members:read"})),
        )
    assert "SUPPORT" in refused.value.fields["role"]


async def test_a_token_is_worth_no_more_than_the_role_is_now(acme: MerchantWorld) -> None:
    boss = await acme.member(MemberRole.OWNER, "boss@acme.example")
    old_token = as_member(boss)
    owner = await acme.owner()
    await acme.set_role(boss.account.member_id, MemberRole.VIEWER, as_member(owner))
    with pytest.raises(ScopeNotHeld):
        await acme.remove(owner.account.member_id, old_token)


@pytest.mark.parametrize("caller", [KEY, STAFF], ids=["a key", "staff of another issuer"])
async def test_people_are_the_business_of_people(acme: MerchantWorld, caller: Caller) -> None:
    member_id = (await acme.owner()).account.member_id
    for attempt in (
        acme.invite("x@acme.example", caller=caller),
        acme.set_role(member_id, MemberRole.VIEWER, caller),
        acme.remove(member_id, caller),
    ):
        with pytest.raises(PersonRequired):
            await attempt


async def test_a_key_does_not_even_list_them(acme: MerchantWorld) -> None:
    with pytest.raises(PersonRequired):
        await acme.app.members.list_members(merchant_id="acme", caller=KEY)


async def test_an_owner_of_another_merchant_changes_nobody(acme: MerchantWorld) -> None:
    await acme.merchant("shop")
    member_id = (await acme.owner()).account.member_id
    stranger = replace(as_member(await acme.owner("shop")), merchant_id="acme")
    with pytest.raises(ScopeNotHeld):
        await acme.remove(member_id, stranger)


async def test_a_merchant_that_is_not_there_has_no_people(acme: MerchantWorld) -> None:
    owner = as_member(await acme.owner())
    with pytest.raises(PersonRequired):
        await acme.invite("x@acme.example", merchant_id="nobody", caller=owner)
    assert await acme.people("nobody") == []


async def test_who_acts_for_the_sibling_changes_the_same_people(acme: MerchantWorld) -> None:
    clerk = await acme.member()
    owner = as_member(await acme.owner(), merchant_id="acme_test")
    changed = await acme.set_role(
        clerk.account.member_id, MemberRole.VIEWER, owner, merchant_id="acme_test"
    )
    assert (changed.merchant_id, changed.role) == ("acme", MemberRole.VIEWER)
    await acme.remove(clerk.account.member_id, owner, merchant_id="acme_test")
    assert len(await acme.people()) == 1


# --- owners ---------------------------------------------------------------------------------------


async def test_the_last_owner_stays_owner(acme: MerchantWorld) -> None:
    owner = await acme.owner()
    caller = as_member(owner)
    with pytest.raises(LastOwner):
        await acme.set_role(owner.account.member_id, MemberRole.ADMIN, caller)
    with pytest.raises(LastOwner):
        await acme.remove(owner.account.member_id, caller)


async def test_an_owner_who_cannot_log_in_does_not_count(acme: MerchantWorld) -> None:
    boss = await acme.member(MemberRole.OWNER, "boss@acme.example")
    owner = await acme.owner()
    async with acme.db.engine.begin() as connection:
        await connection.execute(
            update(MEMBER)
            .where(MEMBER.c.member_id == boss.account.member_id)
            .values(state="DISABLED")
        )
    with pytest.raises(LastOwner):
        await acme.remove(owner.account.member_id, as_member(owner))


async def test_of_two_owners_who_remove_each_other_at_once_one_stays(acme: MerchantWorld) -> None:
    boss = await acme.member(MemberRole.OWNER, "boss@acme.example")
    owner = await acme.owner()
    answers = await asyncio.gather(
        acme.remove(boss.account.member_id, as_member(owner)),
        acme.remove(owner.account.member_id, as_member(boss)),
        return_exceptions=True,
    )
    assert sum(answer is None for answer in answers) == 1
    assert [each.role for each in await acme.people()] == [MemberRole.OWNER]


async def test_an_owner_may_leave_while_another_stays(acme: MerchantWorld) -> None:
    boss = await acme.member(MemberRole.OWNER, "boss@acme.example")
    owner = await acme.owner()
    await acme.remove(owner.account.member_id, as_member(owner))
    assert [each.account for each in await acme.people()] == [boss.account]


# --- what happens to them -------------------------------------------------------------------------


async def test_a_removed_member_loses_his_sessions_for_this_merchant_only(
    acme: MerchantWorld,
) -> None:
    await acme.merchant("shop")
    clerk = await acme.member()
    member_id = clerk.account.member_id
    for session_id, merchant_id in (("S1", "acme"), ("S2", "acme_test"), ("S3", "shop")):
        await acme.session(session_id, member_id, merchant_id)
    await acme.session("S4", (await acme.owner()).account.member_id, "acme")
    await acme.remove(member_id, as_member(await acme.owner()))
    living = [row.session_id for row in await acme.rows(SESSION) if row.revoked_at is None]
    assert living == ["S3", "S4"]
    assert len(await acme.rows(MEMBER)) == 3


@pytest.mark.parametrize("member_id", ["MEM9", "of another"])
async def test_who_does_not_work_here_is_not_found(acme: MerchantWorld, member_id: str) -> None:
    await acme.merchant("shop")
    if member_id == "of another":
        member_id = (await acme.owner("shop")).account.member_id
    caller = as_member(await acme.owner())
    with pytest.raises(MemberNotFound):
        await acme.set_role(member_id, MemberRole.VIEWER, caller)
    with pytest.raises(MemberNotFound):
        await acme.remove(member_id, caller)


@pytest.mark.parametrize("merchant_id", ["acme", "acme_test"])
async def test_who_was_removed_is_removed_again_and_nothing_happens(
    acme: MerchantWorld, merchant_id: str
) -> None:
    member_id = (await acme.member()).account.member_id
    owner = as_member(await acme.owner())
    await acme.remove(member_id, owner, merchant_id=merchant_id)
    await acme.session("S1", member_id, "acme")
    before = [await acme.rows(table) for table in (ADMIN_ACTION, MEMBERSHIP, SESSION)]
    await acme.remove(member_id, owner, merchant_id=merchant_id)
    assert [await acme.rows(table) for table in (ADMIN_ACTION, MEMBERSHIP, SESSION)] == before
    with pytest.raises(MemberNotFound):
        await acme.set_role(member_id, MemberRole.VIEWER, owner)


async def test_who_was_removed_elsewhere_or_only_changed_here_is_not_found(
    acme: MerchantWorld,
) -> None:
    await acme.merchant("shop")
    boss, owner = as_member(await acme.owner("shop")), as_member(await acme.owner())
    clerk = await acme.member(email="clerk@shop.example", merchant_id="shop")
    await acme.remove(clerk.account.member_id, boss, merchant_id="shop")
    with pytest.raises(MemberNotFound):
        await acme.remove(clerk.account.member_id, owner)
    own = await acme.member(email="own@acme.example")
    await acme.set_role(own.account.member_id, MemberRole.VIEWER, owner)
    async with acme.db.engine.begin() as connection:
        await connection.execute(
            delete(MEMBERSHIP).where(MEMBERSHIP.c.member_id == own.account.member_id)
        )
    with pytest.raises(MemberNotFound):
        await acme.remove(own.account.member_id, owner)


async def test_who_came_back_is_removed_a_second_time(acme: MerchantWorld) -> None:
    owner = as_member(await acme.owner())
    member_id = (await acme.member()).account.member_id
    await acme.remove(member_id, owner)
    assert (await acme.member()).account.member_id == member_id
    await acme.remove(member_id, owner)
    assert [each.account.member_id for each in await acme.people()] != [member_id]
    methods = [action.method for action in await acme.rows(ADMIN_ACTION)]
    assert methods.count("RemoveMember") == 2


async def test_who_may_not_remove_is_refused_also_the_second_time(acme: MerchantWorld) -> None:
    owner = as_member(await acme.owner())
    member_id = (await acme.member()).account.member_id
    viewer = await acme.member(MemberRole.VIEWER, "viewer@acme.example")
    await acme.remove(member_id, owner)
    for caller in (as_member(viewer), replace(owner, scopes=frozenset({"members:read"}))):
        with pytest.raises(ScopeNotHeld):
            await acme.remove(member_id, caller)
    with pytest.raises(PersonRequired):
        await acme.remove(member_id, replace(owner, subject="key:K1"))


async def test_the_same_role_again_changes_nothing(acme: MerchantWorld) -> None:
    clerk = await acme.member()
    actions = len(await acme.rows(ADMIN_ACTION))
    caller = as_member(await acme.owner())
    assert await acme.set_role(clerk.account.member_id, clerk.role, caller) == clerk
    assert len(await acme.rows(ADMIN_ACTION)) == actions


async def test_each_change_is_in_the_log_without_an_address(acme: MerchantWorld) -> None:
    clerk = await acme.member()
    owner = as_member(await acme.owner())
    await acme.set_role(clerk.account.member_id, MemberRole.ADMIN, owner)
    await acme.remove(clerk.account.member_id, owner)
    actions = await acme.rows(ADMIN_ACTION)
    assert [action.method for action in actions[1:]] == [
        "InviteMember",
        "AcceptInvitation",
        "SetMemberRole",
        "RemoveMember",
    ]
    assert "@" not in repr(actions)
    assert actions[3].before_json == '{"role":"SUPPORT"}'
    assert actions[3].reason == "a new job"


# --- operators ------------------------------------------------------------------------------------


async def test_a_link_of_an_operator_makes_an_operator_of_no_merchant(
    acme: MerchantWorld,
) -> None:
    token = await acme.db.run(acme.app.operators.invite, "root@pay.example", actor="shell")
    account, membership = await acme.accept(token, name="Root")
    assert membership is None
    assert (account.is_operator, account.name) == (True, "Root")
    with pytest.raises(LinkInvalid):
        await acme.accept(token)


async def test_a_member_becomes_an_operator_with_his_password_only(acme: MerchantWorld) -> None:
    token = await acme.db.run(acme.app.operators.invite, "owner@acme.example", actor="shell")
    with pytest.raises(LoginFailed):
        await acme.accept(token, password="not his password")
    account, _ = await acme.accept(token)
    assert account.is_operator
    assert (await acme.owner()).account == account
