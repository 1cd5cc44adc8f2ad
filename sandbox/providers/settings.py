"""Configuration of the simulated providers, read once in `__main__` from PROVIDERS_* and
PAYMESH_*.
"""

from __future__ import annotations

from typing import Final, Self

from pydantic import Field, model_validator

from mesh.settings import MeshSettings, is_loopback

# in the order in which they start
NAMES: Final = ("stripe", "paypal", "alipay", "wechat", "btcpay")
_WEB_URL = r"^https?://[!-~]{1,500}$"


class ProviderSettings(MeshSettings):
    """What the simulators need to know beyond what every process does. Of the common settings they
    read host and the log settings.

    Attributes:
        stripe_port, …: where each provider listens.
        stripe_webhook_url, …: where its notices go; None: nowhere, until `POST /_sim/webhooks`, or
            where the shop says with each request.
        public_host: the host of the URLs that they hand out; "": the one on which they listen.
        allow_network: other machines reach them. They obey anybody, so the network has to be
            private.
    """

    service: str = "providers"
    stripe_port: int = Field(8091, ge=0, le=65535)
    paypal_port: int = Field(8092, ge=0, le=65535)
    alipay_port: int = Field(8093, ge=0, le=65535)
    wechat_port: int = Field(8094, ge=0, le=65535)
    btcpay_port: int = Field(8095, ge=0, le=65535)
    stripe_webhook_url: str | None = Field(None, pattern=_WEB_URL)
    paypal_webhook_url: str | None = Field(None, pattern=_WEB_URL)
    alipay_webhook_url: str | None = Field(None, pattern=_WEB_URL)
    wechat_webhook_url: str | None = Field(None, pattern=_WEB_URL)
    btcpay_webhook_url: str | None = Field(None, pattern=_WEB_URL)

    public_host: str = Field("", pattern=r"^[A-Za-z0-9.-]{0,253}$")
    allow_network: bool = False

    @model_validator(mode="after")
    def _stay_on_loopback(self) -> Self:
        if not is_loopback(self.host) and not self.allow_network:
            raise ValueError(
                "host: the simulated providers obey anybody, so they stay on loopback; on a "
                "private network, set allow_network"
            )
        return self

    def port_of(self, provider: str) -> int:
        """Where a provider listens."""
        port: int = getattr(self, f"{provider}_port")
        return port

    def webhook_url_of(self, provider: str) -> str | None:
        """Where a provider's notices go."""
        url: str | None = getattr(self, f"{provider}_webhook_url")
        return url
