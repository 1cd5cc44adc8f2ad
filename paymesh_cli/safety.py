"""What `paymesh doctor` says about settings: those that no process can start with, misspelt ones,
and what is unsafe in production.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mesh.certificate_files import WARN_BEFORE, CertificatePaths, problems_of_certificates
from mesh.settings import MeshSettings, SettingsRefused, is_loopback, read_settings
from mesh.variables import strange_variables
from paymesh_cli.findings import Finding, failure, ok, unsafe, warning
from paymesh_cli.service_settings import SETTINGS
from paymesh_cli.supervisor.providers import HOST as PROVIDERS_HOST
from paymesh_cli.supervisor.providers import PROCESS as PROVIDERS

_SIMULATED = frozenset({"sandbox", PROVIDERS})  # nothing real depends on them
_WITH_DATABASE = ("payment_rpc", "order_rpc", "seckill_rpc", "merchant_rpc")
_FILES_BESIDES_CONNECTIONS = 256  # databases, logs, upstreams, libraries
# Source 001 prints it: every reader of it can sign with it.
DEVELOPMENT_ISSUER = MeshSettings.model_fields["user_token_issuer"].default
PUBLISHED_SECRETS = frozenset({b"ymall-payment-secret-key-2024"})


def check_variables(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Variables that look like settings and are none."""
    found = False
    for strange in strange_variables(environment, SETTINGS.values(), every=SETTINGS.values):
        found = True
        yield warning(
            f"variable {strange.name}",
            "no process reads it",
            f"did you mean {strange.likely}?"
            if strange.likely
            else "remove it, or correct its name",
        )
    if not found:
        yield ok("variables", "every PAYMESH_… and <SERVICE>_… is a setting")


def read_all(var_dir: Path) -> tuple[dict[str, MeshSettings], list[Finding]]:
    """The settings of every process as it would read them, and what is wrong with those that it
    cannot start with.
    """
    settings: dict[str, MeshSettings] = {}
    findings: list[Finding] = []
    for service, kind in SETTINGS.items():
        given: dict[str, Any] = {}
        if service == "sandbox":
            given = {"api_key_file": var_dir}  # `paymesh up` gives it its key
        elif service == PROVIDERS:
            given = {"host": PROVIDERS_HOST}
        try:
            settings[service] = read_settings(kind, var_dir=var_dir, **given)
        except SettingsRefused as refusal:
            findings += [
                failure(f"settings {service}", problem, "correct it: the process does not start")
                for problem in refusal.problems
            ]
    if not findings:
        findings.append(ok("settings", "those of every process are usable"))
    return settings, findings


def check_limits(settings: Mapping[str, MeshSettings]) -> Iterator[Finding]:
    """Whether this machine lets a process hold the connections that its settings allow."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    wanted = (
        int(getattr(settings.get("gateway"), "connections_max", 0)) + _FILES_BESIDES_CONNECTIONS
    )
    if files != resource.RLIM_INFINITY and files < wanted:
        yield unsafe(
            "open files",
            f"ulimit -n is {files}, GATEWAY_CONNECTIONS_MAX needs {wanted}",
            "raise the limit (LimitNOFILE, ulimits), or lower GATEWAY_CONNECTIONS_MAX: the "
            "gateway would refuse everybody",
        )
    else:
        yield ok("open files", f"ulimit -n is {files}")


def check_certificates(settings: Mapping[str, MeshSettings], now: datetime) -> Iterator[Finding]:
    """Whether the certificates of every process are good, belong to their keys, and how long they
    last.
    """
    files = {
        value
        for one in settings.values()
        for name, value in one
        if isinstance(value, Path) and name.endswith(("_cert_file", "_ca_file"))
    }
    problems = problems_of_certificates(sorted(files), now=now)
    for paths in {
        str(paths.cert): paths for one in settings.values() if (paths := CertificatePaths.of(one))
    }.values():
        try:
            paths.read()
        except (OSError, ValueError) as problem:
            if not any(str(file) in known for file in paths.files() for known in problems):
                problems.append(str(problem))
    for text in problems:
        level = warning if " expires in " in text else failure
        yield level(
            "certificate",
            text,
            "replace it; processes read it again by themselves (docs/tokens.md)",
        )
    if files and not problems:
        yield ok(
            "certificates", f"{len(files)} files, all good for more than {WARN_BEFORE.days} days"
        )


def check_production(settings: Mapping[str, MeshSettings]) -> Iterator[Finding]:
    """What must not be so where money is real. Nothing outside production."""
    live = {
        service: one
        for service, one in settings.items()
        if one.environment == "production" and service not in _SIMULATED
    }
    if not live:
        return
    for service, one in live.items():
        yield from _process(service, one)
        if service in _WITH_DATABASE:
            yield from _database(service, one)
    if "payment_rpc" in live:
        yield from _channel(live["payment_rpc"])
    if "gateway" in live:
        yield from _gateway(live["gateway"])


def _process(service: str, settings: MeshSettings) -> Iterator[Finding]:
    name = service.upper()
    if settings.tls_cert_file is None:
        yield unsafe(
            f"TLS {service}",
            "plaintext",
            f"set {name}_TLS_CERT_FILE, _TLS_KEY_FILE and _TLS_CA_FILE: tokens and amounts travel "
            f"readable",
        )
    elif settings.tls_ca_file is None:
        yield unsafe(
            f"TLS {service}",
            "peers show no certificate",
            f"set {name}_TLS_CA_FILE: anybody who reaches the port may call",
        )
    if settings.allow_plaintext and service != "gateway":
        yield unsafe(f"TLS {service}", "ALLOW_PLAINTEXT is set", f"remove {name}_ALLOW_PLAINTEXT")
    if settings.user_token_jwks_file is None:
        yield unsafe(
            f"user tokens {service}",
            "no JWKS: no user is believed, and HS256 secrets are refused",
            "set PAYMESH_USER_TOKEN_JWKS_FILE to the public keys of your identity provider",
        )
    if settings.user_token_issuer == DEVELOPMENT_ISSUER:
        yield warning(
            f"user tokens {service}",
            "the issuer is that of development tokens",
            "set PAYMESH_USER_TOKEN_ISSUER to your identity provider",
        )
    if service in _WITH_DATABASE:
        if settings.caller_keys_dir is None or settings.caller_key_file is None:
            yield failure(
                f"caller keys {service}",
                "none",
                f"set PAYMESH_CALLER_KEYS_DIR and {name}_CALLER_KEY_FILE: siblings refuse each "
                f"other",
            )
        if settings.page_token_secret_file is None:
            yield failure(
                f"page tokens {service}", "no secret", "set PAYMESH_PAGE_TOKEN_SECRET_FILE"
            )
    for setting, value in settings:
        if isinstance(value, Path) and setting.endswith("_file"):
            yield from _secret_file(f"{name}_{setting.upper()}", value)


def _secret_file(variable: str, path: Path) -> Iterator[Finding]:
    try:
        mode = path.stat().st_mode
        content = path.read_bytes().strip()[:200]
    except OSError as problem:
        yield failure(
            variable, f"{path}: {problem.strerror}", "put the file there, readable for the process"
        )
        return
    is_secret = not variable.endswith(("_CERT_FILE", "_CA_FILE", "_JWKS_FILE", "_REVOKED_FILE"))
    if is_secret and mode & 0o077:
        yield unsafe(
            variable,
            f"{path} has mode {mode & 0o777:o}",
            "chmod 600: others on this machine read it",
        )
    if content in PUBLISHED_SECRETS:
        yield unsafe(
            variable,
            f"{path} holds a published secret",
            "make one of your own: openssl rand -hex 32",
        )


def _database(service: str, settings: MeshSettings) -> Iterator[Finding]:
    name = service.upper()
    if settings.database_url.startswith("sqlite"):
        yield unsafe(
            f"database {service}",
            "SQLite",
            f"set {name}_DATABASE_URL to MySQL or MariaDB: one process, one disk, no replica",
        )
    elif urlsplit(settings.database_url).password and settings.database_password_file is None:
        yield unsafe(
            f"database {service}",
            "the password stands in the environment",
            f"set {name}_DATABASE_PASSWORD_FILE",
        )
    if settings.redis_url is None and service == "seckill_rpc":
        yield unsafe(
            "redis",
            "the embedded server of `paymesh up`, or none",
            "set PAYMESH_REDIS_URL to a Redis of your own, 6.2.20, 7.4.6 or newer",
        )
    elif (
        settings.redis_url
        and urlsplit(settings.redis_url).password
        and settings.redis_password_file is None
    ):
        yield unsafe(
            f"redis {service}",
            "the password stands in the environment",
            "set PAYMESH_REDIS_PASSWORD_FILE",
        )


def _channel(settings: Any) -> Iterator[Finding]:
    if settings.sandbox_api_key_file is not None:
        yield unsafe(
            "payment channel",
            "the sandbox: simulated money",
            "unset PAYMENT_RPC_SANDBOX_API_KEY_FILE: nobody pays anything there",
        )
    else:
        yield warning("payment channel", "none: only wallets pay", "")
    if any(
        urlsplit(url).scheme == "http"
        for prefixes in settings.return_urls.values()
        for url in prefixes
    ):
        yield unsafe(
            "return URLs",
            "http://",
            "set PAYMENT_RPC_RETURN_URLS to https:// addresses of your shops",
        )


def _gateway(settings: Any) -> Iterator[Finding]:
    if (
        settings.https_cert_file is None
        and settings.allow_plaintext
        and not is_loopback(settings.host)
    ):
        yield warning(
            "gateway",
            "plain HTTP beyond loopback",
            "right behind a proxy with TLS and on a private network only",
        )
    if settings.https_cert_file is None and not settings.trusted_proxies:
        yield warning(
            "gateway",
            "GATEWAY_TRUSTED_PROXIES is empty",
            "behind a proxy, name its addresses: else all strangers share one limit",
        )
    if settings.caller_keys_dir is None:
        yield warning(
            "gateway",
            "PAYMESH_CALLER_KEYS_DIR is not set",
            "set it: tokens of merchants' keys and members and of checkouts are refused without",
        )
    if any(origin.startswith("http://") for origin in settings.cors_origins):
        yield unsafe("gateway", "GATEWAY_CORS_ORIGINS has http://", "use https:// origins")
