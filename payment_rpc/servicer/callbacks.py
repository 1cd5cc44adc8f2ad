"""CallbackService: callbacks of channels."""

from __future__ import annotations

from typing import Any

from google.api import httpbody_pb2
from paymesh.payment.v1 import callback_pb2, callback_pb2_grpc

from mesh.call import current_language
from mesh.languages import Bilingual
from payment_rpc.channels.inbound import Inbound
from payment_rpc.channels.sandbox.channel import SIGNATURE_HEADER, TIMESTAMP_HEADER
from payment_rpc.domain.callback import FINAL, CallbackResult
from payment_rpc.servicer.messages import STATES
from payment_rpc.usecases.callbacks import Callbacks
from payment_rpc.usecases.mock_callbacks import Hint, MockCallbacks

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
        """Applies a callback and answers as its channel expects."""
        # callers that speak gRPC may fill the fields instead
        named = {TIMESTAMP_HEADER: request.timestamp, SIGNATURE_HEADER: request.signature}
        headers = {
            "content-type": request.body.content_type,
            **request.headers,
            **{name: value for name, value in named.items() if value},
        }
        answer = await self._callbacks.handle_callback(
            channel=request.channel, inbound=Inbound(body=request.body.data, headers=headers)
        )
        ack = answer.ack
        return callback_pb2.HandleCallbackResponse(
            body=httpbody_pb2.HttpBody(content_type=ack.content_type, data=ack.body),
            status_code=ack.status_code,
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
