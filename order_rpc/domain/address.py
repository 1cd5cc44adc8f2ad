"""Where goods go."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where an order goes. The contract checks the form of each part; who receives it is not shown
    in logs.
    """

    recipient: str = field(repr=False)
    phone: str = field(repr=False)
    country: str  # ISO 3166-1 alpha-2
    region: str
    city: str
    street: str = field(repr=False)
    postal_code: str
