"""Configuration of merchant_rpc, read once in `__main__` from MERCHANT_RPC_* and PAYMESH_*."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from mesh.settings import MeshSettings


class MerchantSettings(MeshSettings):
    """What merchant_rpc needs to know beyond what every process does.

    Attributes:
        database_pool_size: connections for writing, and as many for reading.
        public_url: where people reach us; the links of mails begin with it.
        pepper_file: secrets with which digests of API keys are made, see peppers.py. Every replica
            has the same; without them there are no keys.
        scan_interval_seconds: pause between rounds of deliveries that found nothing to do.
    """

    service: str = "merchant_rpc"
    port: int = Field(9905, ge=0, le=65535)
    database_pool_size: int = Field(16, ge=1, le=200)
    public_url: str = Field("http://127.0.0.1:8080", pattern=r"^https?://[!-~]{1,200}$")
    pepper_file: Path | None = None
    scan_interval_seconds: float = Field(0.5, gt=0, le=600)
