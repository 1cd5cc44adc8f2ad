"""Accounts of merchants at providers: who sees and changes them, what is kept of it, and that no
secret leaves.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from secrets import token_bytes
from typing import Any

import pytest
from sqlalchemy import update

from mesh.call import Caller, Role
from mesh.errors import InvalidArgument, PageTokenInvalid, Unavailable
from payment_rpc.account_keys import AccountKeys
from payment_rpc.domain.channel_account import (
    ACCOUNTS_MAX,
    AccountMode,
    AccountState,
    AccountStep,
    DefaultFor,
    is_account_id,
    provider_of,
)
from payment_rpc.domain.errors import (
    ChannelAccountChanged,
    ChannelAccountNotFound,
    ChannelUnavailable,
)
from payment_rpc.store.channel_accounts import AccountChange
from payment_rpc.tables import CHANNEL_ACCOUNT, CHANNEL_ACCOUNT_CHANGE
from payment_rpc.usecases import account_channels
from payment_rpc.usecases.account_key_rotation import AccountKeyRotation
from payment_rpc.usecases.channel_accounts import UpdateAccount
from tests.builders.channel_accounts import (
    KEYS,
    OTHER_SECRET,
    SECRET,
    Accounts,
    accounts_in,
    credentials,
    new_account,
    staff,
)
from tests.builders.payment import PaymentWorld

ADMIN = Caller(role=Role.ADMIN, subject="operator:1")


@pytest.fixture
async def accounts(world: PaymentWorld) -> AsyncIterator[Accounts]:
    found = accounts_in(world)
    yield found
    await found.app.account_channels.aclose()


async def defaults(accounts: Accounts) -> dict[str, DefaultFor]:
    """What each account is the default for, by label."""
    page, _ = await accounts.app.channel_accounts.list_accounts(
        merchant_id="mall", page_size=100, page_token=""
    )
    return {account.label: account.default_for for account in page}


async def test_an_account_is_kept_with_encrypted_credentials_and_a_log(accounts: Accounts) -> None:
    account = await accounts.create()
    assert is_account_id(account.account_id)
    assert (provider_of(account.account_id), account.mode, account.state, account.version) == (
        "toy",
        AccountMode.LIVE,
        AccountState.ENABLED,
        1,
    )
    assert account.hint == {"account_name": "Acme", "secret_key": "…0042"}
    assert account.key_id == "2"
    assert await accounts.get(account) == account
    [row] = await accounts.world.rows(CHANNEL_ACCOUNT)
    [change] = await accounts.world.rows(CHANNEL_ACCOUNT_CHANGE)
    assert SECRET not in str(row) + str(change)
    assert (change["step"], change["actor"], change["reason"], change["chain_seq"]) == (
        "CREATE",
        "boss",
        "a new contract",
        1,
    )
    assert json.loads(change["after_json"])["sealed"] == account.sealed_digest
    url = f"https://pay.test/api/v1/callbacks/{account.account_id}"
    assert accounts.app.channel_accounts.notify_url(account) == url


async def test_the_sibling_of_tests_has_test_accounts_and_no_other(accounts: Accounts) -> None:
    assert (await accounts.create("acme_test", reason="")).mode is AccountMode.TEST
    for merchant_id, live in (("acme_test", True), ("mall", False)):
        with pytest.raises(InvalidArgument) as refused:
            await accounts.create(merchant_id, credentials=credentials(live=live))
        assert list(refused.value.fields) == ["credentials.live"]
    await accounts.create("acme_test", credentials=credentials(live=False))
    await accounts.create("mall", credentials=credentials(live=True))


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"provider": "paymate"}, "provider"),
        ({"credentials": "nonsense"}, "credentials"),
        ({"credentials": "[]"}, "credentials"),
        ({"credentials": "{}"}, "credentials.secret_key"),
        ({"credentials": credentials("pk_something")}, "credentials.secret_key"),
        ({"credentials": credentials(secret_kye=SECRET)}, "credentials.secret_kye"),
        ({"credentials": credentials("explode")}, "credentials"),
        ({"reason": "  why "}, "reason"),
        ({"provider": "ownserver"}, "credentials.server_url"),
        (
            {"provider": "ownserver", "credentials": credentials(server_url="https://evil.test")},
            "credentials.server_url",
        ),
        (
            {
                "provider": "ownserver",
                "credentials": credentials(server_url="https://btcpay.test@evil.test/"),
            },
            "credentials.server_url",
        ),
        (
            {
                "provider": "ownserver",
                "credentials": credentials(server_url="http://btcpay.test/"),
            },
            "credentials.server_url",
        ),
        (
            {
                "provider": "ownserver",
                "credentials": credentials(server_url="https://btcpay.test:8443/"),
            },
            "credentials.server_url",
        ),
    ],
)
async def test_bad_input_names_its_field_and_repeats_no_secret(
    accounts: Accounts, changes: dict[str, str], field: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await accounts.create(**changes)
    assert list(refused.value.fields) == [field]
    said = f"{refused.value.message} {refused.value.fields} {refused.value.__cause__}"
    assert SECRET not in said
    assert "explode" not in said
    assert await accounts.world.rows(CHANNEL_ACCOUNT) == []


async def test_an_account_that_its_provider_does_not_open_is_not_kept(accounts: Accounts) -> None:
    """As WeChat Pay, which has no test mode."""
    accounts.toy.refuses = InvalidArgument.of("account_name", "not in this mode")
    with pytest.raises(InvalidArgument) as refused:
        await accounts.create()
    assert list(refused.value.fields) == ["credentials.account_name"]
    accounts.toy.refuses = RuntimeError(SECRET)
    with pytest.raises(InvalidArgument, match="cannot be read") as refused:
        await accounts.create()
    assert SECRET not in f"{refused.value!r}"
    assert await accounts.world.rows(CHANNEL_ACCOUNT) == []


async def test_a_server_on_the_list_may_be_named(accounts: Accounts) -> None:
    for url in ("https://btcpay.test", "https://btcpay.test:443/pay", "https://BTCPAY.test/"):
        await accounts.create(provider="ownserver", credentials=credentials(server_url=url))


async def test_without_a_key_nothing_is_kept(accounts: Accounts) -> None:
    app = accounts.another_app(account_keys=None)
    with pytest.raises(Unavailable, match="account_key_file"):
        await app.channel_accounts.create(new_account(), staff())


async def test_a_change_needs_the_version_that_is_there(accounts: Accounts) -> None:
    account = await accounts.create()
    changed = await accounts.update(
        account, label="other", state=AccountState.DRAINING, credentials=credentials(OTHER_SECRET)
    )
    assert (changed.label, changed.state, changed.version, changed.hint["secret_key"]) == (
        "other",
        AccountState.DRAINING,
        2,
        "…0043",
    )
    with pytest.raises(ChannelAccountChanged) as refused:
        await accounts.update(account, label="late")
    assert refused.value.metadata["version"] == "2"
    assert await accounts.get(account) == changed
    again = await accounts.update(changed, state=AccountState.ENABLED)
    assert (again.label, again.hint, again.sealed_digest) == (
        "other",
        changed.hint,
        changed.sealed_digest,
    )
    steps = [row["step"] for row in await accounts.world.rows(CHANNEL_ACCOUNT_CHANGE)]
    assert steps == ["CREATE", "UPDATE", "UPDATE"]


async def test_a_merchant_finds_its_own_accounts_and_no_others(accounts: Accounts) -> None:
    account = await accounts.create("acme", provider="toy")
    use_cases = accounts.app.channel_accounts
    stranger = staff("globex")
    for call in (
        use_cases.get(account.account_id, stranger),
        use_cases.test(account.account_id, stranger),
        use_cases.get("toy_000000000000", ADMIN),
        accounts.app.channel_accounts.update(_change_of(account), stranger),
    ):
        with pytest.raises(ChannelAccountNotFound):
            await call
    assert await use_cases.get(account.account_id, ADMIN) == account
    page, _ = await use_cases.list_accounts(merchant_id="globex", page_size=0, page_token="")
    assert page == ()


def _change_of(account: Any) -> Any:
    return UpdateAccount(
        account_id=account.account_id, read_version=1, reason="a hostile take-over"
    )


async def test_pages_have_every_account_once(accounts: Accounts) -> None:
    made = {(await accounts.create()).account_id for _ in range(5)}
    use_cases = accounts.app.channel_accounts
    found: list[str] = []
    token = ""
    while True:
        page, token = await use_cases.list_accounts(
            merchant_id="mall", page_size=2, page_token=token
        )
        found += [account.account_id for account in page]
        if not token:
            break
        with pytest.raises(PageTokenInvalid):
            await use_cases.list_accounts(merchant_id="acme", page_size=2, page_token=token)
    assert found == sorted(made)


async def test_a_merchant_has_at_most_so_many_accounts(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("payment_rpc.usecases.channel_accounts.ACCOUNTS_MAX", 2)
    assert ACCOUNTS_MAX > 2
    await accounts.create()
    await accounts.create()
    with pytest.raises(InvalidArgument, match="2 accounts"):
        await accounts.create()


async def test_a_default_passes_from_one_account_to_another(accounts: Accounts) -> None:
    none, provider, merchant = DefaultFor
    await accounts.create(label="a")
    await accounts.create(label="b")
    assert await defaults(accounts) == {"a": provider, "b": none}
    b = next(row for row in await accounts.world.rows(CHANNEL_ACCOUNT) if row["label"] == "b")
    account = await accounts.app.channel_accounts.get(b["account_id"], ADMIN)
    account = await accounts.update(account, default_for=merchant)
    assert await defaults(accounts) == {"a": none, "b": merchant}
    own = {"provider": "ownserver", "credentials": credentials(server_url="https://btcpay.test")}
    await accounts.create(label="c", default_for=merchant, **own)
    assert await defaults(accounts) == {"a": none, "b": provider, "c": merchant}
    await accounts.create("acme", label="z", default_for=merchant)  # another shop's
    assert await defaults(accounts) == {"a": none, "b": provider, "c": merchant}
    current = await accounts.get(account)
    assert current.version == account.version + 1
    await accounts.update(current, default_for=none)
    assert await defaults(accounts) == {"a": none, "b": none, "c": merchant}
    rows = await accounts.world.rows(CHANNEL_ACCOUNT_CHANGE)
    assert [row["step"] for row in rows].count("LOSE_DEFAULT") == 2


async def test_a_key_is_rotated_and_an_interrupted_rotation_goes_on(accounts: Accounts) -> None:
    world = accounts.world
    made = [await accounts.create(label=str(number)) for number in range(3)]
    lost = await accounts.create(label="lost")
    await world.execute(
        update(CHANNEL_ACCOUNT)
        .where(CHANNEL_ACCOUNT.c.account_id == lost.account_id)
        .values(key_id="9")
    )
    newest = AccountKeys({"3": b"c" * 32, **KEYS}, random_bytes=token_bytes)

    def rotation() -> AccountKeyRotation:
        return AccountKeyRotation(db=world.db, clock=world.clock, keys=newest)

    async def rotate_one(tx: Any) -> bool:
        change = AccountChange(step=AccountStep.ROTATE_KEY, actor="cli", reason="", trace_id="")
        return await rotation()._rotate(tx, made[0].account_id, change)

    assert await world.db.run(rotate_one)  # killed after the first one
    done = await rotation().run(actor="cli:root", reason="yearly")
    assert (done.rotated, list(done.problems)) == (2, [lost.account_id])
    assert "'9'" in done.problems[lost.account_id]
    assert (await rotation().run(actor="cli:root", reason="again")).rotated == 0
    only = accounts.another_app(
        account_keys=AccountKeys({"3": b"c" * 32}, random_bytes=token_bytes)
    )
    for account in made:
        assert await only.channel_accounts.test(account.account_id, staff()) == ""
        assert (await accounts.get(account)).version == account.version + 1
    await only.account_channels.aclose()
    steps = [row["step"] for row in await world.rows(CHANNEL_ACCOUNT_CHANGE)]
    assert steps.count("ROTATE_KEY") == 3


async def test_two_that_want_to_be_the_default_at_once_are_not_both(accounts: Accounts) -> None:
    other = accounts.another_app()
    wanted = {"default_for": DefaultFor.MERCHANT}
    await asyncio.gather(
        *(
            app.channel_accounts.create(new_account(label=f"{number}", **wanted), staff())
            for number, app in enumerate([accounts.app, other] * 4)
        )
    )
    found = list((await defaults(accounts)).values())
    assert (len(found), found.count(DefaultFor.MERCHANT), found.count(DefaultFor.PROVIDER)) == (
        8,
        1,
        0,
    )
    everybody, _ = await other.channel_accounts.list_accounts(
        merchant_id="mall", page_size=100, page_token=""
    )
    results = await asyncio.gather(
        *(accounts.update(account, **wanted) for account in everybody), return_exceptions=True
    )
    assert all(
        isinstance(result, ChannelAccountChanged)
        for result in results
        if isinstance(result, BaseException)
    )
    assert list((await defaults(accounts)).values()).count(DefaultFor.MERCHANT) == 1


async def test_a_test_says_what_is_wrong(accounts: Accounts) -> None:
    account = await accounts.create()
    use_cases = accounts.app.channel_accounts
    assert await use_cases.test(account.account_id, staff()) == ""
    accounts.toy.problem = "the key was revoked"
    assert await use_cases.test(account.account_id, staff()) == "the key was revoked"
    accounts.toy.check_fails = RuntimeError(f"with {SECRET}")
    assert await use_cases.test(account.account_id, staff()) == "the check failed: RuntimeError"
    accounts.toy.check_fails = TimeoutError()
    assert "in time" in await use_cases.test(account.account_id, staff())


async def test_credentials_that_cannot_be_read_stop_nothing_else(accounts: Accounts) -> None:
    account = await accounts.create()
    app = accounts.another_app(account_keys=AccountKeys({"3": KEYS["1"]}, random_bytes=token_bytes))
    problem = await app.channel_accounts.test(account.account_id, staff())
    assert "the key '2'" in problem
    assert (await app.channel_accounts.get(account.account_id, staff())).label == "main"
    await accounts.world.execute(update(CHANNEL_ACCOUNT).values(credentials="c2VhbGVk"))
    changed = await accounts.app.channel_accounts.test(account.account_id, staff())
    assert "changed in the database" in changed
    without = accounts.another_app(providers={})
    assert "no provider 'toy'" in await without.channel_accounts.test(account.account_id, staff())
    await without.account_channels.aclose()


async def test_new_credentials_open_a_new_channel_and_the_old_one_is_closed_when_idle(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    channels = accounts.app.account_channels
    account = await accounts.create()
    first = await channels.load(account.account_id)
    assert first is await channels.load(account.account_id)
    await accounts.update(account, credentials=credentials(OTHER_SECRET))
    second = await channels.load(account.account_id)
    assert [channel.opened["secret_key"] for channel in accounts.toy.channels] == [
        SECRET,
        OTHER_SECRET,
    ]
    assert second is accounts.toy.channels[1]
    assert not accounts.toy.channels[0].is_closed
    later = channels._now() + account_channels.RETIRED_SECONDS + 1
    monkeypatch.setattr(channels, "_now", lambda: later)
    await channels.load(account.account_id)
    assert [channel.is_closed for channel in accounts.toy.channels] == [True, False]
    assert await channels.load("toy_000000000000") is None
    assert await channels.load("sandbox") is None


async def test_another_process_sees_a_change_within_seconds(
    accounts: Accounts, monkeypatch: pytest.MonkeyPatch
) -> None:
    account = await accounts.create()
    other = accounts.another_app().account_channels
    first = await other.load(account.account_id)
    await accounts.update(account, credentials=credentials(OTHER_SECRET))
    assert await other.load(account.account_id) is first
    moment = other._accounts._now()
    monkeypatch.setattr(
        other._accounts, "_now", lambda: moment + account_channels.FRESH_SECONDS + 1
    )
    second = await other.load(account.account_id)
    assert second is not first
    await other.aclose()
    assert all(channel.is_closed for channel in accounts.toy.channels)


async def test_where_a_provider_listens_is_decided_by_mode_and_environment(
    accounts: Accounts,
) -> None:
    await accounts.app.account_channels.load((await accounts.create()).account_id)
    await accounts.app.account_channels.load((await accounts.create("a_test")).account_id)
    live, test = (channel.opened for channel in accounts.toy.channels)
    assert (live["is_live"], live["base_url"]) == (True, None)
    assert (test["is_live"], test["base_url"]) == (False, "http://simulator.test")


async def test_no_secret_is_in_a_log_or_a_row(
    accounts: Accounts, capsys: pytest.CaptureFixture[str]
) -> None:
    account = await accounts.create()
    changed = await accounts.update(account, credentials=credentials(OTHER_SECRET))
    accounts.toy.check_fails = RuntimeError("away")
    await accounts.app.channel_accounts.test(account.account_id, staff())
    broken = accounts.another_app(
        account_keys=AccountKeys({"9": b"9" * 32}, random_bytes=token_bytes)
    )
    with pytest.raises(ChannelUnavailable):
        await broken.account_channels.load(account.account_id)
    said = capsys.readouterr()
    rows = [await accounts.world.rows(table) for table in (CHANNEL_ACCOUNT, CHANNEL_ACCOUNT_CHANGE)]
    for secret in (SECRET, OTHER_SECRET):
        assert secret not in f"{said.out}{said.err}{rows}{changed!r}{new_account()!r}"
