"""merchant_rpc's ApiKeyService, as the gateway calls it. This is the only call that the gateway
makes in its own name."""

from __future__ import annotations

from typing import Any, Final

from paymesh.merchant.v1 import api_key_pb2, api_key_pb2_grpc

from gateway.api_keys import ExchangedKey, RevokedKeys
from gateway.errors import ApiKeyInvalid
from mesh.errors import MeshError, Unavailable
from mesh.logs import get_logger

SECONDS_MAX: Final = 0.3  # a request waits no longer for its key
_RETRY_AFTER_SECONDS: Final = 1.0

log = get_logger()


class MerchantKeys:
    """Exchanges keys, and asks what was revoked."""

    def __init__(self, channel: Any) -> None:
        """`channel` names this process by a caller token."""
        self._stub: Any = api_key_pb2_grpc.ApiKeyServiceStub(channel)

    async def exchange(
        self, *, key_sha256: bytes, prefix: str, client_address: str
    ) -> ExchangedKey:
        """A token for a key.

        Raises:
            ApiKeyInvalid: refused. Unavailable: not answered in time.
        """
        try:
            answer = await self._stub.ExchangeApiKeyDigest(
                api_key_pb2.ExchangeApiKeyDigestRequest(
                    key_sha256=key_sha256, prefix=prefix, client_address=client_address
                ),
                timeout=SECONDS_MAX,
            )
        except MeshError as error:
            if error.reason == ApiKeyInvalid.reason:
                raise ApiKeyInvalid from None
            raise _unavailable(error) from None
        return ExchangedKey(
            token=answer.access_token,
            expires_at_seconds=answer.expires_at.seconds + answer.expires_at.nanos / 1e9,
            subject=answer.subject,
            merchant_id=answer.merchant_id,
            is_bound_to_address=answer.is_bound_to_address,
        )

    async def revoked(self) -> RevokedKeys:
        """What was revoked in the last minutes.

        Raises:
            Unavailable: not answered in time.
        """
        try:
            answer = await self._stub.ListRevocations(
                api_key_pb2.ListRevocationsRequest(), timeout=SECONDS_MAX
            )
        except MeshError as error:
            raise _unavailable(error) from None
        return RevokedKeys(
            subjects=frozenset(answer.subjects), merchant_ids=frozenset(answer.merchant_ids)
        )


def _unavailable(error: MeshError) -> Unavailable:
    # Not the refusal itself: it would be taken for one of the method that the client called.
    log.warning("api_keys_unavailable", reason=error.reason)
    return Unavailable(
        "API keys cannot be looked at now.", retry_after_seconds=_RETRY_AFTER_SECONDS
    )
