"""CallbackService: callbacks of channels."""

from __future__ import annotations

from typing import Any

from google.api import httpbody_pb2
from paymesh.payment.v1 import callback_pb2, callback_pb2_grpc

from mesh.call import current_language
from mesh.languages import Bilingual
from payment_rpc.domain.callback import FINAL, CallbackResult
from payment_rpc.servicer.messages import STATES
from payment_rpc.usecases.callbacks import Callbacks
from payment_rpc.usecases.mock_callbacks import Hint, MockCallbacks

# The bytes on which the sandbox stops delivering.
ACKNOWLEDGED = b"success"
_RESULTS = {
    result: callback_pb2.CallbackResult.Value(f"CALLBACK_RESULT_{result}") for result in FINAL
}
_MESSAGES = {
    CallbackResult.PROCESSED: Bilingual(
        "The callback was processed.", "回调处理成功", promised_in_chinese=True
    ),
    CallbackResult.IGNORED: Bilingual(
        "The callback changed nothing.", "重复回调，已忽略", promised_in_chinese=True
    ),
}


class CallbackServicer(callback_pb2_grpc.CallbackServiceServicer):
    """Receives the callbacks of channels."""

    def __init__(self, *, callbacks: Callbacks, mock_callbacks: MockCallbacks) -> None:
        self._callbacks = callbacks
        self._mock_callbacks = mock_callbacks

    async def HandleCallback(
        self, request: callback_pb2.HandleCallbackRequest, context: Any
    ) -> callback_pb2.HandleCallbackResponse:
        """Applies a callback and acknowledges it after the commit."""
        await self._callbacks.handle_callback(
            channel=request.channel,
            body=request.body.data,
            timestamp=request.timestamp,
            signature=request.signature,
        )
        return callback_pb2.HandleCallbackResponse(
            body=httpbody_pb2.HttpBody(content_type="text/plain", data=ACKNOWLEDGED)
        )

    async def MockCallback(
        self, request: callback_pb2.MockCallbackRequest, context: Any
    ) -> callback_pb2.MockCallbackResponse:
        """Takes a callback of source 001 as a hint."""
        hint = Hint(
            payment_id=request.payment_id,
            callback_status=request.callback_status,
            timestamp=request.timestamp,
            nonce=request.nonce,
        )
        result, payment = await self._mock_callbacks.mock_callback(
            hint, signature=request.signature
        )
        message = _MESSAGES[result].text(current_language())
        return callback_pb2.MockCallbackResponse(
            result=_RESULTS[result],
            message=message,
            payment_id=payment.payment_id,
            current_status=STATES[payment.state],
        )

    async def GenerateSignature(
        self, request: callback_pb2.GenerateSignatureRequest, context: Any
    ) -> callback_pb2.GenerateSignatureResponse:
        """Lets the sandbox record and sign an outcome."""
        hint = Hint(
            payment_id=request.payment_id,
            callback_status=request.callback_status,
            timestamp=request.timestamp,
            nonce=request.nonce,
        )
        return callback_pb2.GenerateSignatureResponse(
            signature=await self._mock_callbacks.generate_signature(hint)
        )
