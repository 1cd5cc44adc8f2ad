"""ApiKeyService: messages to use cases and back."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from paymesh.merchant.v1 import api_key_pb2, api_key_pb2_grpc

from merchant_rpc.domain.api_key import ApiKey
from merchant_rpc.usecases.api_keys import ApiKeys, CreateApiKey, RotateApiKey
from merchant_rpc.usecases.key_exchanges import KeyExchanges
from mesh.api_key_format import ApiKeyKind
from mesh.call import current_caller, current_client_address
from mesh.times import moment_of, timestamp

_KINDS = {kind: api_key_pb2.ApiKeyKind.Value(f"API_KEY_KIND_{kind}") for kind in ApiKeyKind}
_KINDS_OF_MESSAGES = {value: kind for kind, value in _KINDS.items()}


class ApiKeyServicer(api_key_pb2_grpc.ApiKeyServiceServicer):
    """Keys of merchants, and their exchange for tokens."""

    def __init__(self, *, keys: ApiKeys, exchanges: KeyExchanges) -> None:
        self._keys = keys
        self._exchanges = exchanges

    async def CreateApiKey(
        self, request: api_key_pb2.CreateApiKeyRequest, context: Any
    ) -> api_key_pb2.CreateApiKeyResponse:
        """Makes a key and shows it once."""
        key, text = await self._keys.create(
            CreateApiKey(
                merchant_id=request.merchant_id,
                kind=_KINDS_OF_MESSAGES[request.kind],
                name=request.name,
                scopes=list(request.scopes),
                allowed_addresses=list(request.allowed_addresses),
                expires_at=moment_of(request, "expires_at"),
                reason=request.reason,
            ),
            current_caller(),
        )
        return api_key_pb2.CreateApiKeyResponse(api_key=key_message(key), key=text)

    async def ListApiKeys(
        self, request: api_key_pb2.ListApiKeysRequest, context: Any
    ) -> api_key_pb2.ListApiKeysResponse:
        """Lists keys, newest first."""
        keys, next_page_token = await self._keys.list(
            merchant_id=request.merchant_id,
            page_size=request.page_size,
            page_token=request.page_token,
        )
        return api_key_pb2.ListApiKeysResponse(
            api_keys=[key_message(key) for key in keys], next_page_token=next_page_token
        )

    async def RevokeApiKey(
        self, request: api_key_pb2.RevokeApiKeyRequest, context: Any
    ) -> api_key_pb2.RevokeApiKeyResponse:
        """Ends a key."""
        key = await self._keys.revoke(
            merchant_id=request.merchant_id,
            key_id=request.key_id,
            reason=request.reason,
            caller=current_caller(),
        )
        return api_key_pb2.RevokeApiKeyResponse(api_key=key_message(key))

    async def RotateApiKey(
        self, request: api_key_pb2.RotateApiKeyRequest, context: Any
    ) -> api_key_pb2.RotateApiKeyResponse:
        """Makes a key in the place of another one."""
        key, text = await self._keys.rotate(
            RotateApiKey(
                merchant_id=request.merchant_id,
                key_id=request.key_id,
                overlap=timedelta(minutes=request.overlap_minutes),
                reason=request.reason,
            ),
            current_caller(),
        )
        return api_key_pb2.RotateApiKeyResponse(api_key=key_message(key), key=text)

    async def ExchangeApiKey(
        self, request: api_key_pb2.ExchangeApiKeyRequest, context: Any
    ) -> api_key_pb2.ExchangeApiKeyResponse:
        """Exchanges a key for a token."""
        token = await self._exchanges.exchange(request.key, client_address=current_client_address())
        return api_key_pb2.ExchangeApiKeyResponse(
            access_token=token.token, expires_at=timestamp(token.expires_at)
        )

    async def ExchangeApiKeyDigest(
        self, request: api_key_pb2.ExchangeApiKeyDigestRequest, context: Any
    ) -> api_key_pb2.ExchangeApiKeyDigestResponse:
        """Exchanges the digest of a key for a token."""
        token = await self._exchanges.exchange_digest(
            request.key_sha256, prefix=request.prefix, client_address=request.client_address
        )
        return api_key_pb2.ExchangeApiKeyDigestResponse(
            access_token=token.token,
            expires_at=timestamp(token.expires_at),
            subject=token.key.subject,
            merchant_id=token.key.merchant_id,
            is_bound_to_address=bool(token.key.allowed_addresses),
        )

    async def ListRevocations(
        self, request: api_key_pb2.ListRevocationsRequest, context: Any
    ) -> api_key_pb2.ListRevocationsResponse:
        """Lists what was revoked in the last minutes."""
        subjects, merchant_ids = await self._exchanges.list_revocations()
        return api_key_pb2.ListRevocationsResponse(subjects=subjects, merchant_ids=merchant_ids)


def key_message(key: ApiKey) -> api_key_pb2.ApiKey:
    """A key as its merchant sees it."""
    return api_key_pb2.ApiKey(
        key_id=key.key_id,
        merchant_id=key.merchant_id,
        kind=_KINDS[key.kind],
        name=key.name,
        prefix=key.head,
        last_four=key.last_four,
        scopes=sorted(key.scopes),
        allowed_addresses=key.allowed_addresses,
        expires_at=timestamp(key.expires_at),
        revoked_at=timestamp(key.revoked_at),
        last_used_at=timestamp(key.last_used_at),
        last_used_address=key.last_used_address,
        created_by=key.created_by,
        created_at=timestamp(key.created_at),
    )
