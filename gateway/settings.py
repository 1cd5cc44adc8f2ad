"""Configuration of the gateway: that of every process, and limits for requests. Read from
GATEWAY_… first, then PAYMESH_…
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, Self

from pydantic import Field, field_validator, model_validator

from mesh.settings import MeshSettings, is_loopback

_ORIGIN: Final = re.compile(
    r"https?://[a-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9a-f:]+\](:[0-9]{1,5})?"
)


class GatewaySettings(MeshSettings):
    """What the gateway needs to know. Raises pydantic.ValidationError that names every bad
    setting.
    """

    service: str = Field("gateway", pattern=r"^[a-z][a-z0-9_]{0,31}$")
    port: int = Field(8080, ge=0, le=65535)

    # exact origins of web frontends; there is no wildcard
    cors_origins: list[str] = Field([])
    # addresses whose X-Forwarded-For is believed
    trusted_proxies: list[str] = Field([])
    # TLS towards clients, where no proxy in front does it
    https_cert_file: Path | None = None
    https_key_file: Path | None = None

    # of any method; the contract says less for most
    body_bytes_max: int = Field(1024 * 1024, ge=1024, le=64 * 1024 * 1024)
    head_bytes_max: int = Field(32 * 1024, ge=1024, le=1024 * 1024)  # request line and headers
    # from the first byte (or the connection) to the end of the headers
    request_head_seconds: float = Field(10, gt=0, le=120)
    # from the headers to the end of the body
    request_body_seconds: float = Field(10, gt=0, le=600)
    # An idle connection is kept this long. It has to be longer than the idle time of a load
    # balancer in front, or that one sends requests into
    # connections that we are closing and answers 502: AWS has 60 s, Google Cloud 600 s.
    keep_alive_seconds: float = Field(75, gt=0, le=3600)
    # a client that reads nothing of its answer for so long is cut off
    stalled_answer_seconds: float = Field(30, gt=0, le=600)
    # HTTP/1.1 has one running request per connection
    connections_max: int = Field(10_000, ge=1)
    # that do not run in this mesh: /readyz does not wait for them
    absent_services: list[str] = Field(default_factory=list)
    # silence on a stream is broken this often
    stream_heartbeat_seconds: float = Field(15, gt=0, le=300)
    # open at once; `streams_max` of all processes bounds all callers together
    streams_per_user_max: int = Field(10, ge=1)
    # of callers without a token; many may share an address
    streams_per_address_max: int = Field(100, ge=1)

    @field_validator("cors_origins")
    @classmethod
    def _exact_origins(cls, origins: list[str]) -> list[str]:
        for origin in origins:
            if _ORIGIN.fullmatch(origin) is None:
                raise ValueError(
                    "an origin is scheme://host[:port] in lower case, without path or wildcard"
                )
        return origins

    @model_validator(mode="after")
    def _safe_door(self) -> Self:
        if (self.https_cert_file is None) != (self.https_key_file is None):
            raise ValueError("https_cert_file and https_key_file go together")
        if self.https_cert_file is None and not is_loopback(self.host) and not self.allow_plaintext:
            raise ValueError(
                "host: plaintext HTTP beyond loopback needs allow_plaintext (a proxy in front "
                "does TLS), or https_cert_file"
            )
        return self
