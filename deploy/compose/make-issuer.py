"""Makes the key that signs user tokens of this installation until it has an identity provider, and
the JWKS that the services believe.

    python make-issuer.py FOLDER        FOLDER/issuer.pem (private) and FOLDER/jwks.json (public), once
"""

from __future__ import annotations

import base64
import json
import os
import sys
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from paymesh_cli.token import SIGNING_KEY_ID


def main() -> None:
    """Keeps a key that is there; the JWKS always follows it."""
    folder = Path(sys.argv[1])
    key_file = folder / "issuer.pem"
    if not key_file.exists():
        private = Ed25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        with os.fdopen(
            os.open(key_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb"
        ) as file:
            file.write(private)
    key = serialization.load_pem_private_key(key_file.read_bytes(), password=None)
    raw = key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    x = base64.urlsafe_b64encode(raw).rstrip(b"=").decode()
    jwks = {
        "keys": [
            {
                "kty": "OKP",
                "crv": "Ed25519",
                "use": "sig",
                "alg": "EdDSA",
                "kid": SIGNING_KEY_ID,
                "x": x,
            }
        ]
    }
    (folder / "jwks.json").write_text(json.dumps(jwks))


if __name__ == "__main__":
    main()
