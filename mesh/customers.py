"""Orders of merchants and their customers, as several services must agree on them."""

from __future__ import annotations

import hashlib
import re
from typing import Final

from mesh.errors import InvalidArgument

BUYER_PREFIX: Final = "ext:"
_OUR_ID = re.compile(r"ORD[0-9A-Z]{26}", re.ASCII)
_EMAIL = re.compile(r"[^\s@\x00-\x1f\x7f]{1,64}@[^\s@\x00-\x1f\x7f]{1,189}")


def is_order_id(text: str) -> bool:
    """Whether a text is one of our ids. Everything else that stands for an order is the merchant's
    number of it.
    """
    return _OUR_ID.fullmatch(text) is not None


def buyer_of(order_id: str) -> str:
    """The user who may pay a merchant's own order. A checkout token is of this user."""
    return f"{BUYER_PREFIX}{order_id}"


def customer_email(text: str, *, field: str = "customer_email") -> str:
    """An address without the spaces around it, "" for none.

    Raises:
        InvalidArgument: it is no address; names the field.
    """
    address = text.strip()
    if address and not _EMAIL.fullmatch(address):
        raise InvalidArgument.of(field, "is not an e-mail address")
    return address


def email_digest(merchant_id: str, email: str) -> str:
    """A digest by which a merchant finds the orders and payments of one address, "" for none. Two
    merchants have two digests of it. It keeps addresses out of indexes; it is no secret, since who
    guesses an address can check the guess.
    """
    text = email.strip().casefold()
    return hashlib.sha256(f"{merchant_id}\n{text}".encode()).hexdigest() if text else ""
