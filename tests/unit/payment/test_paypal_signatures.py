"""Signatures of PayPal's notices: a vector that PayPal's own library accepted, and certificates."""

from __future__ import annotations

import base64
import zlib
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from payment_rpc.channels.inbound import Inbound, KeyUnknown
from payment_rpc.channels.paypal.channel import open_channel
from payment_rpc.channels.paypal.credentials import parse
from payment_rpc.channels.paypal.signatures import (
    LIVE_HOSTS,
    SANDBOX_HOSTS,
    Certificates,
    check,
    public_roots,
)
from payment_rpc.domain.errors import SignatureInvalid
from tests.support.provider_keys import MERCHANT, PROVIDER

NOW = datetime(2026, 11, 20, 12, 0, tzinfo=UTC)
NAME = "messageverificationcerts.paypal.com"
URL = "https://api.paypal.com/v1/notifications/certs/CERT-360caa42-fca2a594-1d93a270"
WEBHOOK = "WHK0000000000001"
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
SIGNATURE = (
    "L05P+o7hnjSV5lWSvzuGrU5Bl0aIutNF9nYkr0Oo86i2474ERsgxEKxryayy9hW4NZ6UE4zSTP8DLlC2v8eIDnV4"
    "ulPLbB7GoK3whgMxJn9r3imnZ1vH+kinz6lpkNTV8oIQHn68GYc7AvmDLBUqQ1bEm08Y+xa/zpxhzPTIe8Ppe+13"
    "nkMwlh/OE5FTlKvu5pXKlqzmrfJC5fK5LxnAafULrd6jxcmrv5KBke9S7zVLMB0epS92E/ngi9AXQUETxpJ0KKu3"
    "haFhDqqp40SqbJpEu5k6wGHm/sfVy5PoaaEsybz8wufyYi65FhuqkHj8MpyPDLVzfuvzCVdifT0Iaw=="
)
HEADERS = {
    "paypal-transmission-id": "7e5a1f50-0000-11f0-8000-000000000001",
    "paypal-transmission-time": "2026-11-20T12:00:05Z",
    "paypal-transmission-sig": SIGNATURE,
    "paypal-cert-url": URL,
    "paypal-auth-algo": "SHA256withRSA",
}
CA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


def named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def certificate(
    name: str = NAME,
    *,
    key: Any = PROVIDER,
    issuer: str = "Test root",
    signer: Any = CA_KEY,
    is_ca: bool = False,
    san: str = "",
    begins: datetime = NOW - timedelta(days=30),
    ends: datetime = NOW + timedelta(days=30),
) -> x509.Certificate:
    usage = x509.KeyUsage(
        digital_signature=not is_ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_ca,
        crl_sign=is_ca,
        encipher_only=False,
        decipher_only=False,
    )
    public = key.public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(named(name))
        .issuer_name(named(issuer))
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begins)
        .not_valid_after(ends)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
        )
    )
    if is_ca:
        identifier = x509.SubjectKeyIdentifier.from_public_key(public)
        builder = builder.add_extension(identifier, critical=False)
    else:
        builder = builder.add_extension(
            x509.SubjectAlternativeName([x509.DNSName(san or name)]), critical=False
        ).add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    return builder.sign(signer, hashes.SHA256())


ROOT = certificate("Test root", key=CA_KEY, is_ca=True)


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(one.public_bytes(Encoding.PEM) for one in certificates)


@pytest.fixture
def known() -> Certificates:
    kept = Certificates(hosts=LIVE_HOSTS, roots=[ROOT])
    kept.learn(URL, pem(certificate()), now=NOW)
    return kept


def checked(
    known: Certificates, *, body: bytes = BODY, now: datetime = NOW, **headers: str
) -> None:
    changed = {name.replace("_", "-"): value for name, value in headers.items()}
    inbound = Inbound(body=body, headers={**HEADERS, **changed})
    check(inbound, known, webhook_ids=[WEBHOOK], now=now)


def signed(sent: str, *, webhook_id: str = WEBHOOK, key: Any = PROVIDER) -> dict[str, Any]:
    text = f"ID|{sent}|{webhook_id}|{zlib.crc32(BODY)}".encode()
    signature = base64.b64encode(key.sign(text, padding.PKCS1v15(), hashes.SHA256())).decode()
    return {
        "paypal_transmission_id": "ID",
        "paypal_transmission_time": sent,
        "paypal_transmission_sig": signature,
    }


def test_the_vector_is_accepted(known):
    assert (len(BODY), zlib.crc32(BODY)) == (710, 1915537274)
    checked(known)


@pytest.mark.parametrize(
    "headers",
    [
        {"paypal_transmission_time": "2026-11-20T12:00:06Z"},
        {"paypal_transmission_id": "7e5a1f50-0000-11f0-8000-000000000002"},
        {"paypal_auth_algo": "MD5withRSA"},
        {"paypal_auth_algo": ""},
        {"paypal_transmission_sig": ""},
        {"paypal_transmission_sig": SIGNATURE[:-4]},
        {"paypal_transmission_sig": "*" * 344},
        {"paypal_transmission_sig": "é"},
        {"paypal_transmission_time": ""},
        {"paypal_transmission_time": "2026-11-20T12:00:05"},
        {"paypal_transmission_time": "1795176005"},
        {"paypal_cert_url": ""},
    ],
)
def test_a_header_that_was_changed_is_refused(known, headers):
    with pytest.raises(SignatureInvalid):
        checked(known, **headers)


def test_a_digit_of_the_body_is_signed(known):
    with pytest.raises(SignatureInvalid):
        checked(known, body=BODY.replace(b"99.99", b"99.98", 1))


def test_a_notice_for_another_webhook_is_refused(known):
    sent = "2026-11-20T12:00:00Z"
    checked(known, **signed(sent))
    with pytest.raises(SignatureInvalid):
        checked(known, **signed(sent, webhook_id="WEBHOOK_ID"))
    with pytest.raises(SignatureInvalid):
        checked(known, **signed(sent, key=MERCHANT))


@pytest.mark.parametrize(
    ("sent", "accepted"),
    [
        (NOW - timedelta(days=4), True),
        (NOW - timedelta(days=4, seconds=1), False),
        (NOW + timedelta(minutes=5), True),
        (NOW + timedelta(minutes=5, seconds=1), False),
        (datetime(2014, 1, 1, tzinfo=UTC), False),
    ],
)
def test_the_library_bounds_no_time_and_we_do_on_both_sides(known, sent, accepted):
    headers = signed(sent.isoformat())
    if accepted:
        checked(known, **headers)
        return
    with pytest.raises(SignatureInvalid, match="too old or too new"):
        checked(known, **headers)


@pytest.mark.parametrize(
    "url",
    [
        "http://api.paypal.com/v1/notifications/certs/CERT-1",
        "https://api.sandbox.paypal.com/v1/notifications/certs/CERT-1",  # of the other mode
        "https://evil.example/v1/notifications/certs/CERT-1",
        "https://api.paypal.com.evil.example/v1/notifications/certs/CERT-1",
        "https://api.paypal.com@evil.example/v1/notifications/certs/CERT-1",
        "https://api.paypal.com:8443/v1/notifications/certs/CERT-1",
        "https://user@api.paypal.com/v1/notifications/certs/CERT-1",
        "https://api.paypal.com/v1/other/CERT-1",
        "https://api.paypal.com/v1/notifications/certs/../../evil",
        "https://api.paypal.com/v1/notifications/certs/%2e%2e/evil",
        "https://api.paypal.com/v1/notifications/certs/CERT-1?x=1",
        "https://api.paypal.com/v1/notifications/certs/CERT-1#x",
        "https://api.paypal.com/v1/notifications/certs/C\r\nHost: evil",
        "https://api.paypal.com/v1/notifications/certs/" + "C" * 300,
        "https://[::1/v1/notifications/certs/CERT-1",
        "http://127.0.0.1/v1/notifications/certs/CERT-1",
        "",
    ],
)
def test_the_library_fetches_any_address_and_we_only_paypals(known, url):
    with pytest.raises(SignatureInvalid):
        checked(known, paypal_cert_url=url)
    with pytest.raises(SignatureInvalid):
        known.learn(url, pem(certificate()), now=NOW)


def test_the_modes_have_hosts_of_their_own():
    assert not LIVE_HOSTS & SANDBOX_HOSTS


def test_a_certificate_is_fetched_first_and_again_after_a_day(known):
    fresh = Certificates(hosts=LIVE_HOSTS, roots=[ROOT])
    with pytest.raises(KeyUnknown) as unknown:
        checked(fresh)
    assert unknown.value.url == URL
    with pytest.raises(KeyUnknown):
        checked(known, now=NOW + timedelta(days=1))


def test_few_certificates_are_kept(known):
    for number in range(40):
        known.learn(f"{URL}{number}", pem(certificate()), now=NOW + timedelta(seconds=number))
    with pytest.raises(KeyUnknown):
        known.key_at(URL, now=NOW)
    assert known.key_at(f"{URL}39", now=NOW)


def test_a_chain_of_two_is_followed():
    between_key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    between = certificate("Between", key=between_key, is_ca=True)
    leaf = certificate(issuer="Between", signer=between_key)
    kept = Certificates(hosts=LIVE_HOSTS, roots=[ROOT])
    kept.learn(URL, pem(leaf, between), now=NOW)
    checked(kept)
    with pytest.raises(SignatureInvalid):
        Certificates(hosts=LIVE_HOSTS, roots=[ROOT]).learn(URL, pem(leaf), now=NOW)


OTHER_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
        pem(certificate("evil.example")),
        pem(certificate("paypal.com.evil.example")),
        pem(certificate("evilpaypal.com")),
        pem(certificate(san="evil.example")),
        pem(certificate(ends=NOW - timedelta(seconds=1))),
        pem(certificate(begins=NOW + timedelta(days=1))),
        pem(certificate(signer=OTHER_KEY)),
        pem(certificate(key=PROVIDER, signer=PROVIDER, issuer=NAME)),  # signed by itself
        pem(certificate(key=rsa.generate_private_key(public_exponent=65537, key_size=1024))),
    ],
)
def test_a_certificate_that_is_not_paypals_is_refused(content):
    kept = Certificates(hosts=LIVE_HOSTS, roots=[ROOT])
    with pytest.raises(SignatureInvalid):
        kept.learn(URL, content, now=NOW)
    with pytest.raises(KeyUnknown):
        checked(kept)


def test_without_other_roots_those_of_the_machine_count():
    kept = Certificates(hosts=LIVE_HOSTS, roots=None)
    assert ROOT not in public_roots()
    with pytest.raises(SignatureInvalid):
        kept.learn(URL, pem(certificate()), now=NOW)


@pytest.mark.parametrize(
    ("base_url", "is_live", "trusted"),
    [
        ("http://127.0.0.1:8092", False, True),
        ("http://127.0.0.1:8092", True, False),
        ("http://203.0.113.5:8092", False, False),
        (None, False, False),
    ],
)
async def test_only_a_simulator_on_this_machine_vouches_for_itself(base_url, is_live, trusted):
    credentials = {"client_id": "c" * 8, "client_secret": "s" * 8, "webhook_id": WEBHOOK}
    channel = open_channel(
        account="paypal",
        credentials=parse(credentials),
        is_live=is_live,
        notify_url="",
        base_url=base_url,
        now=lambda: NOW,
    )
    own = f"{base_url or 'https://api-m.sandbox.paypal.com'}/v1/notifications/certs/CERT-1"
    content = pem(certificate(signer=PROVIDER, issuer=NAME))
    inbound = Inbound(body=BODY, headers={**HEADERS, "paypal-cert-url": own})
    if trusted:
        with pytest.raises(KeyUnknown):
            channel.receive(inbound, now=NOW)
        channel._certificates.learn(own, content, now=NOW)  # as `learn_key` does
        news: Any = channel.receive(inbound, now=NOW).news[0]
        assert (news.attempt_id, news.ref, str(news.fee)) == ("ATT0001", "ORD0001", "3.20 USD")
    else:
        with pytest.raises(SignatureInvalid):
            channel._certificates.learn(own, content, now=NOW)
    await channel.aclose()
