"""The certificate that PayPal signs notices with, and the signature itself.

The message is `transmission id|transmission time|webhook id|crc32 of the body`, the checksum as an
unsigned decimal number; the signature is RSA PKCS #1 v1.5 with SHA-256.
"""

from __future__ import annotations

import base64
import binascii
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Self

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

COMMON_NAME = "messageverificationcerts.paypal.com"
ALGORITHM = "SHA256withRSA"
# whatever the clock of the simulation says
_VALID_FROM = datetime(2020, 1, 1, tzinfo=UTC)
_VALID_UNTIL = datetime(2049, 12, 31, tzinfo=UTC)
_KEY_BITS = 2048


def message(*, transmission_id: str, transmission_time: str, webhook_id: str, body: bytes) -> bytes:
    """What is signed."""
    checksum = zlib.crc32(body)
    return f"{transmission_id}|{transmission_time}|{webhook_id}|{checksum}".encode()


def _named(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


@dataclass(frozen=True, slots=True)
class Signer:
    """A key with its certificate, and the certificate of the authority that issued it.

    Attributes:
        certificate, authority: PEM.
    """

    key: rsa.RSAPrivateKey
    certificate: bytes
    authority: bytes

    @classmethod
    def make(cls, key: rsa.RSAPrivateKey | None = None) -> Self:
        """A signer under an authority of its own.

        Args:
            key: the one to sign with; None: a fresh one.
        """
        key = key or rsa.generate_private_key(public_exponent=65537, key_size=_KEY_BITS)
        authority_key = rsa.generate_private_key(public_exponent=65537, key_size=_KEY_BITS)
        authority_name = _named("Simulated PayPal authority")

        def unsigned(name: x509.Name, public: rsa.RSAPublicKey) -> x509.CertificateBuilder:
            return (
                x509.CertificateBuilder()
                .subject_name(name)
                .issuer_name(authority_name)
                .public_key(public)
                .serial_number(x509.random_serial_number())
                .not_valid_before(_VALID_FROM)
                .not_valid_after(_VALID_UNTIL)
            )

        authority = (
            unsigned(authority_name, authority_key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()),
                critical=False,
            )
            .add_extension(_usage(signs_certificates=True), critical=True)
            .sign(authority_key, hashes.SHA256())
        )
        certificate = (
            unsigned(_named(COMMON_NAME), key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName(COMMON_NAME)]), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()),
                critical=False,
            )
            .add_extension(_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
            .sign(authority_key, hashes.SHA256())
        )
        pem = serialization.Encoding.PEM
        return cls(key, certificate.public_bytes(pem), authority.public_bytes(pem))

    @property
    def certificate_id(self) -> str:
        """The last part of the certificate's address."""
        certificate = x509.load_pem_x509_certificate(self.certificate)
        return "CERT-360caa42-" + certificate.fingerprint(hashes.SHA256()).hex()[:16]

    def sign(
        self, *, transmission_id: str, transmission_time: str, webhook_id: str, body: bytes
    ) -> str:
        """The signature in base64."""
        signed = message(
            transmission_id=transmission_id,
            transmission_time=transmission_time,
            webhook_id=webhook_id,
            body=body,
        )
        return base64.b64encode(self.key.sign(signed, padding.PKCS1v15(), hashes.SHA256())).decode()

    def verifies(
        self,
        signature: str,
        *,
        transmission_id: str,
        transmission_time: str,
        webhook_id: str,
        body: bytes,
    ) -> bool:
        """True when `sign` would give this signature."""
        signed = message(
            transmission_id=transmission_id,
            transmission_time=transmission_time,
            webhook_id=webhook_id,
            body=body,
        )
        try:
            self.key.public_key().verify(
                base64.b64decode(signature, validate=True),
                signed,
                padding.PKCS1v15(),
                hashes.SHA256(),
            )
        except (InvalidSignature, binascii.Error, ValueError):
            return False
        return True


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )
