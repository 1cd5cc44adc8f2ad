"""The table of providers: what people see of credentials is not secret."""

from __future__ import annotations

import importlib

import pytest

from mesh.errors import InvalidArgument
from payment_rpc.channels.providers import PROVIDERS, Provider
from payment_rpc.domain.channel_account import account_id_of, is_account_id, provider_of

SECRET_WORDS = ("secret", "private", "password", "token", "api_key", "_v3_key")


@pytest.fixture(params=PROVIDERS)
def provider(request: pytest.FixtureRequest) -> Provider:
    return PROVIDERS[request.param]


def test_it_is_known_by_its_name(provider: Provider) -> None:
    assert PROVIDERS[provider.name] is provider
    account_id = account_id_of(provider.name, "01JD0T5V3Q9N8M7K6J5H4G3F2E")
    assert is_account_id(account_id)
    assert (provider_of(account_id), len(account_id) <= 32) == (provider.name, True)


def test_its_fields_exist_and_those_that_are_shown_are_not_secret(provider: Provider) -> None:
    module = importlib.import_module(f"payment_rpc.channels.{provider.name}.credentials")
    fields = set(module.Credentials.__struct_fields__)
    shown = set(provider.shown)
    assert {*shown, *provider.ends_shown} <= fields
    assert {provider.server_field, provider.mode_field} - {""} <= fields
    assert not {name for name in shown for word in SECRET_WORDS if word in name}


def test_credentials_without_anything_are_refused(provider: Provider) -> None:
    with pytest.raises(InvalidArgument) as refused:
        provider.parse({})
    assert refused.value.fields


@pytest.mark.parametrize(
    "channel",
    ["sandbox", "wallet", "", "toy_0123456789ABC", "toy_0123456789a", "to-y_0123456789ab", "_x"],
)
def test_what_is_no_account_is_its_own_provider(channel: str) -> None:
    assert (is_account_id(channel), provider_of(channel)) == (False, channel)
