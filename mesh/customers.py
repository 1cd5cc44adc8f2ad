"""What services keep of the customers of merchants to find them again."""

from __future__ import annotations

import hashlib


def email_digest(merchant_id: str, email: str) -> str:
    """A digest by which a merchant finds the orders and payments of one address, "" for none. Two
    merchants have two digests of it. It keeps addresses out of indexes; it is no secret, since who
    guesses an address can check the guess.
    """
    text = email.strip().casefold()
    return hashlib.sha256(f"{merchant_id}\n{text}".encode()).hexdigest() if text else ""
