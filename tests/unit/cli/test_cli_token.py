from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mesh.auth import Role, UserTokens
from mesh.clock import SystemClock
from mesh.secret_files import read_secret
from paymesh_cli import paymesh
from paymesh_cli.supervisor.installation import Installation


def run(installation: Installation, *arguments: str, **env: str) -> Result:
    return CliRunner().invoke(
        paymesh, ["token", "--var-dir", str(installation.var_dir), *arguments], env=env
    )


def test_a_token_says_what_was_asked_for(installation: Installation) -> None:
    result = run(
        installation,
        "--sub",
        "alice",
        "--role",
        "user",
        "--role",
        "merchant",
        "--merchant",
        "acme",
        "--ttl",
        "15m",
    )
    assert result.exit_code == 0, result.output
    clock = SystemClock()
    claims = UserTokens.from_secret(
        read_secret(installation.secret_file("user_token")), clock=clock
    ).verify(result.output.strip())
    assert (claims.subject, claims.merchant_id, claims.roles) == (
        "alice",
        "acme",
        frozenset({Role.USER, Role.MERCHANT}),
    )
    assert 890 <= claims.expires_at_seconds - clock.now().timestamp() <= 900


def test_a_plain_token_is_for_a_user_of_the_mall_for_an_hour(installation: Installation) -> None:
    clock = SystemClock()
    tokens = UserTokens.from_secret(
        read_secret(installation.secret_file("user_token")), clock=clock
    )
    claims = tokens.verify(run(installation, "--sub", "a").output.strip())
    assert (claims.merchant_id, claims.roles) == ("mall", frozenset({Role.USER}))
    assert 3590 <= claims.expires_at_seconds - clock.now().timestamp() <= 3600


def test_production_has_an_identity_provider(installation: Installation) -> None:
    result = run(installation, "--sub", "alice", PAYMESH_ENVIRONMENT="production")
    assert result.exit_code == 1
    assert "production" in result.output
    assert "eyJ" not in result.output


def test_a_secret_of_the_user_is_taken(installation: Installation, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_text("m" * 40)
    token = run(
        installation, "--sub", "alice", PAYMESH_USER_TOKEN_SECRET_FILE=str(mine)
    ).output.strip()
    assert UserTokens.from_secret(b"m" * 40, clock=SystemClock()).verify(token).subject == "alice"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--sub", "a b"], "--sub"),
        (["--sub", ""], "--sub"),
        (["--sub", "a", "--merchant", "A"], "--merchant"),
        (["--sub", "a", "--role", "root"], "--role"),
        (["--sub", "a", "--ttl", "0s"], "--ttl"),
        (["--sub", "a", "--ttl", "2d"], "--ttl"),
        (["--sub", "a", "--ttl", "1"], "--ttl"),
        ([], "--sub"),
    ],
)
def test_bad_arguments_are_named(
    installation: Installation, arguments: list[str], named: str
) -> None:
    result = run(installation, *arguments)
    assert result.exit_code == 2
    assert named in result.output


def test_without_an_installation_the_way_to_one_is_told(tmp_path: Path) -> None:
    result = CliRunner().invoke(
        paymesh, ["token", "--var-dir", str(tmp_path / "nothing"), "--sub", "a"]
    )
    assert result.exit_code == 1
    assert "paymesh up" in result.output
