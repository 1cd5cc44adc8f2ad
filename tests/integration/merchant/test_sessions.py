"""Sessions after the log-in: refreshing, listing, ending, and what an old token does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest

from merchant_rpc.domain.errors import (
    MerchantNotFound,
    PersonRequired,
    SessionInvalid,
    SessionNotFound,
)
from merchant_rpc.domain.member import MemberRole, MemberState
from merchant_rpc.people_key import PeopleKey
from merchant_rpc.tables import ADMIN_ACTION, MEMBER, MEMBERSHIP, SESSION
from mesh.call import Caller, Role
from tests.builders.merchant_logins import (
    AWAY,
    HOME,
    OWNER,
    LoginWorld,
    caller_of,
    claims_of,
    login_world,
)

MINUTE, HOUR = 60, 3600


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[LoginWorld]:
    async with login_world(database_url) as world:
        await world.merchant("acme")
        await world.person(OWNER, "acme")
        yield world


async def refuse(world: LoginWorld, token: str) -> None:
    with pytest.raises(SessionInvalid):
        await world.refresh(token)


# --- refreshing -----------------------------------------------------------------------------------


async def test_a_refresh_gives_new_tokens_of_the_same_session(world: LoginWorld) -> None:
    first = await world.log_in()
    world.clock.advance(4 * MINUTE)
    second = await world.refresh(first.refresh_token, address=AWAY)
    assert second.session.session_id == first.session.session_id
    assert second.refresh_token != first.refresh_token
    assert claims_of(second)["exp"] - claims_of(first)["exp"] == 4 * MINUTE
    assert claims_of(second)["merchant_id"] == claims_of(first)["merchant_id"]
    [row] = await world.rows(SESSION)
    assert row.client_address == AWAY
    assert row.last_used_at == world.clock.now()
    assert row.expires_at == first.session.expires_at


async def test_a_session_that_is_not_used_ends_after_half_an_hour(world: LoginWorld) -> None:
    token = (await world.log_in()).refresh_token
    world.clock.advance(30 * MINUTE - 1)
    token = (await world.refresh(token)).refresh_token
    world.clock.advance(30 * MINUTE)
    await refuse(world, token)


async def test_a_session_ends_after_twelve_hours_however_it_is_used(world: LoginWorld) -> None:
    granted = await world.log_in()
    for _ in range(12 * 3 - 1):
        world.clock.advance(20 * MINUTE)
        granted = await world.refresh(granted.refresh_token)
    assert granted.session.idle_expires_at == granted.session.expires_at
    world.clock.advance(20 * MINUTE)
    await refuse(world, granted.refresh_token)


async def test_an_old_refresh_token_ends_the_session(world: LoginWorld) -> None:
    first = await world.log_in()
    second = await world.refresh(first.refresh_token)
    world.clock.advance(11)
    await refuse(world, first.refresh_token)
    await refuse(world, second.refresh_token)


async def test_a_token_from_before_the_last_one_ends_the_session_at_once(
    world: LoginWorld,
) -> None:
    first = await world.log_in()
    second = await world.refresh(first.refresh_token)
    third = await world.refresh(second.refresh_token)
    await refuse(world, first.refresh_token)
    await refuse(world, third.refresh_token)


async def test_the_token_before_gives_the_same_answer_for_ten_seconds(world: LoginWorld) -> None:
    first = await world.log_in()
    second = await world.refresh(first.refresh_token)
    world.clock.advance(10)
    again = await world.refresh(first.refresh_token)
    assert again.refresh_token == second.refresh_token
    assert await world.refresh(second.refresh_token)


async def test_two_refreshes_at_once_go_on_with_one_token(world: LoginWorld) -> None:
    first = await world.log_in()
    two = await asyncio.gather(*(world.refresh(first.refresh_token) for _ in range(2)))
    assert two[0].refresh_token == two[1].refresh_token
    assert await world.refresh(two[0].refresh_token)


async def test_ending_other_sessions_is_not_the_work_of_an_old_token(world: LoginWorld) -> None:
    first, other = await world.log_in(), await world.log_in()
    await world.refresh(first.refresh_token)
    world.clock.advance(11)
    await refuse(world, first.refresh_token)
    assert await world.refresh(other.refresh_token)


@pytest.mark.parametrize(
    "forge",
    [
        lambda token: "x" * 43,
        lambda token: token[:-1] + ("A" if token[-1] != "A" else "B"),
        lambda token: token.replace("_1_", "_2_"),
        lambda token: token.replace("_1_", "_0_"),
        lambda token: token.replace("_1_", "_01_"),
        lambda token: token.replace("SES0", "SES1", 1),
        lambda token: token.split("_")[0],
        lambda token: token + "A",
    ],
)
async def test_a_forged_token_is_refused_and_ends_nothing(
    world: LoginWorld, forge: Callable[[str], str]
) -> None:
    granted = await world.log_in()
    await refuse(world, forge(granted.refresh_token))
    assert await world.refresh(granted.refresh_token)


async def test_who_reads_the_database_can_make_no_token(world: LoginWorld) -> None:
    granted = await world.log_in()
    [row] = await world.rows(SESSION)
    assert granted.refresh_token.split("_", 2)[2] not in repr(row)
    other = PeopleKey({"1": b"2" * 32}, random_bytes=bytes)
    code = other.code(f"{row.session_id}|{row.rotation}|{row.refresh_seed}")
    await refuse(world, f"{row.session_id}_{row.rotation}_{code}")


async def test_a_person_who_was_disabled_goes_on_no_longer(world: LoginWorld) -> None:
    granted = await world.log_in()
    await world.update(MEMBER, state=MemberState.DISABLED)
    await refuse(world, granted.refresh_token)


async def test_another_role_counts_from_the_next_refresh_on(world: LoginWorld) -> None:
    granted = await world.log_in()
    await world.update(MEMBERSHIP, role=MemberRole.VIEWER)
    after = await world.refresh(granted.refresh_token)
    assert set(claims_of(after)["scopes"]) == MemberRole.VIEWER.scopes


async def test_who_was_removed_acts_for_the_merchant_no_longer(world: LoginWorld) -> None:
    granted = await world.log_in()
    async with world.db.engine.begin() as connection:
        await connection.execute(MEMBERSHIP.delete())
    with pytest.raises(MerchantNotFound):
        await world.refresh(granted.refresh_token)


async def test_a_refresh_can_change_to_another_merchant_of_the_person_and_no_other(
    world: LoginWorld,
) -> None:
    await world.merchant("other")
    granted = await world.log_in()
    assert claims_of(granted)["merchant_id"] == "acme_test"
    with pytest.raises(MerchantNotFound):
        await world.refresh(granted.refresh_token, merchant_id="other")
    granted = await world.refresh(granted.refresh_token, merchant_id="acme")
    assert claims_of(granted)["merchant_id"] == "acme"
    granted = await world.refresh(granted.refresh_token)
    assert claims_of(granted)["merchant_id"] == "acme"


async def test_an_operator_stays_one(world: LoginWorld) -> None:
    await world.person("root@pay.example", is_operator=True)
    granted = await world.refresh((await world.log_in("root@pay.example")).refresh_token)
    assert granted.is_operator
    await world.update(MEMBER, is_operator=False)
    with pytest.raises(MerchantNotFound):
        await world.refresh(granted.refresh_token)


# --- listing and ending ---------------------------------------------------------------------------


async def test_a_person_sees_his_living_sessions_newest_first(world: LoginWorld) -> None:
    await world.person("clerk@acme.example", "acme")
    await world.log_in("clerk@acme.example")
    first = await world.log_in()
    world.clock.advance(20 * MINUTE)
    second = await world.log_in(address=AWAY)
    listed = await world.app.sessions.list_sessions(caller_of(second))
    assert [one.session_id for one in listed] == [
        second.session.session_id,
        first.session.session_id,
    ]
    assert [one.client_address for one in listed] == [AWAY, HOME]
    world.clock.advance(11 * MINUTE)
    listed = await world.app.sessions.list_sessions(caller_of(second))
    assert [one.session_id for one in listed] == [second.session.session_id]


async def test_an_ended_session_is_refreshed_no_longer(world: LoginWorld) -> None:
    first, second = await world.log_in(), await world.log_in()
    await world.app.sessions.revoke_session(first.session.session_id, caller_of(second))
    await refuse(world, first.refresh_token)
    await world.app.sessions.revoke_session("current", caller_of(second))
    await refuse(world, second.refresh_token)
    methods = [row.method for row in await world.rows(ADMIN_ACTION)]
    assert methods.count("RevokeSession") == 2


async def test_nobody_ends_a_session_of_others_or_one_twice(world: LoginWorld) -> None:
    await world.person("clerk@acme.example", "acme")
    mine, others = await world.log_in(), await world.log_in("clerk@acme.example")
    for session_id in (others.session.session_id, "SES" + 26 * "0", "", "x"):
        with pytest.raises(SessionNotFound):
            await world.app.sessions.revoke_session(session_id, caller_of(mine))
    assert await world.refresh(others.refresh_token)
    await world.app.sessions.revoke_session("current", caller_of(mine))
    with pytest.raises(SessionNotFound):
        await world.app.sessions.revoke_session("current", caller_of(mine))


@pytest.mark.parametrize(
    "caller",
    [
        Caller(role=Role.MERCHANT, subject="key:K1", merchant_id="acme", scopes=frozenset()),
        Caller(role=Role.MERCHANT, subject="clerk", merchant_id="acme"),
        Caller(role=Role.ADMIN, subject="root"),
        Caller(role=Role.MERCHANT, subject="clerk", merchant_id="acme", session_id="S1"),
        Caller(role=Role.MERCHANT, subject="member:M1", merchant_id="acme"),
    ],
)
async def test_only_a_person_who_logged_in_here_has_sessions_and_a_second_factor(
    world: LoginWorld, caller: Caller
) -> None:
    for attempt in (
        world.app.sessions.list_sessions(caller),
        world.app.sessions.revoke_session("current", caller),
        world.app.second_factor.enrol("x", caller),
        world.app.second_factor.confirm("123456", caller),
        world.app.second_factor.disable("x", "123456", caller),
    ):
        with pytest.raises(PersonRequired):
            await attempt


async def test_ended_sessions_are_deleted_a_month_later(world: LoginWorld) -> None:
    await world.log_in()
    world.clock.advance(30 * 24 * HOUR + 12 * HOUR)
    assert await world.app.sessions.purge_once() == 0
    world.clock.advance(1)
    assert await world.app.sessions.purge_once() == 1
    assert await world.rows(SESSION) == []
