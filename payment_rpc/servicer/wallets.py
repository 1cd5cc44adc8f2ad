"""WalletService: messages to use cases and back."""

from __future__ import annotations

from typing import Any

from paymesh.payment.v1 import ledger_pb2, ledger_pb2_grpc

from mesh.call import current_caller, current_idempotency_key
from mesh.clock import Clock
from mesh.money import RequestedAmount
from mesh.paging import PageTokens
from mesh.times import timestamp
from payment_rpc.domain.card import Card
from payment_rpc.domain.wallet import Wallet, WalletEntry
from payment_rpc.servicer.messages import payment_message
from payment_rpc.usecases.payment_requests import TopUp
from payment_rpc.usecases.payments import Payments
from payment_rpc.usecases.queries import WalletQueries


class WalletServicer(ledger_pb2_grpc.WalletServiceServicer):
    """A buyer's balance."""

    def __init__(
        self, *, payments: Payments, queries: WalletQueries, clock: Clock, page_tokens: PageTokens
    ) -> None:
        self._payments = payments
        self._queries = queries
        self._clock = clock
        self._page_tokens = page_tokens

    async def GetWallet(
        self, request: ledger_pb2.GetWalletRequest, context: Any
    ) -> ledger_pb2.GetWalletResponse:
        """Shows a balance."""
        wallet = await self._queries.get_wallet(
            merchant_id=request.merchant_id, user_id=request.user_id, currency=request.currency
        )
        return ledger_pb2.GetWalletResponse(wallet=_wallet_message(wallet))

    async def TopUp(
        self, request: ledger_pb2.TopUpRequest, context: Any
    ) -> ledger_pb2.TopUpResponse:
        """Pays into a wallet by card."""
        details = request.credit_card
        card = Card.parse(
            number=details.credit_card_number,
            cvv=details.credit_card_cvv,
            expiration_year=details.credit_card_expiration_year,
            expiration_month=details.credit_card_expiration_month,
            today=self._clock.now().date(),
        )
        payment = await self._payments.top_up(
            TopUp(
                merchant_id=request.merchant_id,
                user_id=request.user_id,
                amount=RequestedAmount(request.amount, request.currency),
                card=card,
                key=current_idempotency_key(),
            ),
            current_caller(),
        )
        wallet = await self._queries.get_wallet(
            merchant_id=payment.merchant_id,
            user_id=payment.user_id,
            currency=payment.amount.currency,
        )
        return ledger_pb2.TopUpResponse(
            payment=payment_message(payment), wallet=_wallet_message(wallet)
        )

    async def ListWalletEntries(
        self, request: ledger_pb2.ListWalletEntriesRequest, context: Any
    ) -> ledger_pb2.ListWalletEntriesResponse:
        """Lists what changed a wallet, newest first."""
        owner = {
            "merchant_id": request.merchant_id,
            "user_id": request.user_id,
            "currency": request.currency,
        }
        page, token = await self._page_tokens.page(
            lambda start, limit: self._queries.list_wallet_entries(
                **owner, before=int(start[0]) if start else None, limit=limit
            ),
            list_name="ListWalletEntries",
            filter=owner,
            types=(int,),
            size=request.page_size,
            token=request.page_token,
            key=lambda entry: (entry.seq,),
        )
        return ledger_pb2.ListWalletEntriesResponse(
            entries=[_entry_message(entry) for entry in page], next_page_token=token
        )


def _wallet_message(wallet: Wallet) -> ledger_pb2.Wallet:
    return ledger_pb2.Wallet(
        user_id=wallet.user_id,
        merchant_id=wallet.merchant_id,
        balance=wallet.balance.format(),
        currency=wallet.balance.currency,
        version=wallet.version,
        updated_at=timestamp(wallet.updated_at),
    )


def _entry_message(entry: WalletEntry) -> ledger_pb2.WalletEntry:
    return ledger_pb2.WalletEntry(
        entry_id=entry.entry_id,
        kind=entry.kind.value,
        amount=entry.amount.format(),
        balance_after=entry.balance_after.format(),
        currency=entry.amount.currency,
        payment_id=entry.payment_id,
        refund_id=entry.refund_id,
        created_at=timestamp(entry.created_at),
    )
