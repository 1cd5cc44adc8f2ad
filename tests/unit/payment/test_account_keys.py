"""Credentials of channel accounts are readable with their key and for their account alone."""

from __future__ import annotations

import base64
from pathlib import Path
from secrets import token_bytes

import pytest

from payment_rpc.account_keys import AccountKeys, CannotDecrypt, Sealed, new_key_line, read_keys

FIELDS = {"secret_key": "sk_test_0123456789", "webhook_secrets": ["a", "b"], "multicapture": True}
OLD, NEW = b"o" * 32, b"n" * 32


def keys(**found: bytes) -> AccountKeys:
    return AccountKeys(found, random_bytes=token_bytes)


def sealed_by(found: AccountKeys) -> Sealed:
    return found.seal(FIELDS, account_id="toy_1", provider="toy")


def test_what_was_encrypted_is_read_with_every_key_and_written_with_the_first() -> None:
    before = sealed_by(keys(old=OLD))
    both = keys(new=NEW, old=OLD)
    assert both.open(before, account_id="toy_1", provider="toy") == FIELDS
    assert (before.key_id, sealed_by(both).key_id, both.first_id) == ("old", "new", "new")


def test_nothing_of_a_secret_is_stored_or_shown() -> None:
    sealed = sealed_by(keys(k=OLD))
    assert b"sk_test" not in base64.b64decode(sealed.text)
    assert sealed.text not in repr(sealed)
    assert sealed_by(keys(k=OLD)).text != sealed.text  # a nonce of its own


@pytest.mark.parametrize(
    ("account_id", "provider"), [("toy_2", "toy"), ("toy_1", "yot"), ("toy_1\n", "toy")]
)
def test_credentials_are_of_no_use_for_another_account(account_id: str, provider: str) -> None:
    found = keys(k=OLD)
    with pytest.raises(CannotDecrypt, match="changed"):
        found.open(sealed_by(found), account_id=account_id, provider=provider)


def test_what_cannot_be_read_says_why_without_a_secret() -> None:
    sealed = sealed_by(keys(k=OLD))
    content = bytearray(base64.b64decode(sealed.text))
    content[-1] ^= 1
    for found, changed, problem in (
        (keys(other=OLD), sealed, "'k'"),
        (keys(), sealed, "'k'"),
        (keys(k=NEW), sealed, "changed"),
        (keys(k=OLD), Sealed(key_id="k", text=base64.b64encode(content).decode()), "changed"),
        (keys(k=OLD), Sealed(key_id="k", text="no base64"), "changed"),
        (keys(k=OLD), Sealed(key_id="k", text=""), "changed"),
    ):
        with pytest.raises(CannotDecrypt, match=problem):
            found.open(changed, account_id="toy_1", provider="toy")
    with pytest.raises(CannotDecrypt, match="account_key_file"):
        sealed_by(keys())


def test_a_file_has_a_line_for_each_key_and_the_first_one_encrypts(tmp_path: Path) -> None:
    path = tmp_path / "keys"
    path.write_text(new_key_line("new", NEW) + "\n" + new_key_line("old", OLD))
    assert list(read_keys(path).items()) == [("new", NEW), ("old", OLD)]
    assert AccountKeys.of_file(path, random_bytes=token_bytes).first_id == "new"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "\n",
        "1:short\n",
        f"1:{NEW.hex()}\n",
        new_key_line("1", NEW[:31]),
        new_key_line("1", NEW) * 2,
        new_key_line("UPPER", NEW),
        base64.b64encode(NEW).decode(),
    ],
)
def test_a_file_that_is_not_understood_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys"
    path.write_text(content)
    with pytest.raises(ValueError, match="keys") as problem:
        read_keys(path)
    assert base64.b64encode(NEW).decode() not in str(problem.value)
