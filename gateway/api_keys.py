"""API keys: each is exchanged at merchant_rpc for a token of 30 seconds, and the token
is what travels inward. The key itself ends here: what is sent is its SHA-256, and what is kept is
a digest under a secret of this process.

Tokens are kept while they are valid, so that a key in use costs a look-up in a dictionary. A token
is renewed in the background before it ends. What was revoked is asked for every second: a revoked
key is refused here within two seconds. While merchant_rpc is away, keys work until their tokens
end; after that nothing is open.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass
from hashlib import blake2s
from secrets import token_bytes
from time import monotonic
from typing import Final, Protocol

from gateway.errors import ApiKeyInvalid, RateLimited
from gateway.limits import readable_address
from gateway.request import Request
from mesh.api_key_format import PREFIX_CHARACTERS, begins_like_key, is_well_formed, key_sha256
from mesh.clock import Clock
from mesh.errors import MeshError, Unavailable
from mesh.limits import network_of
from mesh.logs import get_logger
from mesh.rate_limit import RateLimiter

TOKEN_SECONDS_MAX: Final = 30.0  # what merchant_rpc gives
REFRESH_SECONDS: Final = 20.0  # age at which a token in use is renewed
RETRY_SECONDS: Final = 1.0  # between attempts to renew one
REFUSED_SECONDS: Final = 5.0  # how long a refusal is remembered
POLL_SECONDS: Final = 1.0  # between questions for what was revoked
MISSES_PER_SECOND: Final = 20  # of one client address: keys that we do not know
KEYS_MAX: Final = 20_000  # some 2 KB each
REFUSED_MAX: Final = 20_000  # of their own, so that guesses push no key out
EXCHANGES_MAX: Final = 500  # that run at once

log = get_logger()


@dataclass(frozen=True, slots=True, kw_only=True)
class ExchangedKey:
    """What merchant_rpc gives for a key."""

    token: str
    expires_at_seconds: float  # since 1970, on the clock of merchant_rpc
    subject: str
    merchant_id: str
    is_bound_to_address: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RevokedKeys:
    """What was revoked in the last minutes."""

    subjects: frozenset[str]
    merchant_ids: frozenset[str]


class KeyService(Protocol):
    """merchant_rpc as the gateway sees it."""

    async def exchange(
        self, *, key_sha256: bytes, prefix: str, client_address: str
    ) -> ExchangedKey:
        """A token for a key.

        Raises:
            ApiKeyInvalid: refused. Unavailable: not answered in time.
        """
        ...

    async def revoked(self) -> RevokedKeys:
        """What was revoked in the last minutes. Raises Unavailable."""
        ...


@dataclass(slots=True, kw_only=True)
class _Known:
    key: ExchangedKey
    refresh_at: float
    until: float


class ApiKeys:
    """The keys that are in use at this process, and their tokens."""

    def __init__(
        self,
        service: KeyService,
        *,
        clock: Clock,
        now: Callable[[], float] = monotonic,
        keys_max: int = KEYS_MAX,
    ) -> None:
        """Takes `now`, a monotonic clock in seconds."""
        self._service = service
        self._clock = clock
        self._now = now
        self._keys_max = keys_max
        # BLAKE2s rather than the SHA-256 of OpenSSL, which costs 4 µs more between other work.
        self._secret = token_bytes(blake2s.MAX_KEY_SIZE)
        # By the digest of a key; with the address behind it where a key is bound to addresses.
        # The one that was exchanged last stands last.
        self._known: dict[bytes, _Known] = {}
        self._refused: dict[bytes, float] = {}  # digest and address -> until when
        self._running: dict[bytes, asyncio.Task[_Known]] = {}  # by digest and address
        self._of_key: dict[bytes, asyncio.Task[_Known]] = {}  # the first of them of each key
        self._limiter = RateLimiter(per_second=MISSES_PER_SECOND, burst=MISSES_PER_SECOND, now=now)
        self._revoked: frozenset[str] = frozenset()
        self._last_until = 0.0

    async def token(self, key: str, address: str) -> str:
        """A token for a key that a client at an address shows.

        Raises:
            ApiKeyInvalid: malformed, unknown, revoked, expired or not for this address.
            RateLimited: too many unknown keys from there. Unavailable: merchant_rpc does not
                answer, and we have no token that is still valid.
        """
        digest = blake2s(key.encode(), key=self._secret).digest()
        known = self._known.get(digest)
        if known is None:
            known = self._known.get(digest + readable_address(address).encode())
        moment = self._now()
        if known is None or moment >= known.until:
            known = await self._exchanged(
                key, digest, readable_address(address), is_known=known is not None
            )
        elif moment >= known.refresh_at:
            known.refresh_at = moment + RETRY_SECONDS
            self._begin(key, digest, readable_address(address))
        return known.key.token

    async def poll_once(self) -> int:
        """Asks what was revoked, and forgets those keys. Nothing is asked while no key is in use.
        Returns 0: the next question comes after a pause.
        """
        if self._now() >= self._last_until:
            return 0
        try:
            revoked = await self._service.revoked()
        except MeshError as error:
            log.warning("revocations_unknown", reason=error.reason)
            return 0
        self._revoked = revoked.subjects
        # A merchant's keys are asked for anew while it is in the list: what changed may not be the
        # last change.
        gone = [
            place
            for place, known in self._known.items()
            if known.key.subject in revoked.subjects
            or known.key.merchant_id in revoked.merchant_ids
        ]
        for place in gone:
            del self._known[place]
        return 0

    async def close(self) -> None:
        """Ends the exchanges that run."""
        running = list(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    async def _exchanged(self, key: str, digest: bytes, address: str, *, is_known: bool) -> _Known:
        if not is_well_formed(key):
            raise ApiKeyInvalid
        place = digest + address.encode()
        if self._refused.get(place, 0) > self._now():
            raise ApiKeyInvalid
        other = self._of_key.get(digest)
        if other is not None and place not in self._running:
            # Somebody at another address shows the same key; most keys are good for both.
            await asyncio.wait([other])
            known = self._known.get(digest)
            if known is not None and self._now() < known.until:
                return known
        if not is_known and place not in self._running:
            missing_seconds = self._limiter.take(network_of(address))
            if missing_seconds:
                raise RateLimited(retry_after_seconds=missing_seconds)
        running = self._begin(key, digest, address)
        if running is None:
            raise Unavailable("Too many keys are looked at.", retry_after_seconds=RETRY_SECONDS)
        return await asyncio.shield(running)

    def _begin(self, key: str, digest: bytes, address: str) -> asyncio.Task[_Known] | None:
        """The exchange that runs for a key and address, or a new one; None when too many run."""
        place = digest + address.encode()
        running = self._running.get(place)
        if running is not None:
            return running
        if len(self._running) >= EXCHANGES_MAX:
            return None
        task = asyncio.create_task(
            self._exchange(
                prefix=key[:PREFIX_CHARACTERS],
                sha256=key_sha256(key),
                digest=digest,
                address=address,
            ),
            context=Context(),
        )
        self._running[place] = task
        self._of_key.setdefault(digest, task)
        task.add_done_callback(lambda task: self._ended(task, digest, place))
        return task

    def _ended(self, task: asyncio.Task[_Known], digest: bytes, place: bytes) -> None:
        del self._running[place]
        if self._of_key.get(digest) is task:
            del self._of_key[digest]
        if not task.cancelled():
            task.exception()  # whoever waited has it; a renewal has nobody who waits

    async def _exchange(self, *, prefix: str, sha256: bytes, digest: bytes, address: str) -> _Known:
        sent = self._now()
        try:
            key = await self._service.exchange(
                key_sha256=sha256, prefix=prefix, client_address=address
            )
        except ApiKeyInvalid:
            self._refuse(digest, address)
            raise
        if key.subject in self._revoked:  # it was revoked while its token was made
            self._refuse(digest, address)
            raise ApiKeyInvalid
        lifetime = min(TOKEN_SECONDS_MAX, key.expires_at_seconds - self._clock.now().timestamp())
        known = _Known(key=key, refresh_at=sent + REFRESH_SECONDS, until=sent + lifetime)
        self._remember(digest + address.encode() if key.is_bound_to_address else digest, known)
        return known

    def _remember(self, place: bytes, known: _Known) -> None:
        self._known.pop(place, None)
        self._known[place] = known
        if len(self._known) > self._keys_max:
            del self._known[next(iter(self._known))]
        self._last_until = max(self._last_until, known.until)

    def _refuse(self, digest: bytes, address: str) -> None:
        place = digest + address.encode()
        self._known.pop(digest, None)
        self._known.pop(place, None)
        self._refused.pop(place, None)
        self._refused[place] = self._now() + REFUSED_SECONDS
        if len(self._refused) > REFUSED_MAX:
            del self._refused[next(iter(self._refused))]


def api_key_of(request: Request, bearer: str | None) -> str | None:
    """The API key of a request, from `Authorization: Bearer` or from `X-API-Key`; None when it has
    none.

    Raises:
        ApiKeyInvalid: the headers differ, or X-API-Key stands twice or has no text of a key.
    """
    named = request.headers.get(b"x-api-key")
    if named is None:
        return bearer if bearer is not None and begins_like_key(bearer) else None
    key = named.decode("latin-1")
    if request.once(b"x-api-key") is None or not begins_like_key(key):
        raise ApiKeyInvalid
    if bearer is not None and bearer != key:
        raise ApiKeyInvalid("Authorization and X-API-Key differ.")
    return key
