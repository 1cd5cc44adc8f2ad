"""Logging in at the identity provider of a firm: who is believed, and what is not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pyotp
import pytest

import merchant_rpc.oidc
from merchant_rpc.domain.errors import (
    LinkInvalid,
    LoginDelayed,
    LoginFailed,
    MerchantNotFound,
    OidcUnavailable,
    TotpRequired,
)
from merchant_rpc.domain.member import MemberState
from merchant_rpc.oidc import IdentityProvider, OidcClient, require_safe
from merchant_rpc.tables import ADMIN_ACTION, MEMBER, ONE_TIME_LINK, SESSION
from merchant_rpc.usecases.grants import Granted
from merchant_rpc.usecases.oidc_logins import FinishOidcLogin
from mesh.errors import Unavailable
from tests.builders.merchant_logins import (
    HOME,
    OWNER,
    LoginWorld,
    caller_of,
    claims_of,
    login_world,
)
from tests.support.fakes import FakeClock
from tests.support.oidc_issuer import (
    CLIENT_ID,
    CLIENT_SECRET,
    OTHER_KEY,
    OidcIssuer,
    answer,
    oidc_issuer,
)

pytestmark = pytest.mark.one_database

DISCOVERY = "/.well-known/openid-configuration"


@dataclass(slots=True)
class Firm:
    """A world with a provider."""

    world: LoginWorld
    issuer: OidcIssuer

    async def begin(self, merchant_id: str = "") -> tuple[str, str]:
        """BeginOidcLogin."""
        return await self.world.app.oidc_logins.begin_oidc_login(merchant_id, HOME)

    async def finish(
        self, login_token: str, state: str, code: str, *, totp_code: str = ""
    ) -> Granted:
        """FinishOidcLogin."""
        return await self.world.app.oidc_logins.finish_oidc_login(
            FinishOidcLogin(
                login_token=login_token,
                state=state,
                code=code,
                client_address=HOME,
                totp_code=totp_code,
            )
        )

    async def log_in(
        self, sub: str = "u-17", email: str = OWNER, *, merchant_id: str = ""
    ) -> Granted:
        """The whole way."""
        url, login_token = await self.begin(merchant_id)
        code, state = self.issuer.log_in(url, sub=sub, email=email)
        return await self.finish(login_token, state, code)


@pytest.fixture
async def firm(
    request: pytest.FixtureRequest, database_url: str, tmp_path: Path
) -> AsyncIterator[Firm]:
    needs_totp = getattr(request, "param", True)
    secret = tmp_path / "oidc.secret"
    secret.write_text(CLIENT_SECRET + "\n")
    clock = FakeClock()
    async with oidc_issuer(lambda: int(clock.now().timestamp())) as issuer:
        client = OidcClient(
            issuer=issuer.url,
            client_id=CLIENT_ID,
            client_secret_file=secret,
            scopes="openid email",
            redirect_url="https://pay.example/console/oidc",
        )
        provider = IdentityProvider(client, clock=clock)
        async with login_world(
            database_url, provider=provider, clock=clock, oidc_needs_totp=needs_totp
        ) as world:
            await world.merchant("acme")
            yield Firm(world, issuer)
        await provider.close()


# --- who is let in --------------------------------------------------------------------------------


async def test_the_first_time_a_person_is_found_by_his_address_then_by_his_name_there(
    firm: Firm,
) -> None:
    member_id = await firm.world.person(OWNER, "acme", password=None)
    granted = await firm.log_in()
    assert granted.session.member_id == member_id
    assert claims_of(granted)["merchant_id"] == "acme_test"
    assert (await firm.log_in(email="renamed@acme.example")).session.member_id == member_id


async def test_the_address_of_the_provider_has_what_the_standards_ask_for(firm: Firm) -> None:
    url, login_token = await firm.begin()
    assert url.startswith(f"{firm.issuer.url}/authorize?tenant=1&")
    query = {key: value[0] for key, value in parse_qs(urlsplit(url).query).items()}
    assert query["redirect_uri"] == "https://pay.example/console/oidc"
    assert query["scope"] == "openid email"
    assert len({query["state"], query["nonce"], query["code_challenge"], login_token}) == 4
    assert login_token not in repr(await firm.world.rows(ONE_TIME_LINK))


async def test_the_merchant_of_the_beginning_is_acted_for(firm: Firm) -> None:
    await firm.world.merchant("other")
    await firm.world.person(OWNER, "acme")
    assert claims_of(await firm.log_in(merchant_id="acme"))["merchant_id"] == "acme"
    with pytest.raises(MerchantNotFound):
        await firm.log_in(merchant_id="other")


async def test_who_has_another_name_there_does_not_take_an_account_over(firm: Firm) -> None:
    await firm.world.person(OWNER, "acme")
    await firm.log_in("u-17")
    with pytest.raises(LoginFailed):
        await firm.log_in("u-18")


@pytest.mark.parametrize(
    ("claims", "state"),
    [
        ({"email_verified": False}, MemberState.ACTIVE),
        ({"email_verified": None}, MemberState.ACTIVE),
        ({"email": "nobody@acme.example"}, MemberState.ACTIVE),
        ({"email": None}, MemberState.ACTIVE),
        ({"email": 7}, MemberState.ACTIVE),
        ({}, MemberState.DISABLED),
    ],
)
async def test_whom_we_do_not_know_is_not_let_in(
    firm: Firm, claims: dict[str, object], state: MemberState
) -> None:
    await firm.world.person(OWNER, "acme", state=state)
    firm.issuer.claims = claims
    with pytest.raises(LoginFailed):
        await firm.log_in()
    [row] = await firm.world.rows(MEMBER)
    assert row.oidc_sub is None
    assert await firm.world.rows(SESSION) == []


# --- what is not believed -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://other.example"},
        {"iss": None},
        {"aud": "another-client"},
        {"aud": None},
        {"aud": [CLIENT_ID, "another-client"]},
        {"aud": [CLIENT_ID, "another-client"], "azp": "another-client"},
        {"azp": "another-client"},
        {"nonce": "another"},
        {"nonce": None},
        {"exp": 1},
        {"exp": None},
        {"iat": None},
        {"iat": 4_000_000_000},
        {"nbf": 4_000_000_000},
        {"sub": ""},
        {"sub": None},
        {"sub": "x" * 256},
        {"sub": "königin"},
    ],
    ids=str,
)
async def test_a_token_with_another_claim_is_refused(firm: Firm, claims: dict[str, object]) -> None:
    await firm.world.person(OWNER, "acme")
    firm.issuer.claims = claims
    with pytest.raises(LoginFailed):
        await firm.log_in()


async def test_a_token_of_another_key_is_refused(firm: Firm) -> None:
    await firm.world.person(OWNER, "acme")
    firm.issuer.signing_key = OTHER_KEY
    with pytest.raises(LoginFailed):
        await firm.log_in()


async def test_a_new_key_is_fetched_once_and_not_by_everybody_who_names_one(firm: Firm) -> None:
    await firm.world.person(OWNER, "acme")
    await firm.log_in()
    firm.issuer.kid = firm.issuer.published_kid = "k2"
    with pytest.raises(LoginFailed):
        await firm.log_in()  # the keys were read a moment ago
    firm.world.clock.advance(10)
    await firm.log_in()
    assert firm.issuer.asked.count("/keys") == 2
    firm.issuer.kid = "k3"
    for _ in range(3):
        with pytest.raises(LoginFailed):
            await firm.log_in()
    assert firm.issuer.asked.count("/keys") == 2
    assert firm.issuer.asked.count(DISCOVERY) == 1


async def test_a_login_is_finished_once_by_the_browser_that_began_it(firm: Firm) -> None:
    await firm.world.person(OWNER, "acme")
    url, login_token = await firm.begin()
    other_url, other_token = await firm.begin()
    code, state = firm.issuer.log_in(url, sub="u-17", email=OWNER)
    _, other_state = firm.issuer.log_in(other_url, sub="u-18", email=OWNER)
    for wrong in (
        (other_token, state, code),
        (login_token, other_state, code),
        ("x" * 43, state, code),
    ):
        with pytest.raises(LinkInvalid):
            await firm.finish(*wrong)
    assert await firm.finish(login_token, state, code)
    with pytest.raises(LinkInvalid):
        await firm.finish(login_token, state, code)


async def test_the_code_of_another_login_is_worth_nothing(firm: Firm) -> None:
    await firm.world.person(OWNER, "acme")
    url, login_token = await firm.begin()
    _, state = firm.issuer.log_in(url, sub="u-17", email=OWNER)
    thiefs_url, _ = await firm.begin()
    thiefs_code, _ = firm.issuer.log_in(thiefs_url, sub="thief", email=OWNER)
    with pytest.raises(LoginFailed):  # PKCE: it was made for another verifier
        await firm.finish(login_token, state, thiefs_code)


async def test_a_login_that_was_begun_long_ago_is_over(firm: Firm) -> None:
    await firm.world.person(OWNER, "acme")
    url, login_token = await firm.begin()
    code, state = firm.issuer.log_in(url, sub="u-17", email=OWNER)
    firm.world.clock.advance(600)
    with pytest.raises(LinkInvalid):
        await firm.finish(login_token, state, code)


async def test_logins_that_nobody_finishes_wait(firm: Firm) -> None:
    for _ in range(6):
        await firm.begin()
    with pytest.raises(LoginDelayed):
        await firm.begin()


async def test_finished_ones_do_not(firm: Firm) -> None:
    await firm.world.person(OWNER, "acme")
    for _ in range(20):
        await firm.log_in()


# --- a provider that is ill -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "raw"),
    [
        (DISCOVERY, answer(500, b"{}")),
        (DISCOVERY, answer(302, b"", "location: /keys")),
        (DISCOVERY, answer(200, b"[]")),
        (DISCOVERY, answer(200, b"x" * (256 * 1024 + 1))),
        (DISCOVERY, b"nonsense\r\n\r\n"),
        ("/token", answer(500, b"{}")),
        ("/token", answer(200, b"{}")),
        ("/keys", answer(500, b"{}")),
        ("/keys", answer(200, b"{}")),
    ],
)
async def test_an_ill_provider_is_unavailable(firm: Firm, path: str, raw: bytes) -> None:
    await firm.world.person(OWNER, "acme")
    firm.issuer.raw[path] = raw
    with pytest.raises(Unavailable):
        await firm.log_in()
    firm.issuer.raw.clear()
    assert await firm.log_in()


async def test_a_long_answer_is_not_read_to_its_end(firm: Firm) -> None:
    honest = firm.issuer._answer(DISCOVERY, "").partition(b"\r\n\r\n")[2]
    firm.issuer.raw[DISCOVERY] = answer(200, honest + b" " * (256 * 1024))
    with pytest.raises(Unavailable):
        await firm.begin()


@pytest.mark.parametrize("path", [DISCOVERY, "/token", "/keys"])
async def test_a_silent_provider_is_given_up_and_holds_no_transaction(
    firm: Firm, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merchant_rpc.oidc, "REQUEST_SECONDS", 0.3)
    await firm.world.person(OWNER, "acme")
    firm.issuer.hangs.add(path)
    waiting = asyncio.create_task(firm.log_in())
    await firm.issuer.hung.wait()
    await firm.world.log_in()  # writes, on SQLite too
    with pytest.raises(Unavailable):
        await waiting


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": "https://other.example"},
        {"token_endpoint": "http://203.0.113.7/token"},
        {"jwks_uri": "http://example.com/keys"},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"authorization_endpoint": "https://user@example.com/"},
    ],
)
async def test_a_provider_that_leads_elsewhere_is_not_followed(
    firm: Firm, change: dict[str, str]
) -> None:
    firm.issuer.discovery = change
    with pytest.raises(Unavailable):
        await firm.begin()


@pytest.mark.parametrize(
    "url",
    ["http://example.com", "ftp://127.0.0.1/", "https://", "https://u:p@x.example/", "x", ""],
)
def test_a_url_that_is_neither_https_nor_of_this_machine_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="https"):
        require_safe(url)


async def test_without_a_provider_nobody_logs_in_there(database_url: str) -> None:
    async with login_world(database_url) as world:
        with pytest.raises(OidcUnavailable):
            await world.app.oidc_logins.begin_oidc_login("", HOME)
        with pytest.raises(OidcUnavailable):
            await world.app.oidc_logins.finish_oidc_login(
                FinishOidcLogin(login_token="x", state="x", code="x", client_address=HOME)
            )


# --- a second factor of ours ----------------------------------------------------------------------


async def enrolled(firm: Firm) -> pyotp.TOTP:
    """An owner with a second factor; his app. The code of this moment is used."""
    await firm.world.person(OWNER, "acme")
    totp, _ = await firm.world.enrol(caller_of(await firm.world.log_in()))
    firm.world.clock.advance(60)
    return totp


async def waiting(firm: Firm) -> tuple[str, str, str]:
    """A log-in that the provider ended and that waits for the code: what its browser has."""
    url, login_token = await firm.begin()
    code, state = firm.issuer.log_in(url, sub="u-17", email=OWNER)
    with pytest.raises(TotpRequired):
        await firm.finish(login_token, state, code)
    return login_token, state, code


async def test_who_enrolled_a_second_factor_gives_its_code_too(firm: Firm) -> None:
    totp = await enrolled(firm)
    sessions = len(await firm.world.rows(SESSION))
    browser = await waiting(firm)
    assert len(await firm.world.rows(SESSION)) == sessions
    asked = firm.issuer.asked.count("/token")
    granted = await firm.finish(*browser, totp_code=totp.at(firm.world.clock.now()))
    assert claims_of(granted)["sub"].startswith("member:")
    assert firm.issuer.asked.count("/token") == asked, "the provider is not asked again"
    with pytest.raises(LinkInvalid):
        await firm.finish(*browser, totp_code=totp.at(firm.world.clock.now()))
    [action] = [
        row for row in await firm.world.rows(ADMIN_ACTION) if row.method == "FinishOidcLogin"
    ]
    assert (action.merchant_id, action.after_json) == ("acme_test", '{"second_factor":true}')


async def test_the_code_may_come_with_the_first_call(firm: Firm) -> None:
    totp = await enrolled(firm)
    url, login_token = await firm.begin()
    code, state = firm.issuer.log_in(url, sub="u-17", email=OWNER)
    assert await firm.finish(login_token, state, code, totp_code=totp.at(firm.world.clock.now()))


async def test_a_code_that_was_used_logs_nobody_in(firm: Firm) -> None:
    totp = await enrolled(firm)
    code = totp.at(firm.world.clock.now())
    assert await firm.finish(*await waiting(firm), totp_code=code)
    with pytest.raises(LoginFailed):
        await firm.finish(*await waiting(firm), totp_code=code)


async def test_wrong_codes_leave_the_log_in_open_and_make_the_next_one_wait(firm: Firm) -> None:
    totp = await enrolled(firm)
    browser = await waiting(firm)
    right = totp.at(firm.world.clock.now())
    wrong = "000000" if right != "000000" else "000001"
    for _ in range(6):
        with pytest.raises(LoginFailed):
            await firm.finish(*browser, totp_code=wrong)
    with pytest.raises(LoginDelayed):
        await firm.finish(*browser, totp_code=right)
    firm.world.clock.advance(2)
    assert await firm.finish(*browser, totp_code=right)


async def test_a_log_in_that_waits_for_its_code_ends_as_every_other(firm: Firm) -> None:
    totp = await enrolled(firm)
    browser = await waiting(firm)
    firm.world.clock.advance(601)
    with pytest.raises(LinkInvalid):
        await firm.finish(*browser, totp_code=totp.at(firm.world.clock.now()))


async def test_who_was_disabled_meanwhile_is_not_let_in(firm: Firm) -> None:
    totp = await enrolled(firm)
    browser = await waiting(firm)
    await firm.world.update(MEMBER, state=MemberState.DISABLED)
    with pytest.raises(LoginFailed):
        await firm.finish(*browser, totp_code=totp.at(firm.world.clock.now()))


@pytest.mark.parametrize("firm", [False], indirect=True)
async def test_the_providers_factor_is_enough_where_the_installation_says_so(firm: Firm) -> None:
    await enrolled(firm)
    granted = await firm.log_in()
    assert claims_of(granted)["merchant_id"] == "acme_test"
