"""Enrolling, confirming and ending a second factor; resetting a password."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pyotp
import pytest

from merchant_rpc.audit import AUDIT
from merchant_rpc.domain.errors import (
    LinkInvalid,
    LoginDelayed,
    LoginFailed,
    MailUnavailable,
    SessionInvalid,
    TotpAlreadyEnrolled,
    TotpInvalid,
    TotpRequired,
)
from merchant_rpc.domain.member import MemberState
from merchant_rpc.tables import ADMIN_ACTION, LOGIN_FAILURE, MEMBER, ONE_TIME_LINK, RECOVERY_CODE
from merchant_rpc.usecases.password_resets import ResetPassword
from mesh.audit import AuditTolerance
from mesh.call import Caller
from tests.builders.merchant_logins import (
    AWAY,
    HOME,
    OWNER,
    PASSWORD,
    LoginWorld,
    caller_of,
    login_world,
)

NEW = "a new and longer password"


@pytest.fixture
async def world(database_url: str) -> AsyncIterator[LoginWorld]:
    async with login_world(database_url) as world:
        await world.merchant("acme")
        await world.person(OWNER, "acme")
        yield world


@pytest.fixture
async def owner(world: LoginWorld) -> Caller:
    return caller_of(await world.log_in())


async def test_nothing_changes_before_a_code_was_seen(world: LoginWorld, owner: Caller) -> None:
    secret, uri = await world.app.second_factor.enrol(PASSWORD, owner)
    parsed = pyotp.parse_uri(uri)
    assert (parsed.name, parsed.issuer, parsed.secret) == (OWNER, "paymesh", secret)
    assert await world.log_in()
    with pytest.raises(TotpInvalid):
        await world.app.second_factor.confirm("000000", owner)
    assert await world.log_in()
    assert (
        len(await world.app.second_factor.confirm(pyotp.TOTP(secret).at(world.clock.now()), owner))
        == 10
    )
    with pytest.raises(TotpRequired):
        await world.log_in()


async def test_nothing_is_confirmed_that_was_not_begun(world: LoginWorld, owner: Caller) -> None:
    with pytest.raises(TotpInvalid):
        await world.app.second_factor.confirm("000000", owner)


async def test_codes_are_not_tried_out_before_they_count(world: LoginWorld, owner: Caller) -> None:
    secret, _ = await world.app.second_factor.enrol(PASSWORD, owner)
    right = pyotp.TOTP(secret).at(world.clock.now())
    wrong = "000000" if right != "000000" else "000001"
    for _ in range(6):
        with pytest.raises(TotpInvalid):
            await world.app.second_factor.confirm(wrong, owner)
    with pytest.raises(LoginDelayed):
        await world.app.second_factor.confirm(right, owner)
    world.clock.advance(1)
    await world.app.second_factor.confirm(right, owner)


async def test_the_last_secret_that_was_shown_counts(world: LoginWorld, owner: Caller) -> None:
    first, _ = await world.app.second_factor.enrol(PASSWORD, owner)
    second, _ = await world.app.second_factor.enrol(PASSWORD, owner)
    now = world.clock.now()
    with pytest.raises(TotpInvalid):
        await world.app.second_factor.confirm(pyotp.TOTP(first).at(now), owner)
    await world.app.second_factor.confirm(pyotp.TOTP(second).at(now), owner)


async def test_a_second_enrolment_needs_the_end_of_the_first(
    world: LoginWorld, owner: Caller
) -> None:
    totp, _ = await world.enrol(owner)
    with pytest.raises(TotpAlreadyEnrolled):
        await world.app.second_factor.enrol(PASSWORD, owner)
    with pytest.raises(TotpAlreadyEnrolled):
        await world.app.second_factor.confirm(totp.at(world.clock.now()), owner)


async def test_enrolling_and_ending_need_the_password_and_wrong_ones_wait(
    world: LoginWorld, owner: Caller
) -> None:
    with pytest.raises(LoginFailed):
        await world.app.second_factor.enrol("wrong", owner)
    _, codes = await world.enrol(owner)
    for _ in range(5):
        with pytest.raises(LoginFailed):
            await world.app.second_factor.disable("wrong", codes[0], owner)
    with pytest.raises(LoginDelayed):
        await world.app.second_factor.disable(PASSWORD, codes[0], owner)
    world.clock.advance(1)
    await world.app.second_factor.disable(PASSWORD, codes[0], owner)


async def test_ending_needs_a_code_and_wrong_ones_wait(world: LoginWorld, owner: Caller) -> None:
    totp, _ = await world.enrol(owner)
    used = totp.at(world.clock.now())
    for code in (used, "aaaa-aaaa-aaaa-aaaa", "000000", "1", "x" * 32, "zzzz"):
        with pytest.raises(TotpInvalid):
            await world.app.second_factor.disable(PASSWORD, code, owner)
    with pytest.raises(LoginDelayed):
        await world.app.second_factor.disable(PASSWORD, "000000", owner)
    world.clock.advance(30)
    await world.app.second_factor.disable(PASSWORD, totp.at(world.clock.now()), owner)
    assert await world.log_in()
    assert await world.rows(RECOVERY_CODE) == []
    assert [row.method for row in await world.rows(ADMIN_ACTION)] == [
        "CreateSession",
        "ConfirmTotp",
        "DisableTotp",
        "CreateSession",
    ]


async def test_neither_secret_nor_recovery_code_is_in_the_database(
    world: LoginWorld, owner: Caller
) -> None:
    totp, codes = await world.enrol(owner)
    text = repr([await world.rows(MEMBER), await world.rows(RECOVERY_CODE)])
    for secret in (totp.secret, *codes, *(code.replace("-", "") for code in codes)):
        assert secret not in text


async def test_the_secret_of_one_person_is_nothing_in_the_row_of_another(
    world: LoginWorld, owner: Caller
) -> None:
    await world.enrol(owner)
    [row] = await world.rows(MEMBER)
    clerk = await world.person("clerk@acme.example", "acme")
    await world.update(MEMBER, totp_secret_enc=row.totp_secret_enc, totp_last_step=None)
    world.clock.advance(30)
    secret = world.key.decrypt(row.totp_secret_enc, owner=row.member_id)
    assert clerk != row.member_id
    with pytest.raises(LoginFailed):
        await world.log_in("clerk@acme.example", code=pyotp.TOTP(secret).at(world.clock.now()))


async def test_twenty_ends_at_once_use_one_recovery_code_once(
    world: LoginWorld, owner: Caller
) -> None:
    _, codes = await world.enrol(owner)
    results = await asyncio.gather(
        *(world.app.second_factor.disable(PASSWORD, codes[0], owner) for _ in range(20)),
        return_exceptions=True,
    )
    assert results.count(None) == 1
    assert {type(one) for one in results if one is not None} <= {TotpInvalid, LoginDelayed}


async def broken_chains(world: LoginWorld) -> list[str]:
    """What the audit finds of the log of actions."""
    tolerance = AuditTolerance(now=world.clock.now(), strict=False)
    return [
        found.check
        async for found in AUDIT.violations(world.db, tolerance)
        if "chain" in found.check
    ]


# --- resetting a password -------------------------------------------------------------------------


async def ask(world: LoginWorld, email: str = OWNER, *, address: str = HOME) -> None:
    await world.app.password_resets.request_password_reset(email, address)


async def token_of_mail(world: LoginWorld) -> str:
    return str(json.loads((await world.mails())[-1].payload)["link"].partition("#token=")[2])


async def reset(world: LoginWorld, token: str, *, address: str = HOME) -> None:
    await world.app.password_resets.reset_password(
        ResetPassword(token=token, password=NEW, client_address=address)
    )


async def test_a_new_password_ends_every_session_and_the_old_password(
    world: LoginWorld,
) -> None:
    sessions = [await world.log_in() for _ in range(3)]
    await ask(world)
    await reset(world, await token_of_mail(world))
    for session in sessions:
        with pytest.raises(SessionInvalid):
            await world.refresh(session.refresh_token)
    with pytest.raises(LoginFailed):
        await world.log_in()
    assert await world.log_in(password=NEW)
    methods = [action.method for action in await world.rows(ADMIN_ACTION)]
    assert methods == ["CreateSession"] * 3 + ["ResetPassword", "CreateSession"]


async def test_a_reset_stands_in_the_log_of_each_merchant_of_the_person(world: LoginWorld) -> None:
    await world.merchant("beta")
    await world.person("boss@firm.example", "beta", "acme")
    await world.person("root@pay.example", is_operator=True)
    for email in ("boss@firm.example", "root@pay.example"):
        await ask(world, email)
        await reset(world, await token_of_mail(world))
    actions = await world.rows(ADMIN_ACTION)
    assert [(action.merchant_id, action.method) for action in actions] == [
        ("acme", "ResetPassword"),
        ("beta", "ResetPassword"),
        ("", "ResetPassword"),
    ]
    assert await broken_chains(world) == []


async def test_the_second_factor_stays(world: LoginWorld, owner: Caller) -> None:
    await world.enrol(owner)
    await ask(world)
    await reset(world, await token_of_mail(world))
    with pytest.raises(TotpRequired):
        await world.log_in(password=NEW)


async def test_a_link_works_once_for_a_day_and_only_the_last_one(world: LoginWorld) -> None:
    await ask(world)
    first = await token_of_mail(world)
    await ask(world)
    second = await token_of_mail(world)
    with pytest.raises(LinkInvalid):
        await reset(world, first)
    await reset(world, second)
    with pytest.raises(LinkInvalid):
        await reset(world, second)
    await ask(world)
    third = await token_of_mail(world)
    world.clock.advance(24 * 3600)
    with pytest.raises(LinkInvalid):
        await reset(world, third)


async def test_two_uses_of_one_link_at_once_are_one(world: LoginWorld) -> None:
    await ask(world)
    token = await token_of_mail(world)
    results = await asyncio.gather(*(reset(world, token) for _ in range(5)), return_exceptions=True)
    assert results.count(None) == 1
    assert {type(one) for one in results if one is not None} == {LinkInvalid}


@pytest.mark.parametrize("state", [None, MemberState.DISABLED])
async def test_nobody_is_told_whether_an_address_has_an_account(
    world: LoginWorld, state: MemberState | None
) -> None:
    if state is not None:
        await world.update(MEMBER, state=state)
    await ask(world, OWNER if state is not None else "nobody@acme.example")
    assert await world.mails() == []
    assert len(await world.rows(ONE_TIME_LINK)) == 1  # the same work


async def test_a_person_who_was_disabled_meanwhile_gets_no_password(world: LoginWorld) -> None:
    await ask(world)
    token = await token_of_mail(world)
    await world.update(MEMBER, state=MemberState.DISABLED)
    with pytest.raises(LinkInvalid):
        await reset(world, token)


async def test_mails_are_not_sent_as_often_as_somebody_asks(world: LoginWorld) -> None:
    for number in range(6):
        await ask(world, address=f"198.51.100.{number}")
    with pytest.raises(LoginDelayed):
        await ask(world, address=AWAY)
    await ask(world, "clerk@acme.example", address=AWAY)
    for number in range(5):
        await ask(world, f"v{number}@acme.example", address=AWAY)
    with pytest.raises(LoginDelayed):
        await ask(world, "v9@acme.example", address=AWAY)
    assert len(await world.mails()) == 6


async def test_without_mail_nothing_is_written(database_url: str) -> None:
    async with login_world(database_url, logs_mail=False) as world:
        await world.person(OWNER)
        with pytest.raises(MailUnavailable):
            await ask(world)
        assert await world.rows(ONE_TIME_LINK) == []
        assert await world.rows(LOGIN_FAILURE) == []


async def test_links_cannot_be_tried_out_and_cost_no_hash(
    world: LoginWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world.passwords, "hash", None)
    for _ in range(6):
        with pytest.raises(LinkInvalid):
            await reset(world, "x" * 43)
    with pytest.raises(LoginDelayed):
        await reset(world, "x" * 43)


async def test_a_reset_ends_the_wait_that_others_brought_about(world: LoginWorld) -> None:
    for number in range(6):
        with pytest.raises(LoginFailed):
            await world.log_in(password="wrong", address=f"198.51.100.{number}")
    with pytest.raises(LoginDelayed):
        await world.log_in(address=HOME)
    await ask(world)
    await reset(world, await token_of_mail(world))
    assert await world.log_in(password=NEW, address=HOME)
