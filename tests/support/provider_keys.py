"""Two throwaway RSA keys for tests of payment providers, and their PEM texts: those with which the
simulated providers run.
"""

from __future__ import annotations

from sandbox.providers.rsa_keys import MERCHANT, PROVIDER, private_pem, public_pem

__all__ = ["MERCHANT", "PROVIDER", "private_pem", "public_pem"]
