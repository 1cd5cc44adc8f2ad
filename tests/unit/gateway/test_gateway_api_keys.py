"""API keys at the door: what is remembered, for how long, and what is never open."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from gateway import api_keys as module
from gateway.api_keys import (
    MISSES_PER_SECOND,
    POLL_SECONDS,
    REFRESH_SECONDS,
    REFUSED_SECONDS,
    TOKEN_SECONDS_MAX,
    ApiKeys,
    ExchangedKey,
    RevokedKeys,
    api_key_of,
)
from gateway.errors import ApiKeyInvalid, RateLimited
from gateway.request import Request
from mesh.api_key_format import ApiKeyKind, key_sha256, new_key
from mesh.errors import TokenInvalid, Unavailable
from tests.support.fakes import FakeClock

HOME, AWAY = "203.0.113.7", "198.51.100.9"


def key(number: int = 0) -> str:
    return new_key(ApiKeyKind.SECRET, is_test=True, random_bytes=number.to_bytes)


class Merchants:
    """merchant_rpc: knows every key but those that a test takes away."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.asked: list[tuple[bytes, str, str]] = []
        self.polls = 0
        self.unknown: set[bytes] = set()
        self.bound: dict[bytes, str] = {}
        self.revoked_now = RevokedKeys(subjects=frozenset(), merchant_ids=frozenset())
        self.is_away = False
        self.gate: asyncio.Event | None = None
        self.lifetime_seconds = TOKEN_SECONDS_MAX

    async def exchange(
        self, *, key_sha256: bytes, prefix: str, client_address: str
    ) -> ExchangedKey:
        self.asked.append((key_sha256, prefix, client_address))
        if self.gate is not None:
            await self.gate.wait()
        if self.is_away:
            raise Unavailable
        bound = self.bound.get(key_sha256)
        if key_sha256 in self.unknown or bound not in {None, client_address}:
            raise ApiKeyInvalid
        return ExchangedKey(
            token=f"token {len(self.asked)}",
            expires_at_seconds=self._clock.now().timestamp() + self.lifetime_seconds,
            subject=f"key:{key_sha256.hex()[:8]}",
            merchant_id="acme_test",
            is_bound_to_address=bound is not None,
        )

    async def revoked(self) -> RevokedKeys:
        self.polls += 1
        if self.is_away:
            raise Unavailable
        return self.revoked_now


class World:
    def __init__(self, *, keys_max: int = 100) -> None:
        self.clock = FakeClock()
        self._start = self.clock.now()
        self.merchants = Merchants(self.clock)
        self.keys = ApiKeys(self.merchants, clock=self.clock, now=self.now, keys_max=keys_max)

    def now(self) -> float:
        return (self.clock.now() - self._start).total_seconds()

    async def token(self, shown: str | None = None, address: str = HOME) -> str:
        return await self.keys.token(key() if shown is None else shown, address)

    async def settled(self) -> None:
        """Until what runs in the background is over."""
        while self.keys._running:
            await asyncio.wait([*self.keys._running.values()])
            await asyncio.sleep(0)

    @property
    def exchanges(self) -> int:
        return len(self.merchants.asked)


@pytest.fixture
def world() -> World:
    return World()


async def test_a_key_is_exchanged_once_and_then_remembered(world: World) -> None:
    assert [await world.token() for _ in range(3)] == ["token 1"] * 3
    assert await world.token(address=AWAY) == "token 1"  # it is not bound to an address
    assert world.exchanges == 1


async def test_merchant_rpc_gets_the_digest_and_the_beginning_and_never_the_key(
    world: World,
) -> None:
    await world.token()
    assert world.merchants.asked == [(hashlib.sha256(key().encode()).digest(), "pmsk_test_", HOME)]


async def test_nothing_that_is_kept_holds_the_key(world: World) -> None:
    await world.token()
    world.merchants.unknown.add(key_sha256(key(1)))
    with pytest.raises(ApiKeyInvalid):
        await world.token(key(1))
    kept = repr((world.keys._known, world.keys._refused, world.keys._limiter._full_at))
    assert key()[10:] not in kept
    assert key(1)[10:] not in kept


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(key()[:-1] + "!", id="character"),
        pytest.param(key()[:-1], id="length"),
        pytest.param(key().replace("test", "live"), id="mode"),
    ],
)
async def test_a_wrong_checksum_is_refused_without_asking(world: World, wrong: str) -> None:
    with pytest.raises(ApiKeyInvalid):
        await world.token(wrong)
    assert world.exchanges == 0


async def test_calls_that_come_at_once_share_one_exchange(world: World) -> None:
    tokens = await asyncio.gather(*(world.token() for _ in range(50)))
    assert set(tokens) == {"token 1"}
    assert world.exchanges == 1


async def test_a_client_that_goes_away_takes_the_exchange_from_nobody(world: World) -> None:
    world.merchants.gate = asyncio.Event()
    first, second = (asyncio.create_task(world.token()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    world.merchants.gate.set()
    assert await second == "token 1"


async def test_two_addresses_at_once_share_one_exchange_of_a_key_that_is_good_for_both(
    world: World,
) -> None:
    tokens = await asyncio.gather(world.token(), world.token(address=AWAY))
    assert tokens == ["token 1", "token 1"]
    assert world.exchanges == 1


async def test_a_refusal_is_remembered_for_a_while(world: World) -> None:
    world.merchants.unknown.add(key_sha256(key()))
    for _ in range(3):
        with pytest.raises(ApiKeyInvalid):
            await world.token()
    assert world.exchanges == 1
    world.merchants.unknown.clear()
    world.clock.advance(REFUSED_SECONDS)
    assert await world.token() == "token 2"


async def test_one_client_address_asks_for_so_many_unknown_keys_in_a_second(world: World) -> None:
    for number in range(MISSES_PER_SECOND):
        await world.token(key(number))
    with pytest.raises(RateLimited) as refusal:
        await world.token(key(1000))
    assert refusal.value.retry_after_seconds
    assert world.exchanges == MISSES_PER_SECOND
    await world.token(key(0))  # a known one costs nothing
    await world.token(key(1001), AWAY)  # nor does another address
    world.clock.advance(1 / MISSES_PER_SECOND)
    await world.token(key(1000))


async def test_the_addresses_of_one_ipv6_customer_share_a_limit(world: World) -> None:
    for number in range(MISSES_PER_SECOND):
        await world.token(key(number), f"2001:db8::{number:x}")
    with pytest.raises(RateLimited):
        await world.token(key(1000), "2001:db8::ffff:1")


async def test_a_token_in_use_is_renewed_in_the_background(world: World) -> None:
    await world.token()
    world.clock.advance(REFRESH_SECONDS - 1)
    assert await world.token() == "token 1"
    assert world.exchanges == 1
    world.clock.advance(1)
    assert await world.token() == "token 1"  # nobody waits for the new one
    await world.settled()
    assert await world.token() == "token 2"
    assert world.exchanges == 2


async def test_many_calls_at_once_renew_a_token_once(world: World) -> None:
    await world.token()
    world.clock.advance(REFRESH_SECONDS)
    await asyncio.gather(*(world.token() for _ in range(50)))
    await world.settled()
    assert world.exchanges == 2


async def test_a_key_that_is_revoked_is_found_out_by_its_renewal(world: World) -> None:
    await world.token()
    world.merchants.unknown.add(key_sha256(key()))
    world.clock.advance(REFRESH_SECONDS)
    await world.token()
    await world.settled()
    with pytest.raises(ApiKeyInvalid):
        await world.token()


async def test_a_warm_key_lives_to_the_end_of_its_token_while_merchant_rpc_is_away(
    world: World,
) -> None:
    await world.token()
    world.merchants.is_away = True
    for _ in range(int(TOKEN_SECONDS_MAX) - 1):
        world.clock.advance(1)
        assert await world.token() == "token 1"
        await world.settled()
    world.clock.advance(1)
    with pytest.raises(Unavailable):
        await world.token()
    world.merchants.is_away = False
    assert (await world.token()).startswith("token")


async def test_a_renewal_that_fails_is_not_tried_by_each_call(world: World) -> None:
    await world.token()
    world.merchants.is_away = True
    world.clock.advance(REFRESH_SECONDS)
    for _ in range(5):
        await world.token()
        await world.settled()
    assert world.exchanges == 2


async def test_a_cold_key_is_not_open_while_merchant_rpc_is_away(world: World) -> None:
    world.merchants.is_away = True
    for _ in range(3):
        with pytest.raises(Unavailable):
            await world.token()


async def test_a_token_is_used_no_longer_than_merchant_rpc_says(world: World) -> None:
    world.merchants.lifetime_seconds = 5
    await world.token()
    world.clock.advance(5)
    assert await world.token() == "token 2"


async def test_a_token_is_used_no_longer_than_we_say(world: World) -> None:
    world.merchants.lifetime_seconds = 3600
    await world.token()
    world.merchants.is_away = True
    world.clock.advance(TOKEN_SECONDS_MAX)
    with pytest.raises(Unavailable):
        await world.token()


async def test_a_key_that_was_idle_is_no_unknown_key(world: World) -> None:
    for number in range(MISSES_PER_SECOND):
        await world.token(key(number))
    world.clock.advance(TOKEN_SECONDS_MAX)
    for number in range(MISSES_PER_SECOND):
        await world.token(key(number))
    await world.token(key(1000))  # the renewals took nothing of the limit


async def test_a_key_bound_to_addresses_is_exchanged_for_each(world: World) -> None:
    world.merchants.bound[key_sha256(key())] = HOME
    assert await world.token() == "token 1"
    for _ in range(2):
        with pytest.raises(ApiKeyInvalid):
            await world.token(address=AWAY)
    assert await world.token() == "token 1"  # the refusal of the other address changes nothing
    assert world.exchanges == 2


async def test_a_bound_key_is_not_lent_to_another_address_that_shows_it_at_once(
    world: World,
) -> None:
    world.merchants.bound[key_sha256(key())] = HOME
    results = await asyncio.gather(world.token(), world.token(address=AWAY), return_exceptions=True)
    assert results[0] == "token 1"
    assert isinstance(results[1], ApiKeyInvalid)


@pytest.mark.parametrize(
    ("address", "sent"),
    [("::ffff:203.0.113.7", HOME), ("2001:DB8::7%eth0", "2001:db8::7"), ("unknown, '", "")],
)
async def test_merchant_rpc_gets_an_address_in_its_usual_form(
    world: World, address: str, sent: str
) -> None:
    await world.token(address=address)
    assert world.merchants.asked[0][2] == sent


async def test_one_address_in_two_spellings_is_one(world: World) -> None:
    world.merchants.bound[key_sha256(key())] = HOME
    assert await world.token() == await world.token(address="::ffff:" + HOME) == "token 1"


def revoked(*subjects: str, merchants: tuple[str, ...] = ()) -> RevokedKeys:
    return RevokedKeys(subjects=frozenset(subjects), merchant_ids=frozenset(merchants))


def subject(number: int = 0) -> str:
    return f"key:{key_sha256(key(number)).hex()[:8]}"


async def test_a_revoked_key_is_refused_after_the_next_poll(world: World) -> None:
    await world.token()
    await world.token(key(1))
    world.merchants.unknown.add(key_sha256(key()))
    world.merchants.revoked_now = revoked(subject())
    assert await world.token() == "token 1"
    assert await world.keys.poll_once() == 0
    with pytest.raises(ApiKeyInvalid):
        await world.token()
    assert await world.token(key(1)) == "token 2"  # the others stay


async def test_the_poll_comes_often_enough_for_two_seconds() -> None:
    assert POLL_SECONDS * 1.2 < 2  # a worker may wait a fifth longer


async def test_a_token_that_was_made_while_its_key_was_revoked_is_not_used(world: World) -> None:
    await world.token(key(1))
    world.merchants.gate = asyncio.Event()
    slow = asyncio.create_task(world.token())
    await asyncio.sleep(0)
    world.merchants.revoked_now = revoked(subject())
    await world.keys.poll_once()
    world.merchants.gate.set()
    with pytest.raises(ApiKeyInvalid):
        await slow


async def test_keys_of_a_merchant_that_changed_are_exchanged_anew(world: World) -> None:
    await world.token()
    world.merchants.revoked_now = revoked(merchants=("acme_test", "other"))
    await world.keys.poll_once()
    assert await world.token() == "token 2"


async def test_a_merchant_that_changes_twice_is_noticed_twice(world: World) -> None:
    await world.token()
    world.merchants.revoked_now = revoked(merchants=("acme_test",))
    await world.keys.poll_once()
    await world.token()
    world.merchants.unknown.add(key_sha256(key()))  # suspended first, then closed
    await world.keys.poll_once()
    with pytest.raises(ApiKeyInvalid):
        await world.token()


async def test_nothing_is_asked_while_no_key_is_in_use(world: World) -> None:
    await world.keys.poll_once()
    assert world.merchants.polls == 0
    await world.token()
    await world.keys.poll_once()
    assert world.merchants.polls == 1
    world.clock.advance(TOKEN_SECONDS_MAX)
    await world.keys.poll_once()
    assert world.merchants.polls == 1


async def test_a_poll_that_fails_forgets_nothing(world: World) -> None:
    await world.token()
    world.merchants.is_away = True
    assert await world.keys.poll_once() == 0
    assert await world.token() == "token 1"


async def test_what_is_remembered_is_bounded_and_the_oldest_goes() -> None:
    world = World(keys_max=3)
    for number in range(4):
        await world.token(key(number))
    assert len(world.keys._known) == 3
    assert await world.token(key(1)) == "token 2"
    assert await world.token(key(0)) == "token 5"


def test_ten_thousand_keys_fit() -> None:
    assert module.KEYS_MAX >= 10_000


async def test_refusals_are_bounded_and_push_no_key_out(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "REFUSED_MAX", 5)
    await world.token()
    for number in range(1, 10):
        world.merchants.unknown.add(key_sha256(key(number)))
        with pytest.raises(ApiKeyInvalid):
            await world.token(key(number))
    assert len(world.keys._refused) == 5
    assert await world.token() == "token 1"


async def test_exchanges_that_run_at_once_are_bounded(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "EXCHANGES_MAX", 2)
    world.merchants.gate = asyncio.Event()
    waiting = [asyncio.create_task(world.token(key(number))) for number in range(3)]
    await asyncio.sleep(0)
    world.merchants.gate.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(result) for result in results] == [str, str, Unavailable]
    assert world.exchanges == 2
    await world.token(key(2))


async def test_closing_ends_what_runs(world: World) -> None:
    world.merchants.gate = asyncio.Event()
    waiting = asyncio.create_task(world.token())
    await asyncio.sleep(0)
    await world.keys.close()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not world.keys._running


def request(*headers: tuple[bytes, bytes]) -> Request:
    return Request(
        {
            "type": "http",
            "method": "GET",
            "raw_path": b"/x",
            "query_string": b"",
            "headers": headers,
        }
    )


def shown(*headers: tuple[bytes, bytes]) -> str | None:
    given = request(*headers)
    return api_key_of(given, given.bearer())


KEY = key().encode()
BEARER = (b"authorization", b"Bearer " + KEY)
NAMED = (b"x-api-key", KEY)


@pytest.mark.parametrize("headers", [[BEARER], [NAMED], [BEARER, NAMED], [NAMED, BEARER]])
def test_a_key_stands_in_either_header_or_in_both(headers: list[tuple[bytes, bytes]]) -> None:
    assert shown(*headers) == key()


@pytest.mark.parametrize("headers", [[], [(b"authorization", b"Bearer eyJhbGciOiJ9.e30.x")]])
def test_a_request_without_a_key_has_none(headers: list[tuple[bytes, bytes]]) -> None:
    assert shown(*headers) is None


@pytest.mark.parametrize(
    "headers",
    [
        [BEARER, (b"x-api-key", key(1).encode())],
        [(b"authorization", b"Bearer eyJhbGciOiJ9.e30.x"), NAMED],
        [NAMED, NAMED],
        [(b"x-api-key", b"")],
        [(b"x-api-key", b"eyJhbGciOiJ9.e30.x")],
        [(b"x-api-key", b"\xff\xfe")],
    ],
)
def test_what_leaves_the_key_open_is_refused(headers: list[tuple[bytes, bytes]]) -> None:
    with pytest.raises(ApiKeyInvalid) as refusal:
        shown(*headers)
    assert key()[10:] not in str(refusal.value)


def test_another_scheme_is_refused_beside_a_key() -> None:
    with pytest.raises(TokenInvalid):
        shown((b"authorization", b"Basic " + KEY), NAMED)
