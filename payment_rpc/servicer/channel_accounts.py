"""ChannelAccountService: messages to use cases and back."""

from __future__ import annotations

from typing import Any

from paymesh.payment.v1 import channel_account_pb2, channel_account_pb2_grpc

from mesh.call import current_caller
from mesh.times import timestamp
from payment_rpc.domain.channel_account import (
    AccountMode,
    AccountState,
    ChannelAccount,
    DefaultFor,
)
from payment_rpc.usecases.channel_accounts import ChannelAccounts, CreateAccount, UpdateAccount

_MODES = {
    mode: channel_account_pb2.ChannelAccountMode.Value(f"CHANNEL_ACCOUNT_MODE_{mode}")
    for mode in AccountMode
}
_STATES = {
    state: channel_account_pb2.ChannelAccountState.Value(f"CHANNEL_ACCOUNT_STATE_{state}")
    for state in AccountState
}
_DEFAULTS = {
    default: channel_account_pb2.ChannelAccountDefault.Value(f"CHANNEL_ACCOUNT_DEFAULT_{default}")
    for default in DefaultFor
}
_STATES_OF_MESSAGES = {number: state for state, number in _STATES.items()}
_DEFAULTS_OF_MESSAGES = {number: default for default, number in _DEFAULTS.items()}


class ChannelAccountServicer(channel_account_pb2_grpc.ChannelAccountServiceServicer):
    """With whose keys money is taken."""

    def __init__(self, accounts: ChannelAccounts) -> None:
        self._accounts = accounts

    async def CreateChannelAccount(
        self, request: channel_account_pb2.CreateChannelAccountRequest, context: Any
    ) -> channel_account_pb2.CreateChannelAccountResponse:
        """Adds an account."""
        account = await self._accounts.create(
            CreateAccount(
                merchant_id=request.merchant_id,
                provider=request.provider,
                label=request.label,
                credentials=request.credentials,
                default_for=_DEFAULTS_OF_MESSAGES.get(request.default_for),
                state=_STATES_OF_MESSAGES.get(request.state, AccountState.ENABLED),
                reason=request.reason,
            ),
            current_caller(),
        )
        return channel_account_pb2.CreateChannelAccountResponse(account=self._message(account))

    async def UpdateChannelAccount(
        self, request: channel_account_pb2.UpdateChannelAccountRequest, context: Any
    ) -> channel_account_pb2.UpdateChannelAccountResponse:
        """Changes an account."""
        account = await self._accounts.update(
            UpdateAccount(
                account_id=request.account_id,
                read_version=request.read_version,
                label=request.label,
                credentials=request.credentials,
                default_for=_DEFAULTS_OF_MESSAGES.get(request.default_for),
                state=_STATES_OF_MESSAGES.get(request.state),
                reason=request.reason,
            ),
            current_caller(),
        )
        return channel_account_pb2.UpdateChannelAccountResponse(account=self._message(account))

    async def GetChannelAccount(
        self, request: channel_account_pb2.GetChannelAccountRequest, context: Any
    ) -> channel_account_pb2.GetChannelAccountResponse:
        """Shows an account."""
        account = await self._accounts.get(request.account_id, current_caller())
        return channel_account_pb2.GetChannelAccountResponse(account=self._message(account))

    async def ListChannelAccounts(
        self, request: channel_account_pb2.ListChannelAccountsRequest, context: Any
    ) -> channel_account_pb2.ListChannelAccountsResponse:
        """Lists accounts by id."""
        found, next_page_token = await self._accounts.list_accounts(
            merchant_id=request.merchant_id,
            page_size=request.page_size,
            page_token=request.page_token,
        )
        return channel_account_pb2.ListChannelAccountsResponse(
            accounts=[self._message(account) for account in found],
            next_page_token=next_page_token,
        )

    async def TestChannelAccount(
        self, request: channel_account_pb2.TestChannelAccountRequest, context: Any
    ) -> channel_account_pb2.TestChannelAccountResponse:
        """Says whether an account can be used."""
        problem = await self._accounts.test(request.account_id, current_caller())
        return channel_account_pb2.TestChannelAccountResponse(
            is_usable=not problem, problem=problem
        )

    def _message(self, account: ChannelAccount) -> channel_account_pb2.ChannelAccount:
        return channel_account_pb2.ChannelAccount(
            account_id=account.account_id,
            provider=account.provider,
            merchant_id=account.merchant_id,
            mode=_MODES[account.mode],
            label=account.label,
            state=_STATES[account.state],
            default_for=_DEFAULTS[account.default_for],
            credentials_hint=dict(account.hint),
            notify_url=self._accounts.notify_url(account),
            version=account.version,
            created_by=account.created_by,
            created_at=timestamp(account.created_at),
            updated_at=timestamp(account.updated_at),
        )
