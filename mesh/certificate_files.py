"""Loads certificates from disk: checks that certificate and key match, exports the expiry, and
reloads changed files.
"""

from __future__ import annotations

import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
)
from prometheus_client import Gauge

from mesh.files import Reloaded
from mesh.settings import MeshSettings

WARN_BEFORE = timedelta(days=30)  # a month to replace a certificate before calls fail

_EXPIRES = Gauge(
    "paymesh_certificate_expires_timestamp_seconds",
    "When the first certificate of a file expires.",
    ["file"],
)


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateSet:
    """A certificate with its key, and the trusted authorities. `roots` may hold several during a
    rotation.
    """

    cert: bytes
    key: bytes
    roots: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificatePaths:
    """The paths of certificate, key and authorities."""

    cert: Path
    key: Path
    ca: Path | None = None

    @classmethod
    def of(cls, settings: MeshSettings) -> CertificatePaths | None:
        """The paths in the settings; None without TLS."""
        if settings.tls_cert_file is None or settings.tls_key_file is None:
            return None
        return cls(cert=settings.tls_cert_file, key=settings.tls_key_file, ca=settings.tls_ca_file)

    def files(self) -> tuple[Path, ...]:
        """All paths."""
        return tuple(file for file in (self.cert, self.key, self.ca) if file is not None)

    def read(self) -> CertificateSet:
        """Reads all files and exports their expiry as metrics.

        Raises:
            ValueError: no certificate, or the key does not match it: a rotation is half done.
            OSError: a file cannot be read.
        """
        cert, key = self.cert.read_bytes(), self.key.read_bytes()
        leaf = _certificates(self.cert, cert)[0]
        try:
            private = load_pem_private_key(key, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as problem:
            raise ValueError(f"{self.key}: no private key: {problem}") from None
        if _public(private.public_key()) != _public(leaf.public_key()):
            raise ValueError(f"{self.key} does not belong to {self.cert}")
        roots = self.ca.read_bytes() if self.ca is not None else None
        for file in (self.cert, self.ca):
            if file is not None:
                _EXPIRES.labels(str(file)).set(expires_at(file).timestamp())
        return CertificateSet(cert=cert, key=key, roots=roots)


def https_context(context: ssl.SSLContext, paths: CertificatePaths) -> Reloaded[ssl.SSLContext]:
    """A server's TLS context that uses the current certificate: new handshakes get the new one.

    Raises:
        ValueError, OSError: the certificate cannot be used.
    """

    def read() -> ssl.SSLContext:
        paths.read()  # a mismatched pair would leave the context without a certificate
        context.load_cert_chain(paths.cert, paths.key)
        return context

    return Reloaded("HTTPS certificate", read, paths.files)


def _public(key: PublicKeyTypes) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def _certificates(file: Path, content: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(content)
    except ValueError as problem:
        raise ValueError(f"{file}: no certificate: {problem}") from None


def expires_at(file: Path) -> datetime:
    """When the first certificate of a PEM file expires.

    Raises:
        ValueError: the file has no certificate. OSError: it cannot be read.
    """
    return min(
        certificate.not_valid_after_utc for certificate in _certificates(file, file.read_bytes())
    )


def problems_of_certificates(files: Iterable[Path], *, now: datetime) -> list[str]:
    """Problems of certificate files, one sentence each: unreadable, expired, not yet valid, or
    expiring within a month.
    """
    problems = []
    for file in files:
        try:
            certificates = _certificates(file, file.read_bytes())
        except (OSError, ValueError) as problem:
            problems.append(f"{file}: {problem}" if str(file) not in str(problem) else str(problem))
            continue
        for certificate in certificates:
            ends, name = certificate.not_valid_after_utc, certificate.subject.rfc4514_string()
            if ends <= now:
                problems.append(f"{file}: {name} expired at {ends:%Y-%m-%d %H:%M} UTC")
            elif certificate.not_valid_before_utc > now:
                problems.append(
                    f"{file}: {name} is not valid before "
                    f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
                )
            elif ends <= now + WARN_BEFORE:
                problems.append(
                    f"{file}: {name} expires in {(ends - now).days} days, at "
                    f"{ends:%Y-%m-%d %H:%M} UTC"
                )
    return problems
