"""Configuration of the sandbox, read once in `__main__` from SANDBOX_* and PAYMESH_*."""

from __future__ import annotations

from datetime import time
from pathlib import Path
from typing import Annotated, Self
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator

from mesh.secret_files import read_secret
from mesh.settings import MeshSettings, is_loopback
from sandbox.service import SandboxConfig

PUBLISHED_MD5_SECRET = "ymall-payment-secret-key-2024"  # noqa: S105  # source 001 prints it in its README: it keeps no secret, it keeps curl lines working
_WEB_URL = r"^https?://[!-~]{1,500}$"

Seconds = Annotated[float, Field(gt=0, le=86_400 * 7)]


class SandboxSettings(MeshSettings):
    """What the sandbox needs to know beyond what every process does. Of the common settings it
    reads environment, var_dir, host, advertise_host, port, allow_plaintext and the log settings.

    Attributes:
        database_file: its own SQLite file; None: sandbox.db below var_dir.
        api_key_file: the key of /v1/*, at least 32 bytes; payment_rpc reads the same file.
        callback_url: who gets callbacks; None: nobody, and none are recorded.
        callback_secret_file: HMAC key of callbacks; None: the API key.
        callback_retry_seconds: pauses between deliveries of one callback; afterwards it is given
            up.
        signed_callback_delay_seconds: how long the callback of an outcome that was recorded for a
            signature leaves the hint the first word.
        md5_secret_file: of source 001's rule; None: the published one.
        allow_signatures: serve POST …/signature; None: outside production.
        allow_misbehaviour: amounts and cards may ask for trouble, and statements may be spoiled;
            None: outside production.
        fee_basis_points: what is kept of each capture, in hundredths of a per cent, half up.
        statement_time_zone: whose days statements are of, an IANA name. statement_cut_off: when
            such a day begins there.
        public_base_url: what cashier links start with; None: the address it listens on.
        slow_seconds: how late the answer about the slow card is.
    """

    service: str = "sandbox"
    port: int = Field(8090, ge=0, le=65535)
    database_file: Path | None = None
    api_key_file: Path
    callback_url: str | None = Field(None, pattern=_WEB_URL)
    callback_secret_file: Path | None = None
    callback_retry_seconds: tuple[Seconds, ...] = (1, 5, 30, 120, 600, 3600)
    signed_callback_delay_seconds: float = Field(60, ge=0, le=86_400)
    md5_secret_file: Path | None = None
    allow_signatures: bool | None = None
    allow_misbehaviour: bool | None = None
    fee_basis_points: int = Field(60, ge=0, le=1000)
    statement_time_zone: str = "Asia/Shanghai"
    statement_cut_off: time = time(0)
    public_base_url: str | None = Field(None, pattern=_WEB_URL)
    slow_seconds: float = Field(15, ge=0, le=300)
    shop_name: str = Field("paymesh mall", min_length=1, max_length=64)

    @model_validator(mode="after")
    def _stay_on_loopback(self) -> Self:
        if not is_loopback(self.host) and not self.allow_plaintext:
            raise ValueError(
                "host: the sandbox speaks plain HTTP, so it stays on loopback unless "
                "allow_plaintext is set"
            )
        return self

    @field_validator("statement_time_zone")
    @classmethod
    def _must_be_a_zone(cls, name: str) -> str:
        try:
            return ZoneInfo(name).key
        # not there, a directory, outside of the database
        except (ZoneInfoNotFoundError, OSError, ValueError):
            raise ValueError("no such time zone") from None

    def config(self, *, port: int) -> SandboxConfig:
        """The settings with secrets read and defaults resolved.

        Args:
            port: the one that it listens on.

        Raises:
            ValueError: a secret is too short. OSError: a secret cannot be read.
        """
        api_key = read_secret(self.api_key_file).decode()
        host = f"[{self.advertised_host}]" if ":" in self.advertised_host else self.advertised_host
        return SandboxConfig(
            database_file=self.database_file or self.var_dir / "sandbox.db",
            api_key=api_key,
            public_base_url=self.public_base_url or f"http://{host}:{port}",
            callback_url=self.callback_url,
            callback_secret=read_secret(self.callback_secret_file).decode()
            if self.callback_secret_file
            else api_key,
            callback_retry_seconds=self.callback_retry_seconds,
            signed_callback_delay_seconds=self.signed_callback_delay_seconds,
            md5_secret=read_secret(self.md5_secret_file).decode()
            if self.md5_secret_file
            else PUBLISHED_MD5_SECRET,
            allow_signatures=self.is_development
            if self.allow_signatures is None
            else self.allow_signatures,
            allow_misbehaviour=self.is_development
            if self.allow_misbehaviour is None
            else self.allow_misbehaviour,
            fee_basis_points=self.fee_basis_points,
            statement_time_zone=self.statement_time_zone,
            statement_cut_off=self.statement_cut_off,
            slow_seconds=self.slow_seconds,
            shop_name=self.shop_name,
        )
