"""How the simulated PayPal signs: the vector, what it refuses, the certificate."""

from __future__ import annotations

import json

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import NameOID

from sandbox.providers.paypal.signing import COMMON_NAME, Signer, message
from tests.support.fakes import FakeClock
from tests.support.provider_keys import MERCHANT, PROVIDER
from tests.support.simulated_paypal import issue_of, paypal_shop

BODY = (
    b'{"id":"WH-TEST-0001","event_version":"1.0","create_time":"2026-11-20T12:00:00.000Z",'
    b'"resource_type":"capture","resource_version":"2.0","event_type":"PAYMENT.CAPTURE.COMPLETED",'
    b'"summary":"Payment completed for USD 99.99","resource":{"id":"CAP0001","status":"COMPLETED",'
    b'"amount":{"currency_code":"USD","value":"99.99"},"final_capture":true,"custom_id":"ATT0001",'
    b'"invoice_id":"ATT0001","seller_receivable_breakdown":{"gross_amount":{"currency_code":"USD",'
    b'"value":"99.99"},"paypal_fee":{"currency_code":"USD","value":"3.20"},"net_amount":'
    b'{"currency_code":"USD","value":"96.79"}},"supplementary_data":{"related_ids":{"order_id":'
    b'"ORD0001"}},"create_time":"2026-11-20T12:00:00Z","update_time":"2026-11-20T12:00:00Z"}}'
)
SENT = {
    "transmission_id": "7e5a1f50-0000-11f0-8000-000000000001",
    "transmission_time": "2026-11-20T12:00:05Z",
    "webhook_id": "WHK0000000000001",
}
SIGNATURE = (
    "L05P+o7hnjSV5lWSvzuGrU5Bl0aIutNF9nYkr0Oo86i2474ERsgxEKxryayy9hW4NZ6UE4zSTP8DLlC2v8eIDnV4ulPL"
    "bB7GoK3whgMxJn9r3imnZ1vH+kinz6lpkNTV8oIQHn68GYc7AvmDLBUqQ1bEm08Y+xa/zpxhzPTIe8Ppe+13nkMwlh/O"
    "E5FTlKvu5pXKlqzmrfJC5fK5LxnAafULrd6jxcmrv5KBke9S7zVLMB0epS92E/ngi9AXQUETxpJ0KKu3haFhDqqp40Sq"
    "bJpEu5k6wGHm/sfVy5PoaaEsybz8wufyYi65FhuqkHj8MpyPDLVzfuvzCVdifT0Iaw=="
)


def signer(key: rsa.RSAPrivateKey = PROVIDER) -> Signer:
    return Signer(key, b"", b"")


def test_the_vector_is_signed_as_it_stands() -> None:
    assert len(BODY) == 710
    assert message(**SENT, body=BODY).decode() == "|".join([*SENT.values(), "1915537274"])
    assert signer().sign(**SENT, body=BODY) == SIGNATURE
    assert signer().verifies(SIGNATURE, **SENT, body=BODY)


@pytest.mark.parametrize(
    ("change", "body", "signature", "key"),
    [
        ({"webhook_id": "WHK0000000000002"}, BODY, SIGNATURE, PROVIDER),
        ({"transmission_time": "2026-11-20T12:00:06Z"}, BODY, SIGNATURE, PROVIDER),
        ({"transmission_id": "other"}, BODY, SIGNATURE, PROVIDER),
        ({}, BODY.replace(b"99.99", b"99.98", 1), SIGNATURE, PROVIDER),
        ({}, BODY, SIGNATURE, MERCHANT),
        ({}, BODY, "nonsense!", PROVIDER),
        ({}, BODY, "", PROVIDER),
    ],
)
def test_what_is_not_the_vector_is_refused(
    change: dict[str, str], body: bytes, signature: str, key: rsa.RSAPrivateKey
) -> None:
    assert not signer(key).verifies(signature, **{**SENT, **change}, body=body)


def test_the_certificate_is_paypals_by_name_and_issued_by_the_authority() -> None:
    made = Signer.make(PROVIDER)
    certificate = x509.load_pem_x509_certificate(made.certificate)
    authority = x509.load_pem_x509_certificate(made.authority)
    certificate.verify_directly_issued_by(authority)
    [name] = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert name.value == COMMON_NAME == "messageverificationcerts.paypal.com"
    assert certificate.public_key() == PROVIDER.public_key()


async def test_the_check_of_a_signature_takes_the_event_byte_by_byte() -> None:
    async with paypal_shop(FakeClock()) as shop:
        config = shop.simulation.config
        own_signature = config.signer.sign(**SENT, body=BODY)
        asked = {
            **SENT,
            "auth_algo": "SHA256withRSA",
            "cert_url": config.certificate_url,
            "transmission_sig": own_signature,
        }

        async def verdict(event: bytes, **change: str) -> str:
            head = json.dumps({**asked, **change}).encode()[:-1]
            answer = await shop.client.post(
                "/v1/notifications/verify-webhook-signature",
                content=head + b',"webhook_event":' + event + b"}",
                headers={
                    "authorization": f"Bearer {shop.token}",
                    "content-type": "application/json",
                },
            )
            return str(answer.json()["verification_status"])

        assert await verdict(BODY) == "SUCCESS"
        assert await verdict(json.dumps(json.loads(BODY)).encode()) == "FAILURE"
        assert await verdict(BODY, webhook_id="WEBHOOK_ID") == "FAILURE"
        assert await verdict(BODY, cert_url="https://evil.test/cert") == "FAILURE"
        assert await verdict(BODY, auth_algo="MD5") == "FAILURE"
        served = await shop.client.get(config.certificate_url)
        assert served.content == config.signer.certificate
        unknown = await shop.client.get("/v1/notifications/certs/CERT-1")
        assert issue_of(unknown) == (404, "INVALID_RESOURCE_ID")
