"""Which addresses a URL that a merchant chose may reach (server-side request forgery, SSRF).

The same guard judges a URL when it is saved and each new connection to it: a name may change its
answer. Every address of a name is judged, and only a judged address is connected to. What an
operator opens has two tiers: private networks by network or host suffix; loopback, link-local and
metadata addresses by exact host only.
"""

from __future__ import annotations

import asyncio
import re
import socket
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Final, TypeAlias
from urllib.parse import urlsplit

from mesh.outbound.connections import Address, NotSent

Network: TypeAlias = IPv4Network | IPv6Network

URL_BYTES_MAX: Final = 512
RESOLVE_SECONDS_MAX: Final = 3.0
HTTPS_PORTS: Final = frozenset({443, 8443})
HTTP_PORT: Final = 80
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
# resolvers read a name that ends in a number as an IPv4 address: 127.1, 0x7f.1, 2130706433
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")

_METADATA: Final = frozenset(
    map(
        ip_address,
        (
            "169.254.169.254",  # most clouds
            "fd00:ec2::254",  # AWS, in a private network
            "100.100.100.200",  # Alibaba Cloud, in the network of carriers
            "192.0.0.192",  # Oracle Cloud
            "168.63.129.16",  # Azure, a public address
        ),
    )
)
_PRIVATE: Final = tuple(
    map(
        ip_network,
        ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10", "fc00::/7"),
    )
)
# Python 3.11 calls addresses of all of these global; most lead to another address, which may be
# a private one.
_NEVER: Final = tuple(
    map(
        ip_network,
        (
            "2002::/16",  # 6to4
            "224.0.0.0/4",  # multicast
            "ff00::/8",
            "192.0.0.0/24",  # protocol assignments
            "192.88.99.0/24",  # 6to4 relays
            "3fff::/20",  # documentation
            "5f00::/16",  # segment routing
            "fec0::/10",  # site-local
            "::/8",  # NAT64, IPv4-compatible, ISATAP; mapped ones are unmapped before
        ),
    )
)


class Blocked(NotSent):
    """A URL or an address that must not be called. The message is for the owner of the URL."""


class Unresolved(NotSent):
    """A name that has no address now."""


class Reach(StrEnum):
    """What an address leads to."""

    PUBLIC = "PUBLIC"
    PRIVATE = "PRIVATE"  # a network that an operator may open
    LOCAL = "LOCAL"  # loopback, link-local, metadata: opened by exact host only
    NEVER = "NEVER"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A URL that the guard read. `host` is what is resolved, named in TLS and in Host."""

    scheme: str
    host: str
    port: int
    path: str  # with the query

    @property
    def origin(self) -> str:
        """As base URL of `Connections`."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.scheme == "https" else HTTP_PORT
        return f"{self.scheme}://{host}" + ("" if self.port == default else f":{self.port}")


def reach(address: Address) -> Reach:
    """What an address leads to; an IPv4-mapped one leads where its IPv4 address does."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    if address in _METADATA or address.is_loopback or address.is_link_local:
        return Reach.LOCAL
    if any(address in network for network in _NEVER):
        return Reach.NEVER
    if any(address in network for network in _PRIVATE):
        return Reach.PRIVATE
    return Reach.PUBLIC if address.is_global else Reach.NEVER


@dataclass(frozen=True, slots=True, kw_only=True)
class Guard:
    """What may be called.

    Attributes:
        allow_http: http as well as https; never in production without the operator's word.
        ports: besides 443 and 8443, and 80 where http is allowed.
        private_networks: private networks that may be called; opens nothing else.
        private_suffixes: of hosts (".corp.example") whose private addresses may be called.
        exact_hosts: names or addresses that may lead to loopback, link-local, metadata or own ones.
        own_addresses: of our listeners, databases, Consul and this host, public ones too.
    """

    allow_http: bool = False
    ports: frozenset[int] = frozenset()
    private_networks: tuple[Network, ...] = ()
    private_suffixes: tuple[str, ...] = ()
    exact_hosts: frozenset[str] = frozenset()
    own_addresses: frozenset[Address] = frozenset()

    def __post_init__(self) -> None:
        if any(not suffix.startswith(".") for suffix in self.private_suffixes):
            raise ValueError("private_suffixes begin with a dot")
        if any(host != host.lower() for host in (*self.exact_hosts, *self.private_suffixes)):
            raise ValueError("hosts are written in lower case")

    def target(self, url: str) -> Target:
        """Reads a URL and judges all of it that can be judged without resolving its name.

        Raises:
            Blocked: with what is wrong; the URL is not repeated, it may hold a secret.
        """
        # IDNA has homoglyphs and full-width digits: the owner writes the ASCII form
        if not url.isascii() or not url.isprintable() or " " in url or "\\" in url:
            raise Blocked("a URL is printable ASCII; write international names as xn--…")
        if len(url) > URL_BYTES_MAX:
            raise Blocked(f"a URL has at most {URL_BYTES_MAX} bytes")
        try:
            parts = urlsplit(url)
            host, port = parts.hostname or "", parts.port
        except ValueError:
            raise Blocked("this is not a URL") from None
        if parts.scheme != "https" and not (parts.scheme == "http" and self.allow_http):
            raise Blocked("the scheme is not http or https" if self.allow_http else "use https")
        if "@" in parts.netloc or "#" in url:
            raise Blocked("a URL has no user, no password and no fragment")
        if port is None:
            port = 443 if parts.scheme == "https" else HTTP_PORT
        self._check_port(parts.scheme, port)
        self._check_host(host)
        query = f"?{parts.query}" if parts.query else ""
        return Target(scheme=parts.scheme, host=host, port=port, path=(parts.path or "/") + query)

    async def addresses(self, target: Target) -> tuple[Address, ...]:
        """Resolves the name of a target once; all its addresses may be called.

        Raises:
            Blocked: one of them may not be.
            Unresolved: there is none, or none within RESOLVE_SECONDS_MAX.
        """
        literal = _literal(target.host)
        if literal is not None:
            found: tuple[Address, ...] = (literal,)
        else:
            try:
                async with asyncio.timeout(RESOLVE_SECONDS_MAX):
                    answers = await asyncio.get_running_loop().getaddrinfo(
                        target.host, target.port, type=socket.SOCK_STREAM
                    )
            except TimeoutError:
                raise Unresolved("the name was not resolved in time") from None
            except (OSError, UnicodeError):
                raise Unresolved("the name has no address") from None
            found = tuple(dict.fromkeys(ip_address(answer[4][0]) for answer in answers))
        if not found:
            raise Unresolved("the name has no address")
        for address in found:
            self._check_address(target.host, address)
        return found

    def _check_port(self, scheme: str, port: int) -> None:
        usual = HTTPS_PORTS if scheme == "https" else {HTTP_PORT}
        if port not in usual and port not in self.ports:
            raise Blocked(f"port {port} is not one of {sorted({*usual, *self.ports})}")

    def _check_host(self, host: str) -> None:
        literal = _literal(host)
        if literal is not None:
            self._check_address(host, literal)
            return
        labels = host.split(".")
        if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
            raise Blocked("the host is neither a name nor an address")
        if _NUMBER.fullmatch(labels[-1]):
            raise Blocked("an address is written as four decimal numbers, or in brackets")
        if len(labels) == 1 and host not in self.exact_hosts:
            raise Blocked("the host is not a full name")

    def _check_address(self, host: str, address: Address) -> None:
        """Raises Blocked without the address: what a name means inside is nobody's to know."""
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        is_exact = host in self.exact_hosts
        match reach(address):
            case Reach.PUBLIC:
                is_open = True
            case Reach.PRIVATE:
                is_open = (
                    is_exact
                    or host.endswith(self.private_suffixes)
                    or any(address in network for network in self.private_networks)
                )
            case Reach.LOCAL:
                is_open = is_exact
            case Reach.NEVER:
                is_open = False
        if not is_open or (address in self.own_addresses and not is_exact):
            raise Blocked("the host leads to an address that may not be called")


def _literal(host: str) -> Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
