"""The use cases of merchant_rpc, put together. `__main__` passes the real clock, tests pass their
own.
"""

from __future__ import annotations

from dataclasses import dataclass

from merchant_rpc.usecases.actions import Actions
from merchant_rpc.usecases.mail import LoggedMail, Mail
from merchant_rpc.usecases.one_time_links import OneTimeLinks
from merchant_rpc.workers import make_workers
from mesh.clock import Clock
from mesh.db import Database
from mesh.ids import Ids
from mesh.paging import PageTokens
from mesh.relay import Relay
from mesh.server import MeshServer
from mesh.worker import Worker

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
        config: MerchantConfig,
    ) -> None:
        del page_tokens
        # shared by the use cases
        self.actions = Actions(clock=clock)
        self.links = OneTimeLinks(clock=clock)
        self.mail = Mail(
            clock=clock, ids=ids, public_url=config.public_url, is_available=config.logs_mail
        )
        # relays and workers
        self.mail_relay = Relay(db=db, clock=clock, destination=LoggedMail())
        relays = [self.mail_relay] if config.logs_mail else []
        self.workers: list[Worker] = make_workers(
            db=db, links=self.links, relays=relays, idle_seconds=config.scan_interval_seconds
        )

    def add_to(self, server: MeshServer) -> None:
        """Puts the services of merchant_rpc behind a server's pipeline."""
        # merchants and members
        # sessions
        # keys
        del server
