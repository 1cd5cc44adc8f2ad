"""Signatures of Stripe's webhooks, with a vector that the official library accepts, and what it
accepts and we do not.
"""

from __future__ import annotations

import hashlib
from datetime import datetime, timedelta

import pytest
import stripe

from mesh.errors import InvalidArgument
from mesh.times import EPOCH
from payment_rpc.channels.inbound import Inbound
from payment_rpc.channels.providers import PROVIDERS
from payment_rpc.channels.stripe.channel import open_channel
from payment_rpc.channels.stripe.credentials import parse
from payment_rpc.channels.stripe.events import read_event, read_subject
from payment_rpc.channels.stripe.signatures import WebhookSecrets
from payment_rpc.domain.channel_account import AccountMode
from payment_rpc.domain.errors import SignatureInvalid
from payment_rpc.domain.facts import ChannelFact, ChannelStatus
from payment_rpc.usecases.account_credentials import AccountRules, hint_of
from payment_rpc.usecases.account_credentials import parse as parse_fields

SECRET = "whsec_paymesh_test_vector_1"
BODY = (
    b'{"id":"evt_test_1","object":"event","api_version":"2026-10-28.endive","created":1795176000,'
    b'"type":"payment_intent.succeeded","data":{"object":{"id":"pi_test_1","object":'
    b'"payment_intent","amount":9999,"amount_received":9999,"currency":"usd","status":"succeeded",'
    b'"metadata":{"attempt_id":"ATT0001"}}}}'
)
GOOD = "8e811edd20abaef43254958582e2653c82bfddb45e11a56f34b208e91ddc55d0"
HEADER = f"t=1795176000,v1={GOOD}"
NOW = EPOCH + timedelta(seconds=1795176000)


def check(header: str = HEADER, *, body: bytes = BODY, now: datetime = NOW) -> None:
    WebhookSecrets(["whsec_other", SECRET]).check(header=header, body=body, now=now)


def test_the_vector_is_that_of_the_official_library() -> None:
    digest = "42d894627824270457829b7e2cb1a6eadfaf3f24b8f2d4cc1862860f0ca8c325"
    assert hashlib.sha256(BODY).hexdigest() == digest
    event = stripe.Webhook.construct_event(BODY, HEADER, SECRET, tolerance=10**9)
    assert event.id == "evt_test_1"


@pytest.mark.parametrize(
    "header",
    [
        HEADER,
        f"t=1795176000,v1=00,v1={GOOD},v0=zz",  # a secret is being rolled
        f"t=1795176000, v1={GOOD}",
        f"v1={GOOD},t=1795176000",
    ],
)
def test_a_good_signature_is_accepted(header: str) -> None:
    check(header)


@pytest.mark.parametrize("seconds", [-300, 300])
def test_five_minutes_are_accepted_on_both_sides(seconds: int) -> None:
    check(now=NOW + timedelta(seconds=seconds))


@pytest.mark.parametrize(
    "header",
    [
        "",
        f"t=1795176000,v1={'0' * 64}",
        f"t=1795176001,v1={GOOD}",
        f"v1={GOOD}",
        "t=1795176000",
        f"t=1795176000,v0={GOOD}",
        f"t=1795176000,v1={GOOD.upper()}",
        f"t=1795176000,v1={GOOD[:-1]}",
        f"t=1795176000,t=1795176000,v1={GOOD}",
        f"t=+1795176000,v1={GOOD}",
        f"t=1795176000.0,v1={GOOD}",
        f"t=,v1={GOOD}",
        "t=1795176000,v1=é",
        f"t=1795176000,v1={GOOD}" + ",v1=00" * 1000,
    ],
)
def test_a_bad_header_is_refused(header: str) -> None:
    with pytest.raises(SignatureInvalid):
        check(header)


@pytest.mark.parametrize(
    "body",
    [
        BODY.replace(b"9999", b"9998", 1),
        BODY + b" ",
        BODY.replace(b":", b": "),
        b"",
    ],
)
def test_altered_bytes_are_refused(body: bytes) -> None:
    with pytest.raises(SignatureInvalid):
        check(body=body)


@pytest.mark.parametrize("seconds", [301, -301, -100_000])
def test_old_and_future_messages_are_refused(seconds: int) -> None:
    """The library lets those of the future pass."""
    with pytest.raises(SignatureInvalid, match="5 minutes"):
        check(now=NOW + timedelta(seconds=seconds))


def test_the_message_of_the_vector_is_a_capture() -> None:
    channel = open_channel(
        account="stripe_eu",
        credentials=parse({"secret_key": "sk_test_12345", "webhook_secrets": [SECRET]}),
        is_live=False,
        notify_url="",
        base_url=None,
        now=lambda: NOW,
    )
    inbound = Inbound(body=BODY, headers={"stripe-signature": HEADER})
    found = channel.receive(inbound, now=NOW)
    [fact] = found.news
    assert isinstance(fact, ChannelFact)
    assert (fact.status, fact.attempt_id, fact.trade_no) == (
        ChannelStatus.CAPTURED,
        "ATT0001",
        "pi_test_1",
    )
    assert (found.event_id, found.summary) == ("evt_test_1", "payment_intent.succeeded")
    assert found.occurred_at == NOW
    assert (channel.ack(accepted=True).status_code, channel.ack(accepted=False).status_code) == (
        200,
        400,
    )


@pytest.mark.parametrize(
    ("body", "is_live", "account_id"),
    [
        (BODY, True, ""),
        (BODY.replace(b'{"id":"evt', b'{"livemode":true,"id":"evt'), False, ""),
        (BODY.replace(b'{"id":"evt', b'{"account":"acct_2","id":"evt'), False, "acct_1"),
        (BODY.replace(b'{"id":"evt', b'{"account":"acct_2","id":"evt'), False, ""),
    ],
)
def test_events_of_the_other_mode_or_account_are_refused(
    body: bytes, *, is_live: bool, account_id: str
) -> None:
    with pytest.raises(SignatureInvalid):
        read_event(body, is_live=is_live, account_id=account_id)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"{}", b'{"id":"e","type":"t"}', b"\xff", b"[" * 100_000]
)
def test_what_is_no_event_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidArgument):
        read_event(body, is_live=False, account_id="")
    assert read_subject(body).event_id == ""


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({}, "secret_key"),
        ({"secret_key": "sk_test_12345"}, "webhook_secrets"),
        ({"secret_key": "pk_test_12345", "webhook_secrets": ["whsec_1234"]}, "secret_key"),
        ({"secret_key": "sk_test_12345\n", "webhook_secrets": ["whsec_1234"]}, "secret_key"),
        ({"secret_key": 5, "webhook_secrets": ["whsec_1234"]}, "secret_key"),
        ({"secret_key": "sk_test_12345", "webhook_secrets": []}, "webhook_secrets"),
        ({"secret_key": "sk_test_12345", "webhook_secrets": "whsec_1234"}, "webhook_secrets"),
        ({"secret_key": "sk_test_12345", "webhook_secrets": ["1234"]}, "webhook_secrets"),
        ({"secret_key": "sk_test_12345", "webhook_secrets": [1]}, "webhook_secrets"),
    ],
)
def test_bad_credentials_name_the_field_and_never_its_content(
    fields: dict[str, object], name: str
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse(fields)
    assert list(refused.value.fields) == [name]
    assert "12345" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("account_id", "1"),
        ("account_id", None),
        ("payment_method_types", ["Card"]),
        ("payment_method_types", "card"),
        ("multicapture", "yes"),
        ("colour", "red"),
    ],
)
def test_bad_options_name_the_field(name: str, value: object) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse({"secret_key": "sk_test_12345", "webhook_secrets": ["whsec_1234"], name: value})
    assert list(refused.value.fields) == [name]


def test_secrets_are_in_no_text() -> None:
    found = parse({"secret_key": "rk_live_12345", "webhook_secrets": ["whsec_1234"]})
    assert "1234" not in f"{found!r} {found}"
    with pytest.raises(InvalidArgument, match="secret_key"):
        open_channel(
            account="stripe_eu",
            credentials=found,
            is_live=False,
            notify_url="",
            base_url=None,
            now=lambda: NOW,
        )


def test_an_account_keeps_the_mode_of_its_key_and_shows_only_its_end() -> None:
    fields = {"secret_key": "sk_test_0123456789abcdef", "webhook_secrets": [SECRET]}
    provider, rules = PROVIDERS["stripe"], AccountRules()
    assert parse_fields(fields, provider=provider, mode=AccountMode.TEST, rules=rules)
    with pytest.raises(InvalidArgument) as refused:
        parse_fields(fields, provider=provider, mode=AccountMode.LIVE, rules=rules)
    assert list(refused.value.fields) == ["credentials.secret_key"]
    assert hint_of(fields, provider) == {"secret_key": "…cdef"}
