"""The use cases of merchant_rpc, put together. `__main__` passes the real clock, tests pass their
own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from paymesh.merchant.v1 import api_key_pb2_grpc

from merchant_rpc.peppers import Peppers
from merchant_rpc.servicer.api_keys import ApiKeyServicer
from merchant_rpc.usecases.actions import Actions
from merchant_rpc.usecases.api_keys import ApiKeys
from merchant_rpc.usecases.key_exchanges import KeyExchanges
from merchant_rpc.usecases.mail import LoggedMail, Mail
from merchant_rpc.usecases.one_time_links import OneTimeLinks
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
RETRY_CONSTRAINTS = ("pk_merchant", "uq_member_email_digest", "pk_membership", "pk_log_chain")


@dataclass(frozen=True, slots=True, kw_only=True)
class MerchantConfig:
    """What a deployment chooses; see MerchantSettings."""

    public_url: str
    logs_mail: bool  # development: mail goes into the log; else nothing delivers it
    scan_interval_seconds: float


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
        peppers: Peppers,
        random_bytes: Callable[[int], bytes],
        config: MerchantConfig,
    ) -> None:
        """Takes `random_bytes`, for what nobody may guess."""
        # shared by the use cases
        self.actions = Actions(clock=clock)
        self.links = OneTimeLinks(clock=clock)
        self.mail = Mail(
            clock=clock, ids=ids, public_url=config.public_url, is_available=config.logs_mail
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
            key_exchanges=self.key_exchanges,
            relays=relays,
            idle_seconds=config.scan_interval_seconds,
        )

    def add_to(self, server: MeshServer) -> None:
        """Puts the services of merchant_rpc behind a server's pipeline."""
        # merchants and members
        # sessions
        # keys
        server.add(
            api_key_pb2_grpc.add_ApiKeyServiceServicer_to_server,
            ApiKeyServicer(keys=self.api_keys, exchanges=self.key_exchanges),
        )
