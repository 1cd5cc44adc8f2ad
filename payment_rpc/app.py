"""Builds the use cases, servicers and workers of payment_rpc. `__main__` passes what is real; tests
pass clocks, channels and clients of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Protocol

from paymesh.payment.v1 import (
    callback_pb2_grpc,
    channel_account_pb2_grpc,
    ledger_pb2_grpc,
    payment_pb2_grpc,
    reconciliation_pb2_grpc,
    refund_pb2_grpc,
)
from redis.asyncio import Redis

from mesh.clock import Clock
from mesh.db import Database
from mesh.events import StreamDestination
from mesh.ids import Ids
from mesh.paging import PageTokens
from mesh.relay import Relay
from mesh.server import MeshServer
from mesh.token_issuers import OwnTokenSigner
from payment_rpc.account_keys import AccountKeys
from payment_rpc.cache import PaymentCache
from payment_rpc.channels import Channel, HintChannel
from payment_rpc.channels.providers import PROVIDERS, Provider
from payment_rpc.channels.registry import Channels
from payment_rpc.domain.attempt import Schedule
from payment_rpc.servicer.callbacks import CallbackServicer
from payment_rpc.servicer.channel_accounts import ChannelAccountServicer
from payment_rpc.servicer.ledger import LedgerServicer
from payment_rpc.servicer.payments import PaymentServicer
from payment_rpc.servicer.reconciliation import ReconciliationServicer
from payment_rpc.servicer.refunds import RefundServicer
from payment_rpc.servicer.wallets import WalletServicer
from payment_rpc.usecases.account_channels import AccountChannels
from payment_rpc.usecases.account_credentials import AccountRules
from payment_rpc.usecases.callback_log import CallbackLog
from payment_rpc.usecases.callback_questions import CallbackQuestions
from payment_rpc.usecases.callbacks import Callbacks
from payment_rpc.usecases.cancel import Cancellation
from payment_rpc.usecases.captures import Captures
from payment_rpc.usecases.channel_accounts import ChannelAccounts
from payment_rpc.usecases.channel_choice import ChannelChoice
from payment_rpc.usecases.channel_results import ChannelResults
from payment_rpc.usecases.channel_steps import ChannelSteps
from payment_rpc.usecases.checkouts import CheckoutTokens
from payment_rpc.usecases.closing import Expiry
from payment_rpc.usecases.conflicts import Conflicts
from payment_rpc.usecases.customers import Customers
from payment_rpc.usecases.differences import Differences
from payment_rpc.usecases.ledger_verification import LedgerVerification
from payment_rpc.usecases.merchant_terms import EnvironmentTerms, TermsOfMerchants
from payment_rpc.usecases.messages import PAYMENT_TOPIC, EventDestination
from payment_rpc.usecases.mock_callbacks import MockCallbacks
from payment_rpc.usecases.order_answers import OrderDestination, OrderUpdates
from payment_rpc.usecases.order_reader import OrderReader
from payment_rpc.usecases.payment_completion import (
    ANSWER_PAUSES_SECONDS,
    ORDER_WAIT_SECONDS,
    ChargingLimits,
    PaymentCompletion,
)
from payment_rpc.usecases.payment_sending import PaymentSending
from payment_rpc.usecases.payment_start import PaymentStart
from payment_rpc.usecases.payments import Payments
from payment_rpc.usecases.polling import Polling
from payment_rpc.usecases.queries import PaymentQueries, WalletQueries
from payment_rpc.usecases.refund_results import RefundResults
from payment_rpc.usecases.refund_start import RefundStart
from payment_rpc.usecases.refunds import Refunds
from payment_rpc.usecases.statement_imports import StatementImports
from payment_rpc.workers import IMPORT_WORKER, make_workers, relay_worker


class OrderService(OrderReader, OrderUpdates, Protocol):
    """order_rpc as payment_rpc sees it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentConfig:
    """What a deployment chooses; see PaymentSettings. Only tests choose the last two; see
    ChargingLimits.
    """

    channel_timeout_seconds: float
    attempt_lease_seconds: float
    scan_interval_seconds: float
    scan_batch_size: int
    scan_threshold_seconds: float = 0
    close_grace_seconds: float = 300
    scan_action_retention_days: int = 30
    order_wait_seconds: float = ORDER_WAIT_SECONDS
    answer_pauses_seconds: tuple[float, ...] = ANSWER_PAUSES_SECONDS


class PaymentApp:
    """Use cases and workers over one database."""

    def __init__(
        self,
        *,
        db: Database,
        clock: Clock,
        ids: Ids,
        orders: OrderService,
        channels: Mapping[str, Channel],
        redis: Redis | None,
        config: PaymentConfig,
        page_tokens: PageTokens,
        return_urls: Mapping[str, tuple[str, ...]],
        account_keys: AccountKeys | None = None,
        account_rules: AccountRules | None = None,
        providers: Mapping[str, Provider] = PROVIDERS,
        hints: HintChannel | None = None,
        events: Redis | None = None,
        checkout_signer: OwnTokenSigner | None = None,
        terms: TermsOfMerchants | None = None,
    ) -> None:
        """`redis` holds the cache, `events` the event streams; None: the same one.
        `channels` are those of the configuration, `hints` is the channel of source 001.
        `account_keys`: None: no merchant has accounts at `providers`.
        `checkout_signer`: None for no checkout tokens. `terms`: of merchants; None: all have
        those of `return_urls`.
        """
        self._clock = clock
        self._page_tokens = page_tokens
        cache = PaymentCache(redis, clock)
        timeout_seconds = config.channel_timeout_seconds
        lease = timedelta(seconds=config.attempt_lease_seconds)
        limits = ChargingLimits(
            channel_timeout_seconds=timeout_seconds,
            order_wait_seconds=config.order_wait_seconds,
            answer_pauses_seconds=config.answer_pauses_seconds,
        )
        self.order_relay = Relay(
            db=db, destination=OrderDestination(orders=orders, clock=clock, ids=ids), clock=clock
        )
        self.channel_results = ChannelResults(
            db=db, clock=clock, ids=ids, cache=cache, wake_relay=self._wake_order_relay
        )
        self.refund_results = RefundResults(db=db, clock=clock, ids=ids, cache=cache)
        account_keys = account_keys or AccountKeys.none()
        account_rules = account_rules or AccountRules()
        self.account_channels = AccountChannels(
            db=db, clock=clock, keys=account_keys, providers=providers, rules=account_rules
        )
        self.channel_accounts = ChannelAccounts(
            db=db,
            clock=clock,
            ids=ids,
            page_tokens=page_tokens,
            keys=account_keys,
            providers=providers,
            rules=account_rules,
            channels=self.account_channels,
        )
        registry = Channels(
            channels, self.account_channels.load, self.account_channels.load_addressed
        )
        steps = ChannelSteps(db=db, clock=clock, lease=lease)
        self.polling = Polling(
            db=db,
            clock=clock,
            channel_results=self.channel_results,
            channels=registry,
            steps=steps,
            schedule=Schedule(
                threshold=timedelta(seconds=config.scan_threshold_seconds),
                close_grace=timedelta(seconds=config.close_grace_seconds),
            ),
            batch=config.scan_batch_size,
            timeout_seconds=timeout_seconds,
        )
        self.expiry = Expiry(db=db, clock=clock, batch=config.scan_batch_size)
        self.cancellation = Cancellation(db=db, clock=clock, polling=self.polling)
        self.captures = Captures(
            db=db,
            clock=clock,
            ids=ids,
            channels=registry,
            channel_results=self.channel_results,
            cancellation=self.cancellation,
            lease=lease,
            timeout_seconds=timeout_seconds,
        )
        terms = terms or EnvironmentTerms(return_urls)
        start = PaymentStart(db=db, clock=clock, ids=ids, lease=lease)
        self.payments = Payments(
            clock=clock,
            orders=orders,
            start=start,
            completion=PaymentCompletion(
                db=db,
                clock=clock,
                start=start,
                channel_results=self.channel_results,
                polling=self.polling,
                cache=cache,
                inform_order=self.order_relay.deliver,
                limits=limits,
            ),
            cancellation=self.cancellation,
            choice=ChannelChoice(registry, self.account_channels),
            sending=PaymentSending(channels=registry, steps=steps, limits=limits, terms=terms),
            terms=terms,
        )
        self.refund_start = RefundStart(db=db, clock=clock, ids=ids, channels=registry, lease=lease)
        self.refunds = Refunds(
            db=db,
            clock=clock,
            start=self.refund_start,
            cache=cache,
            channels=registry,
            results=self.refund_results,
            lease=lease,
            batch=config.scan_batch_size,
            timeout_seconds=timeout_seconds,
        )
        self.conflicts = Conflicts(db=db, clock=clock, ids=ids)
        self.payment_queries = PaymentQueries(db=db, cache=cache, page_tokens=page_tokens)
        self.checkout_tokens = CheckoutTokens(clock=clock, signer=checkout_signer)
        self.wallet_queries = WalletQueries(db=db)
        self.ledger_verification = LedgerVerification(db=db)
        self.statement_imports = StatementImports(
            db=db,
            clock=clock,
            ids=ids,
            channels=registry,
            wake_worker=lambda: self._wake(IMPORT_WORKER),
        )
        self.differences = Differences(
            db=db,
            clock=clock,
            cache=cache,
            channels=registry,
            channel_results=self.channel_results,
            refund_results=self.refund_results,
            timeout_seconds=timeout_seconds,
        )
        callback_log = CallbackLog(db=db, clock=clock)
        self.callback_questions = CallbackQuestions(db=db, clock=clock, polling=self.polling)
        self.callbacks = Callbacks(
            db=db,
            clock=clock,
            ids=ids,
            log=callback_log,
            questions=self.callback_questions,
            channel_results=self.channel_results,
            refund_results=self.refund_results,
            channels=registry,
            timeout_seconds=timeout_seconds,
        )
        self.customers = Customers(db=db)
        self.mock_callbacks = MockCallbacks(
            db=db,
            clock=clock,
            ids=ids,
            log=callback_log,
            questions=self.callback_questions,
            channel=hints,
            timeout_seconds=timeout_seconds,
        )
        self.workers = make_workers(
            db=db,
            clock=clock,
            polling=self.polling,
            expiry=self.expiry,
            refunds=self.refunds,
            callback_questions=self.callback_questions,
            statement_imports=self.statement_imports,
            relays=[self.order_relay, *_event_relays(events or redis, db, clock, cache)],
            idle_seconds=config.scan_interval_seconds,
            scan_action_retention=timedelta(days=config.scan_action_retention_days),
        )

    def add_to(self, server: MeshServer) -> None:
        """Adds the servicers of payment_rpc to a server."""
        server.add(
            payment_pb2_grpc.add_PaymentServiceServicer_to_server,
            PaymentServicer(
                payments=self.payments,
                cancellation=self.cancellation,
                captures=self.captures,
                conflicts=self.conflicts,
                queries=self.payment_queries,
                checkout_tokens=self.checkout_tokens,
                customers=self.customers,
                clock=self._clock,
            ),
        )
        server.add(
            refund_pb2_grpc.add_RefundServiceServicer_to_server,
            RefundServicer(refunds=self.refunds, page_tokens=self._page_tokens),
        )
        server.add(
            ledger_pb2_grpc.add_WalletServiceServicer_to_server,
            WalletServicer(
                payments=self.payments,
                queries=self.wallet_queries,
                clock=self._clock,
                page_tokens=self._page_tokens,
            ),
        )
        server.add(
            ledger_pb2_grpc.add_LedgerServiceServicer_to_server,
            LedgerServicer(self.ledger_verification),
        )
        server.add(
            reconciliation_pb2_grpc.add_ReconciliationServiceServicer_to_server,
            ReconciliationServicer(
                statement_imports=self.statement_imports,
                differences=self.differences,
                page_tokens=self._page_tokens,
            ),
        )
        server.add(
            callback_pb2_grpc.add_CallbackServiceServicer_to_server,
            CallbackServicer(callbacks=self.callbacks, mock_callbacks=self.mock_callbacks),
        )

        server.add(
            channel_account_pb2_grpc.add_ChannelAccountServiceServicer_to_server,
            ChannelAccountServicer(self.channel_accounts),
        )

    def _wake_order_relay(self) -> None:
        self._wake(relay_worker(self.order_relay))

    def _wake(self, name: str) -> None:
        for worker in self.workers:
            if worker.name == name:
                worker.wake()


def _event_relays(
    events: Redis | None, db: Database, clock: Clock, cache: PaymentCache
) -> list[Relay]:
    if events is None:
        return []
    destination = EventDestination(
        stream=StreamDestination(events, PAYMENT_TOPIC), db=db, cache=cache
    )
    return [Relay(db=db, clock=clock, shares_fate=True, destination=destination)]
