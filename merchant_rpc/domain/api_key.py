"""API keys: what one may do, from where, and until when. Nothing of this ever changes in a living
key but its end: whoever needs more rights makes another key.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final

from mesh.api_key_format import ApiKeyKind, prefix_of
from mesh.errors import InvalidArgument

KEYS_MAX: Final = 100  # living ones of a merchant
ADDRESSES_MAX: Final = 20
ADDRESS_CHARACTERS_MAX: Final = 50
TOKEN_LIFETIME: Final = timedelta(seconds=30)
# Longer than a token lives, with the tolerance for clocks that differ.
REVOCATIONS_LISTED: Final = timedelta(minutes=5)
SUBJECT_PREFIX: Final = "key:"
# Rights that no key has: over people, and over where the money goes. A key that leaked must not be
# able to take the shop's income.
_PEOPLE: Final = ("members:", "channel_accounts:write")

_Network = IPv4Network | IPv6Network


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyRights:
    """What decides whether a key is exchanged, and for what."""

    key_id: str
    merchant_id: str
    kind: ApiKeyKind
    is_test: bool
    scopes: frozenset[str]
    allowed_addresses: tuple[str, ...]  # addresses and networks; empty: any
    expires_at: datetime | None
    revoked_at: datetime | None = None
    last_used_at: datetime | None = None

    @property
    def subject(self) -> str:
        """`sub` of its tokens."""
        return SUBJECT_PREFIX + self.key_id

    @property
    def prefix(self) -> str:
        """The beginning of its text, e.g. "pmsk_test_"."""
        return prefix_of(self.kind, is_test=self.is_test)

    def lives_at(self, now: datetime) -> bool:
        """Whether it is neither revoked nor expired."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)

    def may_come_from(self, address: str) -> bool:
        """Whether a client at this address may use it."""
        if not self.allowed_addresses:
            return True
        try:
            client = ip_address(address.partition("%")[0])
        except ValueError:
            return False
        if isinstance(client, IPv6Address) and client.ipv4_mapped is not None:
            client = client.ipv4_mapped
        return any(client in ip_network(network) for network in self.allowed_addresses)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey(KeyRights):
    """A key without the key."""

    name: str
    head: str  # its first characters, which say kind and mode
    last_four: str
    created_by: str
    created_at: datetime
    last_used_address: str = ""
    revoked_by: str = ""


def scopes_of_key(
    kind: ApiKeyKind, named: Sequence[str], *, catalogue: Iterable[str]
) -> frozenset[str]:
    """What a new key may do.

    Args:
        named: what the caller asked for.
        catalogue: every scope that there is.

    Raises:
        InvalidArgument: a restricted key without scopes, another one with some, or a scope that
            there is not, or that no key has.
    """
    possible = {scope for scope in catalogue if not scope.startswith(_PEOPLE)}
    if kind is not ApiKeyKind.RESTRICTED:
        if named:
            raise InvalidArgument.of("scopes", "only a restricted key names its scopes")
        return frozenset(possible) if kind is ApiKeyKind.SECRET else frozenset()
    if not named:
        raise InvalidArgument.of("scopes", "must have at least 1 item")
    for position, scope in enumerate(named):
        if scope.startswith(_PEOPLE):
            raise InvalidArgument.of(f"scopes[{position}]", "is for people alone")
        if scope not in possible:
            raise InvalidArgument.of(f"scopes[{position}]", "unknown")
    return frozenset(named)


def allowed_addresses(texts: Sequence[str]) -> tuple[str, ...]:
    """Addresses and networks in their usual form, each once, in the order of the caller.

    Raises:
        InvalidArgument: too many, or one that is no address and no network, or all addresses there
            are; names its field.
    """
    if len(texts) > ADDRESSES_MAX:
        raise InvalidArgument.of("allowed_addresses", f"must have at most {ADDRESSES_MAX} items")
    return tuple(
        dict.fromkeys(
            _network_text(text, f"allowed_addresses[{position}]")
            for position, text in enumerate(texts)
        )
    )


def _network_text(text: str, field: str) -> str:
    if len(text) > ADDRESS_CHARACTERS_MAX:
        raise InvalidArgument.of(field, f"must be at most {ADDRESS_CHARACTERS_MAX} characters")
    problem = "expected an address or a network such as 203.0.113.0/24"
    if "%" in text:  # a zone means something on one machine alone
        raise InvalidArgument.of(field, problem)
    try:
        network: _Network = ip_network(text)
    except ValueError:
        raise InvalidArgument.of(field, problem) from None
    if network.prefixlen == 0:
        raise InvalidArgument.of(field, "holds every address there is; leave the list empty")
    if network.prefixlen == network.max_prefixlen:
        return str(network.network_address)
    return str(network)


def end_of_key(expires_at: datetime | None, *, now: datetime) -> datetime | None:
    """When a new key ends; None: never.

    Raises:
        InvalidArgument: it would have ended already.
    """
    if expires_at is not None and expires_at <= now:
        raise InvalidArgument.of("expires_at", "must be in the future")
    return expires_at
