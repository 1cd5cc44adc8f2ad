"""Merchants, settings and members as messages of the contract."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

from paymesh.merchant.v1 import member_pb2, merchant_pb2

from merchant_rpc.domain.admin_action import AdminAction
from merchant_rpc.domain.member import Account, MemberRole, Membership
from merchant_rpc.domain.merchant import Merchant, MerchantState
from merchant_rpc.domain.shop_settings import (
    AmountRule,
    IntegerAmounts,
    LateMoney,
    SettingsVersion,
    ShopSettings,
)
from mesh.times import timestamp

if TYPE_CHECKING:
    from google.protobuf.internal.enum_type_wrapper import _EnumTypeWrapper as EnumTypeWrapper

_KEY = TypeVar("_KEY", bound=str)
_NUMBER = TypeVar("_NUMBER", bound=int)


def _numbers(
    values: Iterable[_KEY], contract: EnumTypeWrapper[_NUMBER], prefix: str
) -> dict[_KEY, _NUMBER]:
    """The number of each of our values in an enum of the contract."""
    return {value: contract.Value(f"{prefix}_{value}") for value in values}


STATES = _numbers(MerchantState, merchant_pb2.MerchantState, "MERCHANT_STATE")
STATES_OF_MESSAGES = {value: state for state, value in STATES.items()}
_ROLES = _numbers(MemberRole, member_pb2.MemberRole, "MEMBER_ROLE")
ROLES_OF_MESSAGES = {value: role for role, value in _ROLES.items()}
_LATE_MONEY = _numbers(LateMoney, merchant_pb2.LateMoney, "LATE_MONEY")
_LATE_MONEY_OF_MESSAGES = {value: late for late, value in _LATE_MONEY.items()}
_INTEGERS = _numbers(IntegerAmounts, merchant_pb2.IntegerAmounts, "INTEGER_AMOUNTS")
_INTEGERS_OF_MESSAGES = {value: integers for integers, value in _INTEGERS.items()}


def merchant_message(merchant: Merchant) -> merchant_pb2.Merchant:
    """A merchant as callers see it."""
    return merchant_pb2.Merchant(
        merchant_id=merchant.merchant_id,
        name=merchant.name,
        state=STATES[merchant.state],
        country=merchant.country,
        time_zone=merchant.time_zone,
        default_currency=merchant.default_currency,
        contact_email=merchant.contact_email,
        version=merchant.version,
        test_merchant_id=merchant.test_merchant_id,
        is_test=merchant.is_test,
        created_at=timestamp(merchant.created_at),
        updated_at=timestamp(merchant.updated_at),
    )


def settings_message(settings: ShopSettings) -> merchant_pb2.Settings:
    """Settings of a shop."""
    return merchant_pb2.Settings(
        return_urls=settings.return_urls,
        late_money=_LATE_MONEY[settings.late_money],
        shipping=[_rule_message(rule) for rule in settings.shipping],
        discount=[_rule_message(rule) for rule in settings.discount],
        payment_window_minutes=settings.payment_window_minutes,
        integer_amounts=_INTEGERS[settings.integer_amounts],
        channels=settings.channels,
        ship_on_authorized=settings.ship_on_authorized,
        buyers_may_hold=settings.buyers_may_hold,
    )


def settings_of(message: merchant_pb2.Settings) -> ShopSettings:
    """What `settings_message` made; not checked yet."""
    return ShopSettings(
        return_urls=tuple(message.return_urls),
        late_money=_LATE_MONEY_OF_MESSAGES[message.late_money],
        shipping=tuple(_rule_of(rule) for rule in message.shipping),
        discount=tuple(_rule_of(rule) for rule in message.discount),
        payment_window_minutes=message.payment_window_minutes,
        integer_amounts=_INTEGERS_OF_MESSAGES[message.integer_amounts],
        channels=tuple(message.channels),
        ship_on_authorized=message.ship_on_authorized,
        buyers_may_hold=message.buyers_may_hold,
    )


def version_message(version: SettingsVersion) -> merchant_pb2.SettingsVersion:
    """A version of the settings."""
    return merchant_pb2.SettingsVersion(
        merchant_id=version.merchant_id,
        version=version.version,
        settings=settings_message(version.settings),
        created_by=version.created_by,
        created_at=timestamp(version.created_at),
    )


def action_message(action: AdminAction) -> merchant_pb2.AdminAction:
    """An entry of the log of actions."""
    return merchant_pb2.AdminAction(
        action_id=action.action_id,
        created_at=timestamp(action.created_at),
        actor=action.actor,
        merchant_id=action.merchant_id,
        method=action.method,
        target=action.target,
        before_json=action.before_json,
        after_json=action.after_json,
        reason=action.reason,
        client_address=action.client_address,
        trace_id=action.trace_id,
        outcome=action.outcome,
    )


def member_message(membership: Membership) -> member_pb2.Member:
    """Somebody who works for a merchant."""
    return member_pb2.Member(
        member_id=membership.account.member_id,
        email=membership.account.email,
        name=membership.account.name,
        merchant_id=membership.merchant_id,
        role=_ROLES[membership.role],
        has_totp=membership.account.has_totp,
        invited_by=membership.invited_by,
        created_at=timestamp(membership.created_at),
    )


def operator_message(account: Account) -> member_pb2.Member:
    """An operator of the installation: a member of no merchant."""
    return member_pb2.Member(
        member_id=account.member_id,
        email=account.email,
        name=account.name,
        has_totp=account.has_totp,
        created_at=timestamp(account.created_at),
    )


def _rule_message(rule: AmountRule) -> merchant_pb2.AmountRule:
    return merchant_pb2.AmountRule(
        currency=rule.currency, amount=rule.amount, threshold=rule.threshold
    )


def _rule_of(message: merchant_pb2.AmountRule) -> AmountRule:
    return AmountRule(currency=message.currency, amount=message.amount, threshold=message.threshold)
