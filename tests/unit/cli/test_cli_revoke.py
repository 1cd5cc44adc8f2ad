from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mesh import files
from mesh.auth import UserTokenIssuer, UserTokens
from mesh.clock import SystemClock
from mesh.errors import TokenInvalid
from mesh.ids import UlidIds
from mesh.secret_files import read_secret
from mesh.settings import MeshSettings
from paymesh_cli import paymesh
from paymesh_cli.revoke import add_line
from paymesh_cli.supervisor.installation import Installation

CLOCK = SystemClock()


@pytest.fixture
def tokens(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> UserTokens:
    monkeypatch.setattr(files, "LOOK_SECONDS", 0.0)
    return UserTokens.from_settings(
        MeshSettings(
            user_token_secret_file=installation.secret_file("user_token"),
            user_tokens_revoked_file=installation.revoked_file,
        ),
        clock=CLOCK,
    )


@pytest.fixture
def issue(installation: Installation) -> Callable[..., str]:
    return UserTokenIssuer(
        read_secret(installation.secret_file("user_token")), clock=CLOCK, ids=UlidIds(CLOCK)
    ).issue


def revoke(installation: Installation, *arguments: str) -> Result:
    return CliRunner().invoke(
        paymesh, ["revoke", "--var-dir", str(installation.var_dir), *arguments]
    )


def is_good(tokens: UserTokens, token: str) -> bool:
    try:
        tokens.verify(token)
    except TokenInvalid:
        return False
    return True


def test_what_was_revoked_is_refused_by_a_process_that_runs(
    installation: Installation, tokens: UserTokens, issue: Callable[..., str]
) -> None:
    alice, bob = issue("alice"), issue("bob")
    of_acme, of_shop2 = issue("alice", merchant_id="acme"), issue("carol", merchant_id="shop2")
    everything = [alice, bob, of_acme, of_shop2]
    assert [is_good(tokens, each) for each in everything] == [True] * 4
    assert (
        revoke(
            installation, "--sub", "alice", "--merchant", "mall", "--note", "lost phone"
        ).exit_code
        == 0
    )
    assert [is_good(tokens, each) for each in everything] == [False, True, True, True]
    assert revoke(installation, "--jti", tokens.verify(bob).token_id).exit_code == 0
    assert [is_good(tokens, each) for each in everything] == [False, False, True, True]
    assert revoke(installation, "--merchant", "shop2").exit_code == 0
    assert [is_good(tokens, each) for each in everything] == [False, False, True, False]
    assert revoke(installation, "--everybody").exit_code == 0
    assert [is_good(tokens, each) for each in everything] == [False] * 4
    assert installation.revoked_file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--jti", "a", "--sub", "b"],
        ["--everybody", "--merchant", "mall"],
        ["--merchant", "A B"],
    ],
)
def test_a_command_that_does_not_say_what_it_means_writes_nothing(
    installation: Installation, arguments: list[str]
) -> None:
    assert revoke(installation, *arguments).exit_code == 2
    assert not installation.revoked_file.exists()


def test_lines_whose_tokens_have_expired_go_and_the_others_and_remarks_stay(tmp_path: Path) -> None:
    file = tmp_path / "revoked"
    day = 24 * 3600
    file.write_text(
        '# ours\n{"jti": "old", "revoked_at": 100}\n{"jti": "undated"}\n{"sub": "a", '
        '"issued_before": 200}\n'
    )
    add_line(file, {"jti": "new", "revoked_at": day + 4000}, now_seconds=day + 4000)
    lines = file.read_text().splitlines()
    assert lines[0] == "# ours"
    assert [json.loads(line).get("jti") for line in lines[1:]] == ["undated", "new"]


def test_a_list_that_is_not_understood_is_left_as_it_is(installation: Installation) -> None:
    installation.revoked_file.write_text("what is this")
    result = revoke(installation, "--jti", "T1")
    assert result.exit_code == 1
    assert "line 1" in result.output
    assert installation.revoked_file.read_text() == "what is this"
