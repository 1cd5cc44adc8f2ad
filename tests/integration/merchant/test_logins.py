"""Logging in: who is let in, what nobody is told, and how long wrong attempts wait."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from merchant_rpc.domain.errors import (
    LoginDelayed,
    LoginFailed,
    MerchantNotFound,
    TotpRequired,
)
from merchant_rpc.domain.member import MemberRole, MemberState
from merchant_rpc.domain.merchant import MerchantState
from merchant_rpc.passwords import Passwords
from merchant_rpc.tables import ADMIN_ACTION, LOGIN_FAILURE, MEMBER, SESSION
from mesh.errors import Unavailable
from tests.builders.merchant_logins import (
    AWAY,
    HOME,
    OWNER,
    PASSWORD,
    LoginWorld,
    caller_of,
    claims_of,
    login_world,
)

WRONG = "wrong horse battery"


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[LoginWorld]:
    async with login_world(database_url) as world:
        await world.merchant("acme")
        await world.merchant("shop", MerchantState.LIVE)
        yield world


# --- who is let in --------------------------------------------------------------------------------


async def test_a_member_gets_a_token_for_five_minutes_with_the_rights_of_his_role(
    world: LoginWorld,
) -> None:
    member_id = await world.person(OWNER, "shop", role=MemberRole.FINANCE)
    granted = await world.log_in()
    claims = claims_of(granted)
    assert claims["sub"] == f"member:{member_id}"
    assert claims["sid"] == granted.session.session_id
    assert claims["merchant_id"] == "shop"
    assert claims["roles"] == ["merchant"]
    assert claims["exp"] - claims["iat"] == 300
    assert set(claims["scopes"]) == set(granted.scopes) == MemberRole.FINANCE.scopes
    assert granted.memberships == (("shop", MemberRole.FINANCE), ("shop_test", MemberRole.FINANCE))
    assert not granted.is_operator


async def test_who_logged_in_stands_in_the_log_of_the_merchant_and_nobody_else(
    world: LoginWorld,
) -> None:
    member_id = await world.person(OWNER, "shop")
    await world.person("root@pay.example", is_operator=True)
    with pytest.raises(LoginFailed):
        await world.log_in(password="wrong")
    granted = await world.log_in()
    operator = await world.log_in("root@pay.example")
    actions = await world.rows(ADMIN_ACTION)
    assert [(row.merchant_id, row.method, row.actor, row.target) for row in actions] == [
        ("shop", "CreateSession", f"member:{member_id}", granted.session.session_id),
        (
            "",
            "CreateSession",
            f"operator:{operator.session.member_id}",
            operator.session.session_id,
        ),
    ]
    assert {row.after_json for row in actions} == {'{"second_factor":false}'}


async def test_the_address_is_found_whatever_its_capitals_and_blanks(world: LoginWorld) -> None:
    await world.person(OWNER, "shop")
    assert await world.log_in(f" {OWNER.upper()} ")


@pytest.mark.parametrize(
    ("wanted", "acts_for"),
    [
        ("", "acme_test"),
        ("acme", "acme"),
        ("acme_test", "acme_test"),
        ("shop", "shop"),
        ("shop_test", "shop_test"),
    ],
)
async def test_for_whom_a_member_of_two_acts(world: LoginWorld, wanted: str, acts_for: str) -> None:
    await world.person(OWNER, "acme", "shop")
    assert claims_of(await world.log_in(merchant_id=wanted))["merchant_id"] == acts_for


@pytest.mark.parametrize("wanted", ["shop", "shop_test", "nobody", "acme_test_test"])
async def test_nobody_acts_for_a_merchant_of_others(world: LoginWorld, wanted: str) -> None:
    await world.person(OWNER, "acme")
    with pytest.raises(MerchantNotFound):
        await world.log_in(merchant_id=wanted)
    assert await world.rows(SESSION) == []


async def test_who_works_for_nobody_any_more_acts_for_nobody(world: LoginWorld) -> None:
    await world.person(OWNER)
    with pytest.raises(MerchantNotFound):
        await world.log_in()


async def test_an_operator_gets_a_token_of_the_operators_key(world: LoginWorld) -> None:
    member_id = await world.person(OWNER, is_operator=True)
    granted = await world.log_in()
    claims = claims_of(granted)
    assert granted.is_operator
    assert claims["sub"] == f"operator:{member_id}"
    assert claims["iss"] == "paymesh-operators"
    assert claims["roles"] == ["admin"]
    assert "merchant_id" not in claims
    assert "scopes" not in claims


async def test_an_operator_who_works_for_a_merchant_may_act_as_its_member(
    world: LoginWorld,
) -> None:
    await world.person(OWNER, "shop", is_operator=True)
    assert (await world.log_in()).is_operator
    as_member = await world.log_in(merchant_id="shop")
    assert claims_of(as_member)["iss"] == "paymesh-merchants"
    assert claims_of(as_member)["roles"] == ["merchant"]


async def test_without_their_key_no_operator_logs_in(database_url: str) -> None:
    async with login_world(database_url, operators=False) as world:
        await world.person(OWNER, is_operator=True)
        with pytest.raises(Unavailable):
            await world.log_in()
        assert await world.rows(SESSION) == []


async def test_a_hash_with_old_parameters_is_made_anew(world: LoginWorld) -> None:
    await world.person(OWNER, "shop")
    old = Passwords(memory_kib=16, rounds=1, lanes=1)
    await world.update(MEMBER, password_hash=await old.hash(PASSWORD))
    await old.close()

    await world.log_in()

    [row] = await world.rows(MEMBER)
    assert not world.passwords.is_outdated(row.password_hash)
    assert await world.log_in()


# --- who is not -----------------------------------------------------------------------------------


async def test_nobody_is_told_what_was_wrong(world: LoginWorld) -> None:
    await world.person(OWNER, "shop")
    await world.person("gone@acme.example", "shop", state=MemberState.DISABLED)
    await world.person("firm@acme.example", "shop", password=None)
    said = set()
    for email, password in (
        (OWNER, WRONG),
        (OWNER, PASSWORD + " "),
        ("nobody@acme.example", PASSWORD),
        ("gone@acme.example", PASSWORD),
        ("firm@acme.example", PASSWORD),
    ):
        with pytest.raises(LoginFailed) as refused:
            await world.log_in(email, password, address=f"198.51.100.{len(email)}")
        said.add((str(refused.value), refused.value.retry_after_seconds))
    assert len(said) == 1
    assert await world.rows(SESSION) == []


async def test_for_an_unknown_address_a_hash_is_computed_too(
    world: LoginWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str | None] = []
    verify = world.passwords.verify

    async def watched(password_hash: str | None, password: str) -> bool:
        seen.append(password_hash)
        return await verify(password_hash, password)

    monkeypatch.setattr(world.passwords, "verify", watched)
    with pytest.raises(LoginFailed):
        await world.log_in("nobody@acme.example")
    assert seen == [None]


async def test_a_password_that_was_changed_meanwhile_is_the_old_one(
    world: LoginWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.person(OWNER, "shop")
    other = await world.passwords.hash(WRONG)
    verify = world.passwords.verify

    async def changed_meanwhile(password_hash: str | None, password: str) -> bool:
        fits = await verify(password_hash, password)
        await world.update(MEMBER, password_hash=other)
        return fits

    monkeypatch.setattr(world.passwords, "verify", changed_meanwhile)
    with pytest.raises(LoginFailed):
        await world.log_in()


# --- waiting --------------------------------------------------------------------------------------


async def fail(world: LoginWorld, times: int, *, email: str = OWNER, address: str = HOME) -> None:
    for _ in range(times):
        with pytest.raises(LoginFailed):
            await world.log_in(email, WRONG, address=address)


async def wait_of(world: LoginWorld, *, email: str = OWNER, address: str = HOME) -> float:
    with pytest.raises(LoginDelayed) as refused:
        await world.log_in(email, PASSWORD, address=address)
    assert refused.value.retry_after_seconds is not None
    return refused.value.retry_after_seconds


async def test_after_five_wrong_ones_each_waits_twice_as_long_and_never_for_ever(
    world: LoginWorld,
) -> None:
    await world.person(OWNER, "shop")
    await fail(world, 5)
    waits = []
    for _ in range(13):
        await fail(world, 1)
        waits.append(await wait_of(world))
        world.clock.advance(waits[-1])
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900, 900]
    assert await world.log_in()


async def test_an_attempt_that_comes_too_early_is_not_looked_at_and_does_not_lengthen_the_wait(
    world: LoginWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.person(OWNER, "shop")
    await fail(world, 6)
    monkeypatch.setattr(world.passwords, "verify", None)  # nothing is hashed
    for _ in range(20):
        assert await wait_of(world) == 1


async def test_a_log_in_ends_the_wrong_attempts_of_its_account(world: LoginWorld) -> None:
    await world.person(OWNER, "shop")
    await fail(world, 4)
    await world.log_in()
    await fail(world, 4, address=AWAY)
    assert await world.log_in(address="192.0.2.1")


async def test_an_account_of_ones_own_does_not_free_an_address(world: LoginWorld) -> None:
    await world.person(OWNER, "shop")
    await world.person("thief@acme.example", "shop")
    for number in range(5):
        await fail(world, 1, email=f"victim{number}@acme.example")
        await world.log_in("thief@acme.example")
    await fail(world, 1, email="victim5@acme.example")
    assert await wait_of(world, email="victim6@acme.example") == 1


async def test_right_passwords_never_wait(world: LoginWorld) -> None:
    await world.person(OWNER, "shop")
    for _ in range(30):
        await world.log_in()


async def test_a_thousand_wrong_passwords_of_one_account_hold_up_nobody_else(
    world: LoginWorld, dialect: str
) -> None:
    await world.person(OWNER, "shop")
    await world.person("clerk@acme.example", "shop")
    times = 1000 if dialect == "sqlite" else 200
    checked = 0

    async def attack(number: int) -> None:
        nonlocal checked
        try:
            await world.log_in(OWNER, WRONG, address=f"198.51.{number // 250}.{number % 250}")
        except LoginFailed:
            checked += 1
        except LoginDelayed:
            pass

    for begin in range(0, times, 100):
        _, other = await asyncio.gather(
            asyncio.gather(*(attack(number) for number in range(begin, begin + 100))),
            world.log_in("clerk@acme.example"),
        )
        assert other.session
    assert checked == 6  # five for nothing, and the one after which the wait begins


async def test_attempts_at_one_moment_find_no_more_free_places_than_in_a_row(
    world: LoginWorld,
) -> None:
    await world.person(OWNER, "shop")
    results = await asyncio.gather(
        *(world.log_in(OWNER, WRONG) for _ in range(30)), return_exceptions=True
    )
    assert sum(isinstance(result, LoginFailed) for result in results) == 6
    assert sum(isinstance(result, LoginDelayed) for result in results) == 24


async def test_who_logged_in_from_an_address_before_is_not_held_up_by_others_attempts(
    world: LoginWorld,
) -> None:
    await world.person(OWNER, "shop")
    await world.log_in(address=HOME)
    for number in range(6):
        await fail(world, 1, address=f"198.51.100.{number}")
    assert await wait_of(world, address=AWAY) == 1
    assert await world.log_in(address=HOME)


async def test_a_known_address_has_a_wait_of_its_own(world: LoginWorld) -> None:
    await world.person(OWNER, "shop")
    await world.log_in(address=HOME)
    await fail(world, 6, address=HOME)
    assert await wait_of(world, address=HOME) == 1
    assert await world.log_in(address=AWAY)


async def test_the_addresses_of_one_ipv6_network_are_one(world: LoginWorld) -> None:
    await world.person(OWNER, "shop")
    for number in range(6):
        await fail(world, 1, email=f"v{number}@acme.example", address=f"2001:db8::{number + 1}")
    assert await wait_of(world, address="2001:db8::ffff") == 1
    assert await world.log_in(address="2001:db8:0:1::1")


async def test_an_address_without_an_account_waits_like_one_with_an_account(
    world: LoginWorld,
) -> None:
    for number in range(6):
        await fail(world, 1, email="nobody@acme.example", address=f"198.51.100.{number}")
    assert await wait_of(world, email="nobody@acme.example") == 1


async def test_neither_addresses_nor_accounts_are_kept_in_the_clear(world: LoginWorld) -> None:
    await fail(world, 1)
    text = repr(await world.rows(LOGIN_FAILURE))
    assert OWNER not in text
    assert HOME not in text


async def test_wrong_attempts_are_forgotten_after_a_day(world: LoginWorld) -> None:
    await world.person(OWNER, "shop")
    await fail(world, 6)
    world.clock.advance(24 * 3600 - 1)
    assert await world.app.attempts.purge_once(world.db) == 0
    await fail(world, 1)  # it is the seventh
    assert await wait_of(world) == 2
    world.clock.advance(24 * 3600 + 1)
    assert await world.app.attempts.purge_once(world.db) == 2
    await fail(world, 5)
    assert await world.log_in()


# --- the second factor ----------------------------------------------------------------------------


async def test_a_code_is_asked_for_only_after_the_right_password(world: LoginWorld) -> None:
    await world.person(OWNER, "shop")
    totp, _ = await world.enrol(caller_of(await world.log_in()))
    with pytest.raises(TotpRequired):
        await world.log_in()
    with pytest.raises(LoginFailed):
        await world.log_in(password=WRONG)
    world.clock.advance(30)
    with pytest.raises(LoginFailed):
        await world.log_in(password=WRONG, code=totp.at(world.clock.now()))
    assert await world.log_in(code=totp.at(world.clock.now()))


async def test_wrong_codes_wait_like_wrong_passwords(world: LoginWorld) -> None:
    await world.person(OWNER, "shop")
    totp, _ = await world.enrol(caller_of(await world.log_in()))
    world.clock.advance(30)
    right = totp.at(world.clock.now())
    wrong = f"{(int(right) + 1) % 1_000_000:06d}"
    for _ in range(6):
        with pytest.raises(LoginFailed):
            await world.log_in(code=wrong)
        with pytest.raises((TotpRequired, LoginDelayed)):
            await world.log_in()  # to ask again ends no wait
    with pytest.raises(LoginDelayed):
        await world.log_in(code=right)


async def test_asking_for_the_code_is_no_wrong_attempt(world: LoginWorld) -> None:
    await world.person(OWNER, "shop")
    await world.enrol(caller_of(await world.log_in()))
    for _ in range(20):
        with pytest.raises(TotpRequired):
            await world.log_in()


async def test_a_code_works_once(world: LoginWorld) -> None:
    await world.person(OWNER, "shop")
    totp, _ = await world.enrol(caller_of(await world.log_in()))
    enrolled_with = totp.at(world.clock.now())
    with pytest.raises(LoginFailed):
        await world.log_in(code=enrolled_with)
    world.clock.advance(30)
    code = totp.at(world.clock.now())
    await world.log_in(code=code)
    with pytest.raises(LoginFailed):
        await world.log_in(code=code)
    with pytest.raises(LoginFailed):  # an earlier step of the window is over too
        await world.log_in(code=enrolled_with)


async def test_twenty_uses_of_one_code_at_once_are_one_log_in(world: LoginWorld) -> None:
    await world.person(OWNER, "shop")
    totp, codes = await world.enrol(caller_of(await world.log_in()))
    world.clock.advance(30)
    for code in (totp.at(world.clock.now()), codes[0]):
        results = await asyncio.gather(
            *(world.log_in(code=code, address=f"198.51.100.{number}") for number in range(20)),
            return_exceptions=True,
        )
        assert sum(not isinstance(result, BaseException) for result in results) == 1
        assert {type(result) for result in results if isinstance(result, BaseException)} <= {
            LoginFailed,
            LoginDelayed,
        }
        world.clock.advance(3600)
        await world.app.attempts.purge_once(world.db)


async def test_a_recovery_code_is_one_log_in_however_it_is_typed(world: LoginWorld) -> None:
    await world.person(OWNER, "shop")
    _, codes = await world.enrol(caller_of(await world.log_in()))
    assert len(set(codes)) == 10
    await world.log_in(code=codes[3].upper().replace("-", ""))
    with pytest.raises(LoginFailed):
        await world.log_in(code=codes[3])
    await world.log_in(code=codes[4])


async def test_a_recovery_code_of_somebody_else_is_none(world: LoginWorld) -> None:
    await world.person(OWNER, "shop")
    await world.person("clerk@acme.example", "shop")
    await world.enrol(caller_of(await world.log_in()))
    _, codes = await world.enrol(caller_of(await world.log_in("clerk@acme.example")))
    with pytest.raises(LoginFailed):
        await world.log_in(code=codes[0])
