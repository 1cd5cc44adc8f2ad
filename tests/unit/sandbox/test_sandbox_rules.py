"""The sandbox's rules without HTTP: states, cards, signatures, settings."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import ValidationError

from mesh.money import Money
from sandbox.cards import SLOW_CARD, Behaviour, Card, behaviour_of
from sandbox.domain import (
    CAPTURED,
    CLOSED_BY_SHOP,
    NEXT,
    AttemptReused,
    Kind,
    Outcome,
    OutcomeDiffers,
    Status,
    Transaction,
    fee_share,
)
from sandbox.misbehaviour import GOOD, GOOD_REFUND, PAYMENTS, REFUNDS, of_payment, of_refund
from sandbox.settings import SandboxSettings
from sandbox.signatures import sign_callback, sign_hint

NOW = datetime(2026, 11, 20, 12, tzinfo=UTC)


def transaction(status: Status = Status.PENDING, kind: Kind = Kind.CHARGE) -> Transaction:
    amount = None if kind is Kind.TOMBSTONE else Money(9999, "CNY")
    return Transaction(
        attempt_id="ATT1", kind=kind, trade_no="SBX1", status=status, amount=amount, created_at=NOW
    )


def behaviour(number: str, *, year: int = 2030, month: int = 12) -> Behaviour:
    return behaviour_of(Card(number=number, expiration_year=year, expiration_month=month), now=NOW)


@pytest.mark.parametrize("target", [status for status in Status if status is not Status.PENDING])
def test_an_open_transaction_ends_in_every_final_state(target: Status) -> None:
    ended = transaction().finish(Outcome(status=target), at=NOW)
    assert (ended.status, ended.finished_at, ended.is_final) == (target, NOW, True)


@pytest.mark.parametrize("target", list(Status))
@pytest.mark.parametrize("final", [status for status in Status if status is not Status.PENDING])
def test_a_final_transaction_never_changes(final: Status, target: Status) -> None:
    assert NEXT[final] == frozenset()
    with pytest.raises(OutcomeDiffers):
        transaction(final).finish(Outcome(status=target), at=NOW)


def test_an_open_transaction_does_not_end_in_pending() -> None:
    with pytest.raises(OutcomeDiffers):
        transaction().finish(Outcome(status=Status.PENDING), at=NOW)


@pytest.mark.parametrize(
    ("kind", "amount"),
    [
        (Kind.CHARGE, Money(9998, "CNY")),
        (Kind.CHARGE, Money(9999, "USD")),
        (Kind.CHECKOUT, Money(9999, "CNY")),
    ],
)
def test_an_attempt_id_is_good_for_one_request_only(kind: Kind, amount: Money) -> None:
    with pytest.raises(AttemptReused):
        transaction().must_match(kind=kind, amount=amount)


def test_a_tombstone_takes_every_request_and_stays_closed() -> None:
    tombstone = transaction(kind=Kind.TOMBSTONE).finish(CLOSED_BY_SHOP, at=NOW)
    tombstone.must_match(kind=Kind.CHARGE, amount=Money(1, "USD"))
    with pytest.raises(OutcomeDiffers):
        tombstone.finish(CAPTURED, at=NOW)


@pytest.mark.parametrize(
    "number",
    [
        "4242424242424242",
        "4111111111111111",
        "5555555555554444",
        "2223003122003222",
        "378282246310005",
        "6011111111111117",
        "3056930009020004",
        "3566002020360505",
        "6200000000000005",
    ],
)
def test_valid_test_numbers_capture(number: str) -> None:
    assert behaviour(number) == Behaviour(outcome=CAPTURED)


@pytest.mark.parametrize(
    ("number", "status", "code"),
    [
        ("4000000000000002", Status.DECLINED, "card_declined"),
        ("4000000000009995", Status.DECLINED, "insufficient_funds"),
        ("4000000000000069", Status.DECLINED, "expired_card"),
        ("4000000000000127", Status.DECLINED, "incorrect_cvc"),
        ("4000000000000119", Status.FAILED, "processing_error"),
        ("4242424242424241", Status.DECLINED, "incorrect_number"),
    ],
)
def test_bad_test_numbers_end_as_their_name_says(number: str, status: Status, code: str) -> None:
    outcome = behaviour(number).outcome
    assert (outcome.status, outcome.decline_code) == (status, code)


def test_the_slow_card_captures_and_answers_late() -> None:
    assert behaviour(SLOW_CARD) == Behaviour(outcome=CAPTURED, is_slow=True)


@pytest.mark.parametrize(
    ("year", "month", "is_good"),
    [(2026, 10, False), (2026, 11, True), (2025, 12, False), (2027, 1, True)],
)
def test_a_card_is_good_until_the_end_of_its_month(year: int, month: int, is_good: bool) -> None:
    assert (behaviour("4242424242424242", year=year, month=month).outcome is CAPTURED) == is_good


@pytest.mark.parametrize(
    ("number", "brand"),
    [
        ("4242424242424242", "visa"),
        ("5555555555554444", "mastercard"),
        ("2223003122003222", "mastercard"),
        ("378282246310005", "amex"),
        ("6011111111111117", "discover"),
        ("3056930009020004", "diners"),
        ("3566002020360505", "jcb"),
        ("6200000000000005", "unionpay"),
        ("9999999999999995", "unknown"),
    ],
)
def test_brand_and_last_four_are_what_is_kept(number: str, brand: str) -> None:
    card = Card(number=number, expiration_year=2030, expiration_month=1)
    assert (card.brand, card.last4) == (brand, number[-4:])
    assert number not in repr(card)


@pytest.mark.parametrize(
    ("callback_status", "expected"),
    [
        ("SUCCESS", "3B69D03EC12E2DE9C77777CC45944C50"),
        ("FAILED", "CA819D5163EBF2441482804A39F7B642"),
    ],
)
def test_hints_are_signed_as_source_001_does(callback_status: str, expected: str) -> None:
    assert (
        sign_hint(
            "ymall-payment-secret-key-2024",
            payment_id="PAY202401011234567890",
            callback_status=callback_status,
            timestamp="1704067200000",
            nonce="abc123",
        )
        == expected
    )


def test_a_callback_signature_covers_timestamp_and_every_byte() -> None:
    signature = sign_callback("key", timestamp="1704067200000", body=b'{"a":1}')
    # as `openssl dgst -sha256 -hmac key` says
    assert signature == "0b27b71294e5e92111aef75456ed509b417e9a095a98062d20e142c182d406cd"
    assert (
        len(
            {
                signature,
                sign_callback("key", timestamp="1704067200001", body=b'{"a":1}'),
                sign_callback("key", timestamp="1704067200000", body=b'{"a": 1}'),
                sign_callback("other", timestamp="1704067200000", body=b'{"a":1}'),
            }
        )
        == 4
    )


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "api.secret"
    path.write_text("k" * 32)
    return path


def test_settings_resolve_to_one_key_the_published_rule_and_the_own_address(
    key_file: Path, tmp_path: Path
) -> None:
    resolved = SandboxSettings(api_key_file=key_file, var_dir=tmp_path).config(port=8090)
    assert resolved.api_key == resolved.callback_secret == "k" * 32
    assert resolved.md5_secret == "ymall-payment-secret-key-2024"
    assert resolved.public_base_url == "http://127.0.0.1:8090"
    assert resolved.database_file == tmp_path / "sandbox.db"
    assert resolved.callback_url is None
    assert resolved.allow_signatures
    assert "k" * 32 not in repr(resolved)


def test_settings_come_from_the_environment(
    key_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    callback_file = tmp_path / "callback.secret"
    callback_file.write_text("c" * 32 + "\n")
    for name, value in {
        "API_KEY_FILE": str(key_file),
        "CALLBACK_SECRET_FILE": str(callback_file),
        "CALLBACK_RETRY_SECONDS": "[0.1, 2]",
        "CALLBACK_URL": "http://127.0.0.1:8080/api/v1/callbacks/sandbox",
        "PORT": "0",
    }.items():
        monkeypatch.setenv(f"SANDBOX_{name}", value)
    settings = SandboxSettings()
    resolved = settings.config(port=1)
    assert (settings.port, resolved.callback_secret, resolved.callback_retry_seconds) == (
        0,
        "c" * 32,
        (0.1, 2),
    )


def test_signatures_on_request_and_misbehaviour_are_off_in_production(key_file: Path) -> None:
    resolved = SandboxSettings(api_key_file=key_file, environment="production").config(port=1)
    assert (resolved.allow_signatures, resolved.allow_misbehaviour) == (False, False)
    assert SandboxSettings(api_key_file=key_file).config(port=1).allow_misbehaviour


def test_the_channels_day_is_a_setting(key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SANDBOX_STATEMENT_CUT_OFF", "22:30")
    monkeypatch.setenv("SANDBOX_STATEMENT_TIME_ZONE", "UTC")
    resolved = SandboxSettings(api_key_file=key_file).config(port=1)
    assert (resolved.statement_time_zone, resolved.statement_cut_off.isoformat()) == (
        "UTC",
        "22:30:00",
    )
    for name in ("Mars/Olympus", "../etc/passwd", "", "Asia"):
        with pytest.raises(ValidationError, match="statement_time_zone"):
            SandboxSettings(api_key_file=key_file, statement_time_zone=name)


@pytest.mark.parametrize("parts", [(10_000,), (1, 9_999), (3_333, 3_333, 3_334), (1,) * 10_000])
def test_the_parts_of_a_fee_add_up_whatever_the_refunds(parts: tuple[int, ...]) -> None:
    fee, captured, out, returned = Money(61, "CNY"), Money(10_000, "CNY"), 0, 0
    for part in parts:
        out += part
        share = fee_share(
            fee, captured=captured, refunded=Money(out, "CNY"), returned=Money(returned, "CNY")
        )
        returned += share.minor
        assert 0 <= returned * 10_000 <= fee.minor * out
    assert returned == fee.minor


def test_a_misbehaviour_depends_on_the_last_four_digits_alone() -> None:
    assert (
        of_payment(Money(7701, "CNY")) == of_payment(Money(1_007_701, "JPY")) == PAYMENTS[7701][1]
    )
    assert of_payment(Money(77_010, "CNY")) == of_payment(Money(7741, "CNY")) == GOOD
    assert of_refund(Money(7741, "CNY"), card="refund_bounces") == REFUNDS[7741][1]
    assert of_refund(Money(100, "CNY"), card="refund_bounces") == REFUNDS[7742][1]
    assert of_refund(Money(7701, "CNY"), card="") == GOOD_REFUND


def test_the_sandbox_does_not_leave_loopback_by_itself(key_file: Path) -> None:
    with pytest.raises(ValidationError, match="loopback"):
        SandboxSettings(api_key_file=key_file, host="0.0.0.0")
    assert (
        SandboxSettings(api_key_file=key_file, host="0.0.0.0", allow_plaintext=True).host
        == "0.0.0.0"
    )


def test_a_short_key_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "short.secret"
    path.write_text("short")
    with pytest.raises(ValueError, match="32 bytes"):
        SandboxSettings(api_key_file=path).config(port=1)
