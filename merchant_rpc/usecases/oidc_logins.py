"""BeginOidcLogin, FinishOidcLogin: logging in at the identity provider of a firm."""

from __future__ import annotations

import base64
import hmac
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Final, Protocol

from sqlalchemy.ext.asyncio import AsyncConnection

from merchant_rpc.domain.errors import LinkInvalid, LoginFailed, OidcUnavailable, TotpRequired
from merchant_rpc.domain.member import email_digest
from merchant_rpc.domain.one_time_link import LinkKind
from merchant_rpc.domain.session import Person
from merchant_rpc.oidc import Identity
from merchant_rpc.store import people
from merchant_rpc.usecases.grants import Granted, Grants
from merchant_rpc.usecases.login_attempts import LoginAttempts, of_oidc_from, of_person
from merchant_rpc.usecases.one_time_links import OneTimeLinks
from merchant_rpc.usecases.second_factor import SecondFactor
from mesh.clock import Clock
from mesh.db import Database
from mesh.ids import Ids

LIFETIME: Final = timedelta(minutes=10)  # somebody types a password and a code meanwhile
_IDENTIFIED: Final = "member_id"  # in the payload of a log-in that waits for a code


class Provider(Protocol):
    """The identity provider; see `merchant_rpc.oidc.IdentityProvider`."""

    async def authorization_url(self, *, state: str, nonce: str, verifier: str) -> str:
        """The URL that a person opens to log in."""
        ...

    async def identify(self, code: str, *, nonce: str, verifier: str) -> Identity:
        """Exchanges the code of a redirect for who logged in."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class FinishOidcLogin:
    """What the browser kept, and what the redirect brought."""

    login_token: str = field(repr=False)
    state: str = field(repr=False)
    code: str = field(repr=False)
    client_address: str
    totp_code: str = field(default="", repr=False)  # "" without one


class OidcLogins:
    """BeginOidcLogin, FinishOidcLogin."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        ids: Ids,
        provider: Provider | None,
        links: OneTimeLinks,
        attempts: LoginAttempts,
        second_factor: SecondFactor,
        grants: Grants,
        needs_totp: bool,
    ) -> None:
        """
        Args:
            provider: None where none is configured.
            needs_totp: who enrolled a second factor here gives its code too. Else the provider's
                log-in is enough.
        """
        self._db = db
        self._clock = clock
        self._ids = ids
        self._provider = provider
        self._links = links
        self._attempts = attempts
        self._second_factor = second_factor
        self._grants = grants
        self._needs_totp = needs_totp

    async def begin_oidc_login(self, merchant_id: str, client_address: str) -> tuple[str, str]:
        """The URL to open, and a token that belongs to the browser.

        Raises:
            OidcUnavailable: no provider is configured. LoginDelayed: too many from this address.
        """
        if self._provider is None:
            raise OidcUnavailable
        token = await self._db.run(self._begin, merchant_id, client_address)
        url = await self._provider.authorization_url(
            state=_derived(token, "state"),
            nonce=_derived(token, "nonce"),
            verifier=_derived(token, "verifier"),
        )
        return url, token

    async def finish_oidc_login(self, command: FinishOidcLogin) -> Granted:
        """Logs in whom the provider names: a person that it named before, or the first time the one
        with the address that it verified. Who has a second factor here is told that its code is
        needed, and makes the same call again with it: the provider is not asked again.

        Raises:
            OidcUnavailable: no provider is configured. LinkInvalid: the log-in was not begun by
                this browser, was finished before or is too old. LoginFailed: the provider does not
                take the code, or names nobody whom we know, or the second factor's code is wrong.
                TotpRequired, LoginDelayed, MerchantNotFound.
        """
        if self._provider is None:
            raise OidcUnavailable
        token = command.login_token
        # Another state is the redirect of another log-in: somebody wants this browser to be
        # logged in as himself.
        if not hmac.compare_digest(_derived(token, "state"), command.state):
            raise LinkInvalid
        payload = await self._db.run(self._take, token)
        if _IDENTIFIED not in payload:
            identity = await self._provider.identify(
                command.code, nonce=_derived(token, "nonce"), verifier=_derived(token, "verifier")
            )
            found = await self._db.run(self._identified, command, payload, identity)
            if isinstance(found, Granted):
                return found
            payload = found
        if not command.totp_code:
            raise TotpRequired
        await self._db.run(self._attempts.count, (of_person(payload[_IDENTIFIED]),))
        return await self._db.run(self._prove, command, payload)

    async def _begin(self, tx: AsyncConnection, merchant_id: str, client_address: str) -> str:
        # Counted as wrong until it is finished: each leaves a row.
        await self._attempts.count(tx, (of_oidc_from(client_address),))
        return await self._links.issue(
            tx,
            LinkKind.OIDC_LOGIN,
            self._ids.new("OIDC"),
            {"merchant_id": merchant_id},
            lifetime=LIFETIME,
        )

    async def _take(self, tx: AsyncConnection, token: str) -> dict[str, Any]:
        payload = await self._links.peek(tx, LinkKind.OIDC_LOGIN, token)
        if _IDENTIFIED in payload:
            return payload  # used up together with the code that it waits for
        return await self._links.redeem(tx, LinkKind.OIDC_LOGIN, token)

    async def _identified(
        self,
        tx: AsyncConnection,
        command: FinishOidcLogin,
        payload: dict[str, Any],
        identity: Identity,
    ) -> Granted | dict[str, Any]:
        """A session, or the payload of a log-in that waits for the code of a second factor."""
        person = await self._known(tx, identity)
        if person is None or not person.may_log_in:
            raise LoginFailed
        await self._attempts.take_back(tx, (of_oidc_from(command.client_address),))
        if self._needs_totp and person.totp_secret is not None:
            waiting = {**payload, _IDENTIFIED: person.member_id}
            await self._links.reopen(tx, command.login_token, waiting)
            return waiting
        return await self._begin_session(tx, command, payload, person, used_code=False)

    async def _prove(
        self, tx: AsyncConnection, command: FinishOidcLogin, payload: dict[str, Any]
    ) -> Granted:
        """A session for somebody whom the provider named, with the code of his second factor. A
        wrong code leaves the log-in open; its attempt is counted.
        """
        await self._links.redeem(tx, LinkKind.OIDC_LOGIN, command.login_token)
        person = await people.lock_person(tx, payload[_IDENTIFIED])
        if person is None or not person.may_log_in:
            raise LoginFailed
        if not await self._second_factor.use(tx, person, command.totp_code):
            raise LoginFailed
        await self._attempts.take_back(tx, (of_person(person.member_id),))
        return await self._begin_session(tx, command, payload, person, used_code=True)

    async def _begin_session(
        self,
        tx: AsyncConnection,
        command: FinishOidcLogin,
        payload: dict[str, Any],
        person: Person,
        *,
        used_code: bool,
    ) -> Granted:
        return await self._grants.begin(
            tx,
            person,
            wanted=str(payload["merchant_id"]),
            client_address=command.client_address,
            method="FinishOidcLogin",
            used_code=used_code,
        )

    async def _known(self, tx: AsyncConnection, identity: Identity) -> Person | None:
        person = await people.find_by_oidc_sub(tx, identity.sub)
        if person is not None or not identity.email:
            return person
        person = await people.find_by_email(tx, email_digest(identity.email))
        if person is None or not person.may_log_in:
            return None
        # Once. The address may belong to somebody else at the provider tomorrow.
        is_first = await people.bind_oidc_sub(
            tx, person.member_id, identity.sub, at=self._clock.now()
        )
        return person if is_first else None


def _derived(login_token: str, purpose: str) -> str:
    """43 characters of URLs that only the browser with the token and we can make: nothing of a
    log-in but the digest of its token is kept.
    """
    made = hmac.digest(login_token.encode(), purpose.encode(), "sha256")
    return base64.urlsafe_b64encode(made).rstrip(b"=").decode()
