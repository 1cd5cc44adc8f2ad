"""Signatures of PayPal's notices, and the certificates that sign them."""

from __future__ import annotations

import base64
import binascii
import ssl
import warnings
import zlib
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import cache
from typing import Final
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import NameOID
from cryptography.x509.verification import PolicyBuilder, Store, VerificationError

from payment_rpc.channels.inbound import Inbound, KeyUnknown
from payment_rpc.domain.errors import SignatureInvalid

LIVE_HOSTS: Final = frozenset({"api.paypal.com", "api-m.paypal.com"})
SANDBOX_HOSTS: Final = frozenset({"api.sandbox.paypal.com", "api-m.sandbox.paypal.com"})

_PATH: Final = "/v1/notifications/certs/"
_URL_MAX: Final = 300
_ALGORITHM: Final = "SHA256withRSA"
_NAME_END: Final = ".paypal.com"
_AGE_MAX: Final = timedelta(days=4)  # PayPal repeats a notice for three days
_AHEAD_MAX: Final = timedelta(minutes=5)
_KEPT: Final = timedelta(days=1)  # then a certificate is fetched again
_CERTIFICATES_MAX: Final = 16


@cache
def public_roots() -> tuple[x509.Certificate, ...]:
    """The certificate authorities that this machine trusts."""
    found = []
    with warnings.catch_warnings():
        warnings.simplefilter("error", CryptographyDeprecationWarning)
        for der in ssl.create_default_context().get_ca_certs(binary_form=True):
            try:
                found.append(x509.load_der_x509_certificate(der))
            # an old root that the library refuses, or will refuse
            except (ValueError, CryptographyDeprecationWarning):
                continue
    return tuple(found)


class Certificates:
    """PayPal's certificates, by their address."""

    def __init__(
        self,
        *,
        hosts: frozenset[str],
        roots: Sequence[x509.Certificate] | None,
        simulator: str = "",
    ) -> None:
        """
        Args:
            hosts: whose certificates are taken, over https.
            roots: what their chains end in; None: the authorities of this machine.
            simulator: origin on this machine whose certificates are taken without a chain; "" for
                none. Never for real money.
        """
        self._hosts = hosts
        self._roots = roots
        self._simulator = simulator
        self._known: dict[str, tuple[rsa.RSAPublicKey, datetime]] = {}

    def origin_of(self, address: str) -> str:
        """Where a certificate may be fetched.

        Raises:
            SignatureInvalid: not at PayPal.
        """
        if len(address) > _URL_MAX or not (address.isascii() and address.isprintable()):
            raise SignatureInvalid("the certificate's address is not one")
        try:
            url = urlsplit(address)
            port = url.port
        except ValueError:
            raise SignatureInvalid("the certificate's address is not one") from None
        is_at_path = (
            url.path.startswith(_PATH)
            and not {"..", "."} & set(url.path.split("/"))
            and not (url.query or url.fragment or "%" in url.path or "\\" in url.path)
        )
        origin = f"{url.scheme}://{url.netloc}"
        is_paypal = url.scheme == "https" and url.netloc in self._hosts and port is None
        if is_at_path and (is_paypal or (self._simulator and origin == self._simulator)):
            return origin
        raise SignatureInvalid("the certificate is not at PayPal")

    def key_at(self, address: str, *, now: datetime) -> rsa.RSAPublicKey:
        """The key of the certificate at an address.

        Raises:
            SignatureInvalid: not PayPal's. KeyUnknown: it has to be fetched first.
        """
        self.origin_of(address)
        known = self._known.get(address)
        if known is None or known[1] <= now:
            raise KeyUnknown(address)
        return known[0]

    def learn(self, address: str, content: bytes, *, now: datetime) -> None:
        """Keeps what was fetched at an address.

        Raises:
            SignatureInvalid: not a certificate of PayPal's that is valid now.
        """
        try:
            leaf, *others = x509.load_pem_x509_certificates(content)
        except ValueError:
            raise SignatureInvalid("not a certificate") from None
        key = leaf.public_key()
        if not isinstance(key, rsa.RSAPublicKey) or key.key_size < 2048:
            raise SignatureInvalid("the certificate has no usable key")
        if not leaf.not_valid_before_utc <= now <= leaf.not_valid_after_utc:
            raise SignatureInvalid("the certificate is not valid now")
        name = _common_name(leaf)
        if not name.endswith(_NAME_END):
            raise SignatureInvalid("the certificate is not PayPal's")
        if self.origin_of(address) != self._simulator:
            self._must_be_signed(leaf, others, name=name, now=now)
        if address not in self._known and len(self._known) >= _CERTIFICATES_MAX:
            self._known.pop(min(self._known, key=lambda kept: self._known[kept][1]))
        self._known[address] = (key, min(now + _KEPT, leaf.not_valid_after_utc))

    def _must_be_signed(
        self, leaf: x509.Certificate, others: list[x509.Certificate], *, name: str, now: datetime
    ) -> None:
        roots = public_roots() if self._roots is None else self._roots
        try:
            verifier = (
                PolicyBuilder()
                .store(Store(list(roots)))
                .time(now)
                .build_server_verifier(x509.DNSName(name))
            )
            verifier.verify(leaf, others)
        except (VerificationError, ValueError):
            raise SignatureInvalid("no authority signed the certificate") from None


def check(
    inbound: Inbound, certificates: Certificates, *, webhook_ids: Sequence[str], now: datetime
) -> None:
    """Checks RSA over `transmission id|transmission time|our webhook id|crc32 of the raw body`.

    Raises:
        SignatureInvalid: forged, altered, of another webhook, or too old or too new. KeyUnknown:
            its certificate has to be fetched first.
    """
    headers = inbound.headers
    if headers.get("paypal-auth-algo", "") != _ALGORITHM:
        raise SignatureInvalid("another algorithm")
    sent = headers.get("paypal-transmission-time", "")
    _must_be_fresh(sent, now)
    key = certificates.key_at(headers.get("paypal-cert-url", ""), now=now)
    try:
        signature = base64.b64decode(headers.get("paypal-transmission-sig", ""), validate=True)
    except (binascii.Error, ValueError):
        raise SignatureInvalid("the signature is not base64") from None
    sender = headers.get("paypal-transmission-id", "")
    digest = zlib.crc32(inbound.body)
    for webhook_id in webhook_ids:
        text = f"{sender}|{sent}|{webhook_id}|{digest}".encode("utf-8", "replace")
        try:
            key.verify(signature, text, padding.PKCS1v15(), SHA256())
        except InvalidSignature:
            continue
        return
    raise SignatureInvalid


def _must_be_fresh(text: str, now: datetime) -> None:
    try:
        sent = datetime.fromisoformat(text)
        is_fresh = now - _AGE_MAX <= sent <= now + _AHEAD_MAX
    except (ValueError, TypeError):  # TypeError: without an offset
        raise SignatureInvalid("the time cannot be read") from None
    if not is_fresh:
        raise SignatureInvalid("the time is too old or too new")


def _common_name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[0].value) if len(names) == 1 else ""
