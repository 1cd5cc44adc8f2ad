"""Keys, secrets and revoked tokens are read again when their files change, by a process that goes
on.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from jwt.algorithms import OKPAlgorithm
from structlog.testing import capture_logs

from mesh import files
from mesh.auth import CallerTokens, UserTokens
from mesh.errors import TokenInvalid
from mesh.files import Reloaded
from mesh.revocations import Revocations
from mesh.secret_files import read_secret, read_secrets
from mesh.settings import MeshSettings
from tests.support.fakes import EPOCH, FakeClock, FakeIds

NOW = int(EPOCH.timestamp())
OLD, NEW = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()


@pytest.fixture(autouse=True)
def look_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LOOK_SECONDS", 0.0)


def write(file: Path, content: str | bytes) -> None:
    fresh = file.with_name("fresh")
    fresh.write_bytes(content.encode() if isinstance(content, str) else content)
    os.replace(fresh, file)


def jwks(**keys: Ed25519PrivateKey) -> str:
    return json.dumps(
        {
            "keys": [
                {**json.loads(OKPAlgorithm.to_jwk(key.public_key())), "kid": kid, "alg": "EdDSA"}
                for kid, key in keys.items()
            ]
        }
    )


def claims(**changes: Any) -> dict[str, Any]:
    return {
        "iss": "paymesh",
        "aud": "paymesh",
        "iat": NOW,
        "exp": NOW + 3600,
        "sub": "alice",
        "jti": "T1",
        "roles": ["user"],
        "merchant_id": "mall",
        **changes,
    }


def signed(key: Ed25519PrivateKey, kid: str, **changes: Any) -> str:
    return jwt.encode(
        claims(**changes), key, algorithm="EdDSA", headers={"typ": "at+jwt", "kid": kid}
    )


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "jwks.json"
    file.write_text(jwks(old=OLD))
    return file


@pytest.fixture
def tokens(key_file: Path, tmp_path: Path) -> UserTokens:
    return UserTokens.from_settings(
        MeshSettings(user_token_jwks_file=key_file, user_tokens_revoked_file=tmp_path / "revoked"),
        clock=FakeClock(),
    )


def refused(tokens: UserTokens, token: str, why: str) -> None:
    with pytest.raises(TokenInvalid, match=rf"\({why}\)"):
        tokens.verify(token)


def test_a_new_key_counts_and_a_removed_one_does_not_even_for_tokens_that_were_remembered(
    tokens: UserTokens, key_file: Path
) -> None:
    of_old, of_new = signed(OLD, "old"), signed(NEW, "new")
    tokens.verify(of_old)
    refused(tokens, of_new, "key")
    write(key_file, jwks(old=OLD, new=NEW))
    assert tokens.verify(of_new).subject == tokens.verify(of_old).subject == "alice"
    write(key_file, jwks(new=NEW))
    refused(tokens, of_old, "key")
    assert tokens.verify(of_new).subject == "alice"


@pytest.mark.parametrize(
    "content", [b"", b'{"keys": [', b'{"keys": []}', None], ids=["empty", "torn", "no key", "gone"]
)
def test_a_key_set_that_cannot_be_taken_leaves_the_keys_that_were_there_and_raises_an_alert(
    tokens: UserTokens, key_file: Path, content: bytes | None
) -> None:
    with capture_logs() as logs:
        if content is None:
            key_file.unlink()
        else:
            write(key_file, content)
        for _ in range(3):
            assert tokens.verify(signed(OLD, "old")).subject == "alice"
    assert [(line["event"], line["alert"]) for line in logs] == [("files_not_taken", True)]
    write(key_file, jwks(new=NEW))
    assert tokens.verify(signed(NEW, "new")).subject == "alice"


def test_files_are_looked_at_once_a_second_and_not_at_every_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LOOK_SECONDS", 1.0)
    file, now, looks = tmp_path / "f", [0.0], []
    file.write_text("1")

    def look() -> tuple[Path]:
        looks.append(now[0])
        return (file,)

    value = Reloaded("f", file.read_text, look, now=lambda: now[0])
    for moment in (0.1, 0.5, 0.9):
        now[0] = moment
        write(file, str(moment))
        assert value.get() == "1"
    now[0] = 1.0
    assert value.get() == "0.9"
    assert looks == [0.0, 1.0]


# Revoked tokens


@pytest.mark.parametrize(
    "line",
    [
        {"jti": "T1"},
        {"jti": "T1", "note": "lost phone"},
        {"sub": "alice", "issued_before": NOW + 1},
        {"sub": "alice", "merchant_id": "mall", "issued_before": NOW + 1},
        {"merchant_id": "mall", "issued_before": NOW + 0.5},
        {"issued_before": NOW + 1},
    ],
    ids=str,
)
def test_a_token_that_is_revoked_is_refused_from_then_on_although_it_was_remembered(
    tokens: UserTokens, tmp_path: Path, line: dict[str, Any]
) -> None:
    token = signed(OLD, "old")
    tokens.verify(token)
    write(tmp_path / "revoked", "# why\n\n" + json.dumps(line) + "\n")
    refused(tokens, token, "revoked")


@pytest.mark.parametrize(
    "line",
    [
        {"jti": "T2"},
        {"sub": "bob", "issued_before": NOW + 1},
        {"sub": "alice", "merchant_id": "acme", "issued_before": NOW + 1},
        {"sub": "alice", "issued_before": NOW},
        {"merchant_id": "acme", "issued_before": NOW + 1},
        {"issued_before": NOW},
    ],
    ids=str,
)
def test_every_other_token_is_still_good(
    tokens: UserTokens, tmp_path: Path, line: dict[str, Any]
) -> None:
    write(tmp_path / "revoked", json.dumps(line))
    assert tokens.verify(signed(OLD, "old")).subject == "alice"


@pytest.mark.parametrize("sub", ["auth0|1", "enc:auth0.7c1"])
def test_a_person_is_revoked_by_the_claim_or_by_our_id(
    tokens: UserTokens, tmp_path: Path, sub: str
) -> None:
    write(tmp_path / "revoked", json.dumps({"sub": sub, "issued_before": NOW + 1}))
    refused(tokens, signed(OLD, "old", sub="auth0|1"), "revoked")


def test_a_list_that_is_not_understood_keeps_the_one_before_and_stops_a_start(
    tokens: UserTokens, tmp_path: Path
) -> None:
    write(tmp_path / "revoked", '{"jti": "T1"}')
    refused(tokens, signed(OLD, "old"), "revoked")
    for content in ("{}", "T1", '{"sub": "alice"}', '{"jti": 1}'):
        write(tmp_path / "revoked", content)
        refused(tokens, signed(OLD, "old"), "revoked")
        with pytest.raises(ValueError, match="line 1"):
            Revocations.of_file(tmp_path / "revoked")
    write(tmp_path / "revoked", "")
    assert tokens.verify(signed(OLD, "old")).subject == "alice"


# Callers


def caller_key(folder: Path, key: Ed25519PrivateKey) -> None:
    write(
        folder / "order_rpc.pem",
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
    )


def public_key(folder: Path, key: Ed25519PrivateKey, name: str = "order_rpc") -> None:
    write(
        folder / "public" / f"{name}.pub.pem",
        key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
    )


def test_a_service_gets_a_new_key_and_signs_with_it_and_the_others_take_it(tmp_path: Path) -> None:
    (tmp_path / "public").mkdir()
    caller_key(tmp_path, OLD)
    public_key(tmp_path, OLD)
    clock, ids = FakeClock(), FakeIds()
    signer = CallerTokens.from_settings(
        MeshSettings(service="order_rpc", caller_key_file=tmp_path / "order_rpc.pem"),
        clock=clock,
        ids=ids,
    )
    verifier = CallerTokens.from_settings(
        MeshSettings(service="payment_rpc", caller_keys_dir=tmp_path / "public"),
        clock=clock,
        ids=ids,
    )
    first = signer.sign("payment_rpc")
    assert verifier.verify(first).service == "order_rpc"
    public_key(tmp_path, NEW)
    with pytest.raises(TokenInvalid, match="signature"):
        verifier.verify(first)
    caller_key(tmp_path, NEW)
    assert verifier.verify(signer.sign("payment_rpc")).service == "order_rpc"


def test_a_caller_that_is_new_is_taken_without_a_restart_and_one_that_goes_is_refused(
    tmp_path: Path,
) -> None:
    (tmp_path / "public").mkdir()
    verifier = CallerTokens.from_settings(
        MeshSettings(service="payment_rpc", caller_keys_dir=tmp_path / "public"),
        clock=FakeClock(),
        ids=FakeIds(),
    )
    token = CallerTokens("billing", clock=FakeClock(), ids=FakeIds(), private_key=NEW).sign(
        "payment_rpc"
    )
    with pytest.raises(TokenInvalid, match="key"):
        verifier.verify(token)
    public_key(tmp_path, NEW, "billing")
    assert verifier.verify(token).service == "billing"
    (tmp_path / "public" / "billing.pub.pem").unlink()
    with pytest.raises(TokenInvalid, match="key"):
        verifier.verify(token)


# Secrets with two values


@pytest.mark.parametrize(
    ("content", "secrets"),
    [
        (b"a" * 32, [b"a" * 32]),
        (b"  " + b"a" * 40 + b"\r\n", [b"a" * 40]),
        (b"a" * 32 + b"\n" + b"b" * 33 + b"\n", [b"a" * 32, b"b" * 33]),
        (
            bytes(range(16)) + b"\n" + bytes(range(200, 232)),
            [bytes(range(16)) + b"\n" + bytes(range(200, 232))],
        ),
    ],
    ids=["one", "spaces", "two", "binary"],
)
def test_a_file_of_secrets_has_one_per_line_unless_it_is_no_text(
    tmp_path: Path, content: bytes, secrets: list[bytes]
) -> None:
    (tmp_path / "secret").write_bytes(content)
    assert list(read_secrets(tmp_path / "secret")) == secrets
    assert read_secret(tmp_path / "secret") == secrets[0]


def test_a_short_second_secret_is_refused(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"a" * 32 + b"\nshort")
    with pytest.raises(ValueError, match="32 bytes"):
        read_secrets(tmp_path / "secret")


@pytest.fixture
def hs256() -> Callable[[bytes], str]:
    return lambda secret: jwt.encode(claims(), secret, algorithm="HS256", headers={"typ": "at+jwt"})


def test_user_tokens_of_the_secret_before_live_on_while_it_stands_in_the_file(
    tmp_path: Path, hs256: Callable[[bytes], str]
) -> None:
    old, new = b"o" * 32, b"n" * 32
    (tmp_path / "secret").write_bytes(old)
    tokens = UserTokens.from_settings(
        MeshSettings(environment="test", user_token_secret_file=tmp_path / "secret"),
        clock=FakeClock(),
    )
    tokens.verify(hs256(old))
    write(tmp_path / "secret", new + b"\n" + old)
    assert tokens.verify(hs256(old)).subject == tokens.verify(hs256(new)).subject == "alice"
    write(tmp_path / "secret", new)
    refused(tokens, hs256(old), "signature")
