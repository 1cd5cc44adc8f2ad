"""Configuration of a process: read once in `__main__`, frozen, every bad value reported together,
no value ever printed.

A setting is read from `<SERVICE>_<NAME>` (e.g. `PAYMENT_RPC_PORT`) and, where that is absent, from
`PAYMESH_<NAME>`. A service adds its own settings by subclassing and gives `service` its name as
default. Secrets are files: environments are inherited. A password may stand in a URL for
development; `database_password_file`, `redis_password_file` and `consul_token_file` keep it out of
the environment.
"""

from __future__ import annotations

import ipaddress
import re
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import Field, IPvAnyNetwork, SecretStr, ValidationError, model_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from mesh.secret_files import with_passwords_and_tls

COMMON_PREFIX = "PAYMESH_"


def is_loopback(host: str) -> bool:
    """True for 127.0.0.0/8, ::1 and "localhost": traffic that never leaves the machine."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _default_database_url(values: dict[str, Any]) -> str:
    return f"sqlite+aiosqlite:///{values.get('var_dir', 'var')}/{values.get('service', 'mesh')}.db"


class MeshSettings(BaseSettings):
    """What every process needs to know. Raises pydantic.ValidationError that names every bad
    setting.
    """

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        hide_input_in_errors=True,
        env_ignore_empty=True,
        arbitrary_types_allowed=False,
    )

    service: str = Field("mesh", pattern=r"^[a-z][a-z0-9_]{0,31}$")
    environment: Literal["development", "test", "production"] = "development"
    var_dir: Path = Path("var")

    host: str = "127.0.0.1"
    # what others connect to; None means `host`
    advertise_host: str | None = None
    port: int = Field(0, ge=0, le=65535)  # 0 means any free one
    metrics_port: int = Field(0, ge=0, le=65535)
    # numbers and readiness are for whoever watches, not for everybody who may call
    metrics_host: str = "127.0.0.1"

    # repr: it holds a password
    database_url: str = Field(default_factory=_default_database_url, repr=False)
    # replaces the password in `database_url`
    database_password_file: Path | None = None
    # set: TLS, and the server shows a certificate of this authority for its name
    database_tls_ca_file: Path | None = None
    database_tls_cert_file: Path | None = None  # ours, where the server asks for one
    database_tls_key_file: Path | None = None
    redis_url: str | None = Field(None, repr=False)  # rediss:// is TLS
    # for event streams; None means `redis_url`
    events_redis_url: str | None = Field(None, repr=False)
    # replaces the password in every `…redis_url`
    redis_password_file: Path | None = None
    # authority of every rediss:// URL; None means the system's
    redis_tls_ca_file: Path | None = None
    redis_tls_cert_file: Path | None = None
    redis_tls_key_file: Path | None = None

    # how long delivered messages can be looked at and sent once more
    delivered_retention_days: int = Field(14, ge=1, le=3650)

    discovery: Literal["static", "consul"] = "static"
    static_targets: dict[str, list[str]] = {}  # {"order_rpc": ["127.0.0.1:9906"]}
    consul_address: str = "127.0.0.1:8500"
    consul_token: SecretStr | None = None
    consul_token_file: Path | None = None  # instead of `consul_token`
    consul_check_interval_seconds: float = Field(5, ge=1, le=60)

    tls_cert_file: Path | None = None
    tls_key_file: Path | None = None
    # set: peers must show a certificate of this CA
    tls_ca_file: Path | None = None
    allow_plaintext: bool = False  # plaintext beyond loopback

    user_token_issuer: str = Field("paymesh", min_length=1)
    user_token_audience: str = Field("paymesh", min_length=1)
    # `typ`; providers that do not follow RFC 9068 write "JWT"
    user_token_types: list[str] = Field(["at+jwt"], min_length=1)
    # e.g. ["realm_access.roles"] or ["permissions", "scope"]
    user_token_roles_claims: list[str] = Field(["roles"], min_length=1)
    # the provider's word -> ours, besides our own
    user_token_role_names: dict[str, Literal["user", "merchant", "admin"]] = {}
    user_token_default_role: Literal["", "user"] = ""  # of a token without a role of ours
    user_token_merchant_claim: str = Field("merchant_id", min_length=1)
    # of buyers without that claim; "": they are refused
    user_token_default_merchant: str = Field("", pattern=r"^[a-z0-9_-]{0,32}$")
    user_token_jwks_file: Path | None = None  # public keys: RS256, ES256, EdDSA
    user_token_secret_file: Path | None = None  # HS256; never in production
    # see mesh/revocations.py; need not be there
    user_tokens_revoked_file: Path | None = None
    caller_key_file: Path | None = None  # our Ed25519 private key, PEM
    # `<service>.pub.pem` of every service that may call us
    caller_keys_dir: Path | None = None
    # For example {"billing": ["paymesh.payment.v1.PaymentService/GetPaymentByOrderId"]}.
    extra_callers: dict[str, list[str]] = {}
    page_token_secret_file: Path | None = None

    # named crash points; environment=test only
    failpoints: str = ""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_json: bool = True
    # open streams; a further one is refused and may go to another replica
    streams_max: int = Field(2000, ge=0)
    # our gateways
    relay_networks: tuple[IPvAnyNetwork, ...] = (
        ipaddress.ip_network("127.0.0.0/8"),
        ipaddress.ip_network("::1/128"),
    )
    # between "not serving" and closing the port; watchers hear of it within 50 ms
    drain_seconds: float = Field(0.2, ge=0, le=30)
    grace_seconds: float = Field(25, ge=0, le=300)  # how long running calls may take to end

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, then the service's own variables, then those of the whole mesh. Nothing else:
        no dotenv, no secrets directory.
        """
        del env_settings, dotenv_settings, file_secret_settings
        service = settings_cls.model_fields["service"].default
        if isinstance(init_settings, InitSettingsSource):
            service = init_settings.init_kwargs.get("service", service)
        return (
            init_settings,
            EnvSettingsSource(settings_cls, env_prefix=f"{str(service).upper()}_"),
            EnvSettingsSource(settings_cls, env_prefix=COMMON_PREFIX),
        )

    @model_validator(mode="before")
    @classmethod
    def _with_secrets_of_files(cls, values: dict[str, Any]) -> dict[str, Any]:
        values, problems = with_passwords_and_tls(values)
        if problems:
            raise ValueError("; ".join(problems))
        return values

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        problems = []
        if self.environment == "production" and self.user_token_secret_file is not None:
            problems.append(
                "user_token_secret_file: HS256 user tokens are for development and test; use "
                "user_token_jwks_file"
            )
        if any("paymesh-" in kind.lower() for kind in self.user_token_types):
            problems.append(
                "user_token_types: those that begin with paymesh- are our own; name the identity "
                "provider's"
            )
        if self.environment != "test" and self.failpoints:
            problems.append("failpoints: crash points exist only with environment=test")
        if (self.tls_cert_file is None) != (self.tls_key_file is None):
            problems.append("tls_cert_file: goes together with tls_key_file")
        if self.tls_ca_file is not None and self.tls_cert_file is None:
            problems.append("tls_ca_file: needs tls_cert_file and tls_key_file")
        if problems:
            raise ValueError("; ".join(problems))
        return self

    @property
    def is_development(self) -> bool:
        """True where development_only methods and open reflection are served."""
        return self.environment in {"development", "test"}

    @property
    def stream_redis_url(self) -> str | None:
        """Where event streams go."""
        return self.events_redis_url or self.redis_url

    @property
    def advertised_host(self) -> str:
        """What others connect to."""
        return self.advertise_host or self.host


class SettingsRefused(Exception):
    """The environment has settings that are not usable; the message is a list for people:
    variables, never values.

    Attributes:
        problems: one line each, "PAYMENT_RPC_PORT: …".
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__(
            "the settings are not usable\n" + "\n".join(f"  {problem}" for problem in problems)
        )
        self.problems = problems


S = TypeVar("S", bound=MeshSettings)
_NAMED = re.compile(r"(?:Value error, )?([a-z][a-z0-9_]*): (.*)", re.DOTALL)
_REWORDED = (
    (re.compile(r"^Input should be "), "should be "),
    (re.compile(r"^Field required$"), "is missing"),
    (re.compile(r"^Value error, "), ""),
    (re.compile(r", unable to parse string as an? \w+$"), ""),
)


def read_settings(kind: type[S], **given: Any) -> S:
    """The settings of a process. All mistakes are found at once: each is set aside and the rest is
    looked at again.

    Raises:
        SettingsRefused: names the variables.
    """
    problems: list[str] = []
    aside: dict[str, Any] = {}
    while True:
        try:
            settings = kind(**{**given, **aside})
        except ValidationError as error:
            found = dict(
                _problems(
                    error, kind, str(given.get("service", kind.model_fields["service"].default))
                )
            )
            new = {name: line for name, line in found.items() if name not in aside}
            problems += [line for line in new.values() if line not in problems]
            set_aside = {
                name: kind.model_fields[name].get_default(
                    call_default_factory=True, validated_data={}
                )
                for name in new
                if name in kind.model_fields and not kind.model_fields[name].is_required()
            }
            if not set_aside:
                raise SettingsRefused(problems) from None
            aside |= set_aside
            continue
        if problems:
            raise SettingsRefused(problems)
        return settings


def _problems(
    error: ValidationError, kind: type[MeshSettings], service: str
) -> list[tuple[str, str]]:
    """(setting or text, line) for each mistake."""
    found = []
    for problem in error.errors(include_input=False, include_url=False, include_context=False):
        if problem["type"] == "default_factory_not_called":
            continue  # follows from another mistake
        message = problem["msg"]
        name = str(problem["loc"][0]) if problem["loc"] else ""
        parts = [message] if name else message.removeprefix("Value error, ").split("; ")
        for part in parts:
            named = _NAMED.fullmatch(part)
            about, text = (
                (named[1], named[2])
                if named and not name and named[1] in kind.model_fields
                else (name, part)
            )
            for pattern, words in _REWORDED:
                text = pattern.sub(words, text)
            variable = f"{service}_{about}".upper()
            found.append(
                (
                    about or text,
                    f"{variable} (or {COMMON_PREFIX}{about.upper()}): {text}" if about else text,
                )
            )
    return found
