"""A private certificate authority for one mesh, and a certificate per service. For development,
tests and small installations; anything larger has an authority of its own and only points the
settings at the files.

Names in a leaf: `<service-with-dashes>.paymesh.internal`, localhost and 127.0.0.1; it serves as
server and as client certificate.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mesh.clock import Clock
from mesh.files import replace_file
from mesh.transport import certificate_name

CA_DAYS = 3650
LEAF_DAYS = 397  # the longest that common TLS stacks accept
BACKDATE = timedelta(minutes=5)  # clocks of peers may be behind
CA_CERT, CA_KEY = "ca.pem", "ca.key"


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFiles:
    """Files for tls_cert_file, tls_key_file and tls_ca_file."""

    cert: Path
    key: Path
    ca: Path


class CertificateAuthority:
    """A CA in a directory: `ca.pem` for everybody, `ca.key` for the owner alone."""

    def __init__(self, directory: Path, *, clock: Clock) -> None:
        self._directory = directory
        self._clock = clock

    def ensure(self) -> Path:
        """Makes the CA where there is none yet; returns the path of its certificate."""
        cert_file, key_file = self._directory / CA_CERT, self._directory / CA_KEY
        if cert_file.exists() and key_file.exists():
            return cert_file
        self._directory.mkdir(parents=True, exist_ok=True)
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "paymesh private CA")])
        now = self._clock.now()
        certificate = (
            _builder(name, name, key.public_key(), now=now, days=CA_DAYS)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(ca=True), critical=True)
            .sign(key, hashes.SHA256())
        )
        _write(key, key_file, certificate, cert_file)
        return cert_file

    def issue(self, service: str) -> CertificateFiles:
        """A fresh key and certificate for a service, `<service>.pem` and `<service>.key` beside the
        CA; replaces older ones.

        Raises:
            TypeError: ca.key is of another kind. OSError: the CA was not made (`ensure`), or the
                directory cannot be written.
        """
        ca_cert = x509.load_pem_x509_certificate((self._directory / CA_CERT).read_bytes())
        ca_key = load_pem_private_key((self._directory / CA_KEY).read_bytes(), password=None)
        if not isinstance(ca_key, ec.EllipticCurvePrivateKey):
            raise TypeError(f"{self._directory / CA_KEY}: not a key that `ensure` made")
        key = ec.generate_private_key(ec.SECP256R1())
        name = certificate_name(service)
        names = [
            x509.DNSName(name),
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        ]
        certificate = (
            _builder(
                x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
                ca_cert.subject,
                key.public_key(),
                now=self._clock.now(),
                days=LEAF_DAYS,
            )
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(ca=False), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage(
                    [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
                ),
                critical=False,
            )
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(ca_key.public_key()),
                critical=False,
            )
            .sign(ca_key, hashes.SHA256())
        )
        files = CertificateFiles(
            cert=self._directory / f"{service}.pem",
            key=self._directory / f"{service}.key",
            ca=self._directory / CA_CERT,
        )
        _write(key, files.key, certificate, files.cert)
        return files


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    *,
    now: datetime,
    days: int,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
    )


def _write(
    key: ec.EllipticCurvePrivateKey, key_file: Path, certificate: x509.Certificate, cert_file: Path
) -> None:
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    replace_file(key_file, private, mode=0o600)
    replace_file(cert_file, certificate.public_bytes(Encoding.PEM), mode=0o644)


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
