"""Waits, codes of authenticator apps, recovery codes, sessions and the key of people, by themselves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from secrets import token_bytes

import pyotp
import pytest

from merchant_rpc.domain import totp
from merchant_rpc.domain.errors import MerchantNotFound
from merchant_rpc.domain.login_delay import delay_after, no_attempts, subject_of
from merchant_rpc.domain.member import MemberRole
from merchant_rpc.domain.merchant import MerchantState
from merchant_rpc.domain.session import ActsFor, RefreshToken, Session, Use, chosen
from merchant_rpc.people_key import PeopleKey, read_keys
from mesh.limits import network_of
from tests.support.fakes import EPOCH

SECRET = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
STEP = int(EPOCH.timestamp()) // 30
SESSION_ID = "SES" + "0" * 26


# --- waits ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failures", "seconds"),
    [(0, 0), (1, 0), (5, 0), (6, 1), (7, 2), (8, 4), (15, 512), (16, 900), (17, 900), (10**6, 900)],
)
def test_how_long_so_many_wrong_attempts_wait(failures: int, seconds: int) -> None:
    assert delay_after(failures) == timedelta(seconds=seconds)


def test_attempts_of_yesterday_do_not_count() -> None:
    attempts = no_attempts("x", EPOCH)
    for _ in range(9):
        attempts = attempts.further(EPOCH)
    assert attempts.further(EPOCH + timedelta(hours=24, seconds=-1)).failures == 10
    assert attempts.further(EPOCH + timedelta(hours=24)).failures == 1


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("203.0.113.7", "203.0.113.7"),
        ("::ffff:203.0.113.7", "203.0.113.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::", "2001:db8:1:2::/64"),
        ("", ""),
        ("unix:", "unix:"),
    ],
)
def test_what_is_held_to_account_for_an_address(address: str, network: str) -> None:
    assert network_of(address) == network


def test_a_subject_fits_its_column_and_names_nobody() -> None:
    subject = subject_of("address", "203.0.113.7")
    assert len(subject) <= 100
    assert "203.0.113.7" not in subject
    assert subject != subject_of("account", "203.0.113.7")


# --- codes ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "used", "fits"),
    [
        (STEP, None, True),
        (STEP - 1, None, True),
        (STEP + 1, None, True),
        (STEP - 2, None, False),
        (STEP + 2, None, False),
        (STEP, STEP - 1, True),
        (STEP, STEP, False),
        (STEP - 1, STEP, False),
        (STEP + 1, STEP, True),
        (STEP, STEP + 1, False),
    ],
)
def test_which_step_a_code_may_be_of(step: int, used: int | None, *, fits: bool) -> None:
    app = pyotp.TOTP(SECRET)
    found = totp.fitting_step(
        app.at(datetime.fromtimestamp(step * 30, UTC)),
        code_of=app.generate_otp,
        now=EPOCH,
        used_step=used,
    )
    assert found == (step if fits else None)


@pytest.mark.parametrize("code", ["", "12345", "1234567", "abcdef", "١٢٣٤٥٦", "12 456"])
def test_what_is_no_code_fits_nothing(code: str) -> None:
    assert totp.fitting_step(code, code_of=lambda _: code, now=EPOCH, used_step=None) is None


def test_recovery_codes_differ_and_look_like_nothing_else() -> None:
    codes = totp.new_recovery_codes(token_bytes)
    assert len(set(codes)) == 10
    for code in codes:
        assert len(code) == 19
        assert not set(code) & set("ilo01")


def test_a_recovery_code_is_one_however_it_is_copied_and_of_one_person() -> None:
    digest = totp.recovery_digest("M1", "abcd-efgh-jkmn-pqrs")
    assert totp.recovery_digest("M1", " ABCDEFGHJKMNPQRS ") == digest
    assert totp.recovery_digest("M2", "abcd-efgh-jkmn-pqrs") != digest


# --- sessions -------------------------------------------------------------------------------------


def session() -> Session:
    return Session.begin(
        session_id=SESSION_ID,
        member_id="M1",
        merchant_id="acme",
        refresh_seed="s",
        client_address="",
        now=EPOCH,
    )


@pytest.mark.parametrize(
    ("rotation", "after_seconds", "use"),
    [
        (2, 0, Use.ROTATE),
        (2, 30 * 60 - 1, Use.ROTATE),
        (2, 30 * 60, Use.REFUSE),
        (1, 0, Use.REPEAT),
        (1, 10, Use.REPEAT),
        (1, 11, Use.END),
        (1, 30 * 60, Use.REFUSE),
        (3, 0, Use.END),
    ],
)
def test_what_becomes_of_a_refresh_token(rotation: int, after_seconds: int, use: Use) -> None:
    used = session().used(merchant_id="acme", client_address="", now=EPOCH)
    assert used.judge(rotation, EPOCH + timedelta(seconds=after_seconds)) is use


def test_a_token_is_read_as_it_was_written() -> None:
    token = RefreshToken(session_id=SESSION_ID, rotation=7, code="c" * 43)
    assert RefreshToken.parse(str(token)) == token
    assert len(str(token)) <= 100
    assert "c" * 43 not in repr(token)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        f"{SESSION_ID}_0_{'c' * 43}",
        f"{SESSION_ID}_01_{'c' * 43}",
        f"{SESSION_ID}_1_c",
        f"{SESSION_ID.lower()}_1_{'c' * 43}",
        f"{SESSION_ID}_1_{'c' * 43}\n",
    ],
)
def test_what_we_never_made_is_no_token(text: str) -> None:
    assert RefreshToken.parse(text) is None


WORKS_FOR = (
    ActsFor(merchant_id="acme", role=MemberRole.OWNER, state=MerchantState.TEST_ONLY),
    ActsFor(merchant_id="shop", role=MemberRole.VIEWER, state=MerchantState.LIVE),
)


@pytest.mark.parametrize(
    ("wanted", "is_operator", "found"),
    [
        ("", False, "acme_test"),
        ("acme", False, "acme"),
        ("shop_test", False, "shop_test"),
        ("", True, None),
        ("shop", True, "shop"),
    ],
)
def test_for_whom_a_token_is(wanted: str, found: str | None, *, is_operator: bool) -> None:
    acting = chosen(wanted, WORKS_FOR, is_operator=is_operator)
    assert (None if acting is None else acting.merchant_id) == found


@pytest.mark.parametrize("wanted", ["other", "acme_test_test", "ACME", "_test"])
def test_it_is_never_for_a_merchant_of_others(wanted: str) -> None:
    with pytest.raises(MerchantNotFound):
        chosen(wanted, WORKS_FOR, is_operator=True)


# --- the key --------------------------------------------------------------------------------------


def key_of(**keys: bytes) -> PeopleKey:
    return PeopleKey(keys, random_bytes=token_bytes)


def test_a_secret_is_read_back_for_its_owner_and_with_its_key_only() -> None:
    key = key_of(a=b"1" * 32)
    sealed = key.encrypt(SECRET, owner="M1")
    assert sealed.isascii()
    assert len(sealed) <= 255
    assert SECRET not in sealed
    assert key.decrypt(sealed, owner="M1") == SECRET
    assert key.encrypt(SECRET, owner="M1") != sealed
    for other, owner, text in (
        (key, "M2", sealed),
        (key_of(a=b"2" * 32), "M1", sealed),
        (key_of(b=b"1" * 32), "M1", sealed),
        (key, "M1", sealed[:-4]),
        (key, "M1", "a."),
        (key, "M1", "a.!"),
        (key, "M1", ""),
    ):
        with pytest.raises(ValueError, match=r".*"):
            other.decrypt(text, owner=owner)


def test_an_older_key_reads_and_a_newer_one_writes() -> None:
    old, both = key_of(a=b"1" * 32), key_of(b=b"2" * 32, a=b"1" * 32)
    assert both.decrypt(old.encrypt(SECRET, owner="M1"), owner="M1") == SECRET
    assert both.is_code(old.code("x"), "x")
    assert both.encrypt(SECRET, owner="M1").startswith("b.")
    assert not old.is_code(both.code("x"), "x")
    assert not both.is_code(both.code("x"), "y")


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("ab" * 32, ["1"]),
        (f"2:{'ab' * 32}\n\n1:{'cd' * 32}\n", ["2", "1"]),
        ("", None),
        (f"2:{'ab' * 31}", None),
        (f"2:{'AB' * 32}", None),
        (f"2:{'ab' * 32}\n2:{'cd' * 32}", None),
        (f"{'ab' * 32}\n1:{'cd' * 32}", None),
        ("2:zz", None),
    ],
)
def test_what_a_key_file_may_hold(tmp_path: Path, text: str, ids: list[str] | None) -> None:
    (tmp_path / "keys").write_text(text)
    if ids is None:
        with pytest.raises(ValueError, match="keys"):
            read_keys(tmp_path / "keys")
    else:
        assert list(read_keys(tmp_path / "keys")) == ids
        assert PeopleKey.of_file(tmp_path / "keys", random_bytes=token_bytes).code("x")
