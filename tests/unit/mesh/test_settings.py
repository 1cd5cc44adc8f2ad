from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from redis import Redis
from sqlalchemy import make_url

from mesh.secret_files import read_secret
from mesh.settings import MeshSettings, SettingsRefused, is_loopback, read_settings


class PaymentSettings(MeshSettings):
    service: str = "payment_rpc"
    sandbox_url: str = "http://127.0.0.1:8090"


def test_a_services_own_variable_wins_over_that_of_the_mesh(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PAYMESH_HOST", "127.0.0.2")
    monkeypatch.setenv("PAYMESH_PORT", "1")
    monkeypatch.setenv("PAYMENT_RPC_PORT", "9907")
    monkeypatch.setenv("PAYMENT_RPC_SANDBOX_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("ORDER_RPC_PORT", "9906")
    settings = PaymentSettings()
    assert (settings.host, settings.port, settings.sandbox_url) == (
        "127.0.0.2",
        9907,
        "http://127.0.0.1:1",
    )


def test_the_services_name_may_be_an_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORDER_RPC_PORT", "9906")
    assert MeshSettings(service="order_rpc").port == 9906


def test_an_argument_wins_over_every_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAYMENT_RPC_PORT", "9907")
    assert PaymentSettings(port=0).port == 0


def test_an_empty_variable_is_no_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PAYMENT_RPC_PORT", "")
    monkeypatch.setenv("PAYMESH_PORT", "7")
    assert PaymentSettings().port == 7


def test_static_targets_are_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "PAYMESH_STATIC_TARGETS", '{"order_rpc": ["127.0.0.1:9906", "127.0.0.1:9916"]}'
    )
    assert MeshSettings().static_targets == {"order_rpc": ["127.0.0.1:9906", "127.0.0.1:9916"]}


def test_the_database_is_a_file_of_the_service_below_var() -> None:
    assert (
        PaymentSettings(var_dir=Path("/x")).database_url == "sqlite+aiosqlite:////x/payment_rpc.db"
    )


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        PaymentSettings().port = 1  # type: ignore[misc]


def test_every_bad_setting_is_named_at_once_and_no_value_is_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PAYMENT_RPC_PORT", "70000")
    monkeypatch.setenv("PAYMESH_ENVIRONMENT", "prod-s3cr3t")
    monkeypatch.setenv("PAYMESH_LOG_LEVEL", "LOUD")
    with pytest.raises(ValidationError) as refused:
        PaymentSettings()
    for name in ("port", "environment", "log_level"):
        assert name in str(refused.value)
    assert "s3cr3t" not in str(refused.value)
    assert "70000" not in str(refused.value)


def test_passwords_in_urls_and_tokens_are_not_shown() -> None:
    settings = MeshSettings(
        database_url="mysql+aiomysql://root:hunter2@db/x",
        redis_url="redis://:hunter2@r",
        consul_token="hunter2",
    )
    assert "hunter2" not in repr(settings)
    assert "hunter2" not in str(settings)


def test_passwords_come_from_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, password in (
        ("database", "p@ss/w:rd#1"),
        ("redis", "hunter 2"),
        ("consul", "token-3"),
    ):
        (tmp_path / name).write_text(f"{password}\n")
    monkeypatch.setenv(
        "PAYMENT_RPC_DATABASE_URL", "mysql+aiomysql://shop:old@db:3306/x?charset=utf8mb4"
    )
    monkeypatch.setenv("PAYMENT_RPC_DATABASE_PASSWORD_FILE", str(tmp_path / "database"))
    monkeypatch.setenv("PAYMESH_REDIS_URL", "rediss://r:6379/2")
    monkeypatch.setenv("PAYMESH_REDIS_PASSWORD_FILE", str(tmp_path / "redis"))
    monkeypatch.setenv("PAYMESH_CONSUL_TOKEN_FILE", str(tmp_path / "consul"))
    settings = PaymentSettings()
    url = make_url(settings.database_url)
    assert (url.username, url.password, url.host, url.database, url.query["charset"]) == (
        "shop",
        "p@ss/w:rd#1",
        "db",
        "x",
        "utf8mb4",
    )
    redis = Redis.from_url(settings.redis_url or "")
    assert (
        redis.connection_pool.connection_kwargs | {"password": "hunter 2", "host": "r", "db": 2}
        == redis.connection_pool.connection_kwargs
    )
    assert settings.consul_token is not None
    assert settings.consul_token.get_secret_value() == "token-3"
    assert "hunter" not in repr(settings)


@pytest.mark.parametrize(
    ("setting", "rest"),
    [
        ("database_password_file", {}),
        ("database_password_file", {"database_url": "sqlite+aiosqlite:////x/y.db"}),
        ("redis_password_file", {}),
        ("consul_token_file", {"consul_token": "another"}),
    ],
)
def test_a_password_that_nobody_asks_for_is_refused(
    tmp_path: Path, setting: str, rest: dict[str, Any]
) -> None:
    (tmp_path / "secret").write_text("hunter2")
    with pytest.raises(ValidationError, match=setting) as refused:
        MeshSettings(**{**rest, setting: tmp_path / "secret"})
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    "content", [None, b"", b" \n", b"\xff\xfe"], ids=["absent", "empty", "blank", "binary"]
)
def test_a_password_file_that_holds_none_is_refused(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "secret").write_bytes(content)
    with pytest.raises(ValidationError, match="redis_password_file"):
        MeshSettings(redis_url="redis://r", redis_password_file=tmp_path / "secret")


def test_production_refuses_shared_secrets_for_user_tokens() -> None:
    with pytest.raises(ValidationError, match="user_token_secret_file"):
        MeshSettings(environment="production", user_token_secret_file=Path("x"))
    assert MeshSettings(
        environment="test", user_token_secret_file=Path("x")
    ).user_token_secret_file == Path("x")


@pytest.mark.parametrize("environment", ["development", "production"])
def test_crash_points_are_for_tests_only(environment: str) -> None:
    with pytest.raises(ValidationError, match="failpoints"):
        MeshSettings(environment=environment, failpoints="payment.charge.after_tx1")


def test_half_a_tls_configuration_is_refused() -> None:
    with pytest.raises(ValidationError, match="goes together"):
        MeshSettings(tls_cert_file=Path("x"))
    with pytest.raises(ValidationError, match="tls_ca_file"):
        MeshSettings(tls_ca_file=Path("x"))


def test_an_unknown_argument_is_refused() -> None:
    with pytest.raises(ValidationError, match="prot"):
        MeshSettings(prot=1)  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("host", "answer"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("::", False),
        ("example.org", False),
        ("localhost.example.org", False),
        ("", False),
    ],
)
def test_loopback_is_what_never_leaves_the_machine(host: str, answer: bool) -> None:
    assert is_loopback(host) is answer


def test_a_short_secret_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_bytes(b"x" * 31 + b"\n")
    with pytest.raises(ValueError, match="32 bytes"):
        read_secret(file)
    file.write_bytes(b"x" * 32 + b"\n")
    assert read_secret(file) == b"x" * 32


class SaleSettings(PaymentSettings):
    scan_batch_size: int = 100


def refused(kind: type[MeshSettings], **given: object) -> list[str]:
    with pytest.raises(SettingsRefused) as refusal:
        read_settings(kind, **given)
    return refusal.value.problems


def test_all_mistakes_are_one_list_in_the_words_of_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PAYMENT_RPC_PORT", "s3cr3t")
    monkeypatch.setenv("PAYMENT_RPC_SCAN_BATCH_SIZE", "abc")
    # found by a rule over several settings
    monkeypatch.setenv("PAYMESH_TLS_CERT_FILE", "/x")
    # found before any setting is looked at
    monkeypatch.setenv("PAYMESH_DATABASE_PASSWORD_FILE", "/s3cr3t")
    problems = refused(SaleSettings)
    assert [problem.partition(" ")[0] for problem in sorted(problems)] == [
        "PAYMENT_RPC_DATABASE_PASSWORD_FILE",
        "PAYMENT_RPC_PORT",
        "PAYMENT_RPC_SCAN_BATCH_SIZE",
        "PAYMENT_RPC_TLS_CERT_FILE",
    ]
    told = "\n".join(problems)
    assert "PAYMENT_RPC_PORT (or PAYMESH_PORT): should be a valid integer" in told
    for unwanted in ("pydantic", "Input", "Value error", "type=", "validated data"):
        assert unwanted not in told
    assert told.count("s3cr3t") == 1  # the name of a file, not a value


def test_a_missing_setting_is_called_missing() -> None:
    class Needs(MeshSettings):
        service: str = "payment_rpc"
        key_file: Path

    assert refused(Needs) == ["PAYMENT_RPC_KEY_FILE (or PAYMESH_KEY_FILE): is missing"]


def test_settings_without_mistakes_are_read() -> None:
    assert read_settings(SaleSettings, port=7).port == 7


@pytest.mark.parametrize("kind", ["paymesh-user+jwt", "application/Paymesh-Caller+JWT"])
def test_the_identity_provider_has_no_type_of_our_own(kind: str) -> None:
    with pytest.raises(ValidationError, match="user_token_types"):
        MeshSettings(user_token_types=["at+jwt", kind])
