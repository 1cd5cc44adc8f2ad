"""The use cases of merchant_rpc, put together. `__main__` passes the real clock, tests pass their
own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from paymesh.merchant.v1 import (
    api_key_pb2_grpc,
    member_pb2_grpc,
    merchant_pb2_grpc,
    session_pb2_grpc,
)

from merchant_rpc.passwords import Passwords
from merchant_rpc.people_key import PeopleKey
from merchant_rpc.peppers import Peppers
from merchant_rpc.servicer.api_keys import ApiKeyServicer
from merchant_rpc.servicer.members import MemberServicer
from merchant_rpc.servicer.merchants import MerchantServicer
from merchant_rpc.servicer.sessions import SessionServicer
from merchant_rpc.usecases.actions import Actions
from merchant_rpc.usecases.api_keys import ApiKeys
from merchant_rpc.usecases.attempt_limits import AttemptLimits
from merchant_rpc.usecases.grants import Grants
from merchant_rpc.usecases.invitations import Invitations
from merchant_rpc.usecases.key_exchanges import KeyExchanges
from merchant_rpc.usecases.login_attempts import LoginAttempts
from merchant_rpc.usecases.logins import Logins
from merchant_rpc.usecases.mail import LoggedMail, Mail
from merchant_rpc.usecases.members import Members
from merchant_rpc.usecases.merchants import Merchants
from merchant_rpc.usecases.oidc_logins import OidcLogins, Provider
from merchant_rpc.usecases.one_time_links import OneTimeLinks
from merchant_rpc.usecases.operators import Operators
from merchant_rpc.usecases.password_resets import PasswordResets
from merchant_rpc.usecases.second_factor import SecondFactor
from merchant_rpc.usecases.sessions import Sessions
from merchant_rpc.usecases.shop_settings import SettingsOfShops
from merchant_rpc.usecases.sign_ups import SignUps
from merchant_rpc.workers import make_workers
from mesh.clock import Clock
from mesh.db import Database
from mesh.ids import Ids
from mesh.paging import PageTokens
from mesh.rate_limit import RateLimiter
from mesh.relay import Relay
from mesh.server import MeshServer
from mesh.token_issuers import OwnTokenSigner
from mesh.worker import Worker

KEY_ATTEMPTS_PER_SECOND: Final = 20  # of one client network
# Another transaction created the same thing first: this one runs again and finds it.
RETRY_CONSTRAINTS = (
    "pk_merchant",
    "uq_member_email_digest",
    "uq_member_oidc_sub",
    "pk_membership",
    "pk_log_chain",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class MerchantConfig:
    """What a deployment chooses; see MerchantSettings."""

    public_url: str
    logs_mail: bool  # development: mail goes into the log; else nothing delivers it
    scan_interval_seconds: float
    reserved_merchant_ids: Collection[str] = ()
    oidc_needs_totp: bool = True


class MerchantApp:
    """Use cases and workers over one database."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        ids: Ids,
        page_tokens: PageTokens,
        signer: OwnTokenSigner,
        operator_signer: OwnTokenSigner | None,
        peppers: Peppers,
        passwords: Passwords,
        people_key: PeopleKey,
        identity_provider: Provider | None,
        random_bytes: Callable[[int], bytes],
        config: MerchantConfig,
    ) -> None:
        """
        Args:
            signer, operator_signer: of tokens of keys and members, and of operators; without the
                second one operators do not log in here.
            identity_provider: of a firm, where one is configured.
            random_bytes: for what nobody may guess.
        """
        # shared by the use cases
        self.actions = Actions(clock=clock)
        self.links = OneTimeLinks(clock=clock, random_bytes=random_bytes)
        self.mail = Mail(
            clock=clock, ids=ids, public_url=config.public_url, is_available=config.logs_mail
        )
        # sessions
        self.attempts = LoginAttempts(clock=clock)
        self.operators = Operators(clock=clock, ids=ids, links=self.links, actions=self.actions)
        grants = Grants(
            clock=clock,
            ids=ids,
            key=people_key,
            random_bytes=random_bytes,
            actions=self.actions,
            members=signer,
            operators=operator_signer,
        )
        self.second_factor = SecondFactor(
            db=db,
            clock=clock,
            key=people_key,
            passwords=passwords,
            attempts=self.attempts,
            actions=self.actions,
            random_bytes=random_bytes,
            name="paymesh",
        )
        self.logins = Logins(
            db=db,
            clock=clock,
            passwords=passwords,
            attempts=self.attempts,
            second_factor=self.second_factor,
            grants=grants,
        )
        self.sessions = Sessions(
            db=db, clock=clock, key=people_key, grants=grants, actions=self.actions
        )
        self.password_resets = PasswordResets(
            db=db,
            clock=clock,
            passwords=passwords,
            attempts=self.attempts,
            links=self.links,
            mail=self.mail,
            actions=self.actions,
        )
        self.oidc_logins = OidcLogins(
            db=db,
            clock=clock,
            ids=ids,
            provider=identity_provider,
            links=self.links,
            attempts=self.attempts,
            second_factor=self.second_factor,
            grants=grants,
            needs_totp=config.oidc_needs_totp,
        )
        # merchants and members
        limits = AttemptLimits(db=db, clock=clock)
        self.merchants = Merchants(
            db=db, clock=clock, page_tokens=page_tokens, actions=self.actions
        )
        self.settings = SettingsOfShops(
            db=db, clock=clock, page_tokens=page_tokens, actions=self.actions
        )
        self.sign_ups = SignUps(
            db=db,
            clock=clock,
            ids=ids,
            actions=self.actions,
            links=self.links,
            mail=self.mail,
            limits=limits,
            passwords=passwords,
            reserved_ids=config.reserved_merchant_ids,
        )
        self.members = Members(db=db, clock=clock, actions=self.actions)
        self.invitations = Invitations(
            db=db,
            clock=clock,
            ids=ids,
            actions=self.actions,
            links=self.links,
            mail=self.mail,
            limits=limits,
            passwords=passwords,
            operators=self.operators,
        )
        # keys
        self.api_keys = ApiKeys(
            db=db,
            clock=clock,
            ids=ids,
            page_tokens=page_tokens,
            actions=self.actions,
            peppers=peppers,
            random_bytes=random_bytes,
        )
        self.key_exchanges = KeyExchanges(
            db=db,
            clock=clock,
            peppers=peppers,
            signer=signer,
            attempts=RateLimiter(per_second=KEY_ATTEMPTS_PER_SECOND, burst=KEY_ATTEMPTS_PER_SECOND),
        )
        # relays and workers
        self.mail_relay = Relay(db=db, clock=clock, destination=LoggedMail())
        relays = [self.mail_relay] if config.logs_mail else []
        self.workers: list[Worker] = make_workers(
            db=db,
            links=self.links,
            sign_ups=self.sign_ups,
            key_exchanges=self.key_exchanges,
            sessions=self.sessions,
            attempts=self.attempts,
            relays=relays,
            idle_seconds=config.scan_interval_seconds,
        )

    def add_to(self, server: MeshServer) -> None:
        """Puts the services of merchant_rpc behind a server's pipeline."""
        server.add(
            merchant_pb2_grpc.add_MerchantServiceServicer_to_server,
            MerchantServicer(self.merchants, self.sign_ups, self.settings),
        )
        server.add(
            member_pb2_grpc.add_MemberServiceServicer_to_server,
            MemberServicer(self.members, self.invitations),
        )
        # sessions
        server.add(
            session_pb2_grpc.add_SessionServiceServicer_to_server,
            SessionServicer(
                logins=self.logins,
                sessions=self.sessions,
                second_factor=self.second_factor,
                password_resets=self.password_resets,
                oidc_logins=self.oidc_logins,
            ),
        )
        # keys
        server.add(
            api_key_pb2_grpc.add_ApiKeyServiceServicer_to_server,
            ApiKeyServicer(keys=self.api_keys, exchanges=self.key_exchanges),
        )
