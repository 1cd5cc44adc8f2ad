"""A service of one's own that asks payment_rpc what became of an order.

    openssl genpkey -algorithm ed25519 -out billing.pem
    openssl pkey -in billing.pem -pubout -out var/keys/public/billing.pub.pem      # CALLER_KEYS_DIR of payment_rpc
    PAYMESH_EXTRA_CALLERS='{"billing": ["paymesh.payment.v1.PaymentService/GetPaymentByOrderId"]}'
    make run python -m examples.own_service --name billing --key billing.pem --target 127.0.0.1:9907
    ORD...

It needs the distribution `paymesh-stubs`, grpcio, PyJWT and cryptography, and nothing else of this
repository. Any gRPC client in any language does the same: a JWT signed with EdDSA, in the metadata
`x-paymesh-caller`, for five minutes at most. `docs/tokens.md` has its claims.
"""

from __future__ import annotations

import argparse
import sys
import time
import uuid
from pathlib import Path

import grpc
import jwt
from paymesh.payment.v1 import payment_pb2, payment_pb2_grpc

TOKEN_SECONDS = 300  # no token of a caller lives longer
TIMEOUT_SECONDS = 3.0


class CallerToken:
    """Names this service to one target. A token is used again until it gets old."""

    def __init__(self, name: str, target: str, key: bytes) -> None:
        self._name = name
        self._target = target
        self._key = key
        self._token = ""
        self._good_until = 0.0

    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What to send with a call."""
        now = int(time.time())
        if now >= self._good_until:
            claims = {
                "iss": self._name,
                "sub": self._name,
                "aud": self._target,
                "iat": now,
                "nbf": now,
                "exp": now + TOKEN_SECONDS,
                "jti": uuid.uuid4().hex,
            }
            self._token = jwt.encode(
                claims,
                self._key,
                algorithm="EdDSA",
                headers={"typ": "paymesh-caller+jwt", "kid": self._name},
            )
            self._good_until = now + TOKEN_SECONDS - 100  # it may wait on its way
        return (("x-paymesh-caller", self._token),)


def payment_of(
    channel: grpc.Channel, token: CallerToken, order_id: str, merchant_id: str
) -> payment_pb2.Payment:
    """The live or successful payment of an order, else the newest.

    Raises:
        grpc.RpcError: NOT_FOUND without a payment; UNAUTHENTICATED with a key that payment_rpc does
            not know; PERMISSION_DENIED when the setting EXTRA_CALLERS does not name this service
            for this method.
    """
    request = payment_pb2.GetPaymentByOrderIdRequest(order_id=order_id, merchant_id=merchant_id)
    answer = payment_pb2_grpc.PaymentServiceStub(channel).GetPaymentByOrderId(
        request, timeout=TIMEOUT_SECONDS, metadata=token.metadata()
    )
    return answer.payment


def main() -> None:
    """Prints the payment of each order."""
    parser = argparse.ArgumentParser(description="Asks payment_rpc as a service of one's own.")
    parser.add_argument(
        "--name", default="billing", help="our name: that of the file <name>.pub.pem"
    )
    parser.add_argument("--key", type=Path, required=True, help="our Ed25519 private key, PEM")
    parser.add_argument("--target", default="127.0.0.1:9907", help="where payment_rpc is")
    parser.add_argument("--merchant", default="mall")
    parser.add_argument("orders", nargs="+", metavar="ORDER_ID")
    arguments = parser.parse_args()
    token = CallerToken(arguments.name, "payment_rpc", arguments.key.read_bytes())
    # with mTLS: grpc.secure_channel and a certificate of the mesh's CA
    with grpc.insecure_channel(arguments.target) as channel:
        for order_id in arguments.orders:
            try:
                payment = payment_of(channel, token, order_id, arguments.merchant)
            except grpc.RpcError as error:
                sys.exit(f"{order_id}: {error.code().name}: {error.details()}")
            state = payment_pb2.PaymentState.Name(payment.state)
            sys.stdout.write(
                f"{order_id} {payment.payment_id} {state} {payment.amount} {payment.currency}\n"
            )


if __name__ == "__main__":
    main()
