"""Configuration of merchant_rpc, read once in `__main__` from MERCHANT_RPC_* and PAYMESH_*."""

from __future__ import annotations

from pathlib import Path
from typing import Self

from pydantic import Field, model_validator

from mesh.settings import MeshSettings


class MerchantSettings(MeshSettings):
    """What merchant_rpc needs to know beyond what every process does.

    Attributes:
        database_pool_size: connections for writing, and as many for reading.
        public_url: where people reach us; the links of mails begin with it.
        pepper_file: secrets with which digests of API keys are made, see peppers.py. Every replica
            has the same; without them there are no keys.
        totp_key_file: keys that protect what people log in with, see people_key.py. Every replica
            has the same.
        operator_key_file: private half of the operators' key; without it operators do not log in
            here.
        password_memory_mib, password_rounds, password_lanes: what one hash of a password costs
            (argon2id). Existing hashes are made anew at the next log-in.
        oidc_issuer: identity provider of a firm whose people log in there; "": none.
        oidc_client_id, oidc_client_secret_file, oidc_scopes: what it knows us by, and what we ask
            for. It sends people back to `<public_url>/console/oidc`.
        oidc_needs_totp: who enrolled a second factor here gives its code after logging in there
            too; false where the provider asks for one of its own.
        reserved_merchant_ids: of tenants that are not kept here, e.g. those of the identity
            provider; nobody can sign up with them.
        scan_interval_seconds: pause between rounds of deliveries that found nothing to do.
    """

    service: str = "merchant_rpc"
    port: int = Field(9905, ge=0, le=65535)
    database_pool_size: int = Field(16, ge=1, le=200)
    public_url: str = Field("http://127.0.0.1:8080", pattern=r"^https?://[!-~]{1,200}$")
    pepper_file: Path | None = None
    totp_key_file: Path | None = None
    operator_key_file: Path | None = None
    password_memory_mib: int = Field(64, ge=1, le=1024)
    password_rounds: int = Field(3, ge=1, le=20)
    password_lanes: int = Field(4, ge=1, le=16)
    oidc_issuer: str = Field("", pattern=r"^(https?://[!-~]{1,300})?$")
    oidc_client_id: str = Field("", max_length=255)
    oidc_client_secret_file: Path | None = None
    oidc_scopes: str = Field("openid email", pattern=r"^openid( [!-~]+)*$", max_length=200)
    oidc_needs_totp: bool = True
    reserved_merchant_ids: tuple[str, ...] = ()
    scan_interval_seconds: float = Field(0.5, gt=0, le=600)

    @model_validator(mode="after")
    def _oidc_is_whole(self) -> Self:
        if bool(self.oidc_issuer) != bool(self.oidc_client_id):
            raise ValueError("oidc_issuer: goes together with oidc_client_id")
        return self
