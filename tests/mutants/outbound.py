"""What keeps calls to URLs of merchants away from our own networks, removed piece by piece."""

from __future__ import annotations

from tests.mutants.runner import Edit, Mutant


def _guard(sentence: str, *, old: str, new: str, fails: str) -> Mutant:
    return Mutant(
        sentence, f"test_outbound_guard.py::{fails}", (Edit("mesh/outbound/guard.py", old, new),)
    )


def _connections(sentence: str, *, old: str, new: str, fails: str) -> Mutant:
    return Mutant(
        sentence,
        f"test_outbound_pinned.py::{fails}",
        (Edit("mesh/outbound/connections.py", old, new),),
    )


MUTANTS = [
    _guard(
        "each address of a name is judged",
        old="for address in found:",
        new="for address in found[:1]:",
        fails="test_one_forbidden_address_refuses_the_whole_name",
    ),
    _guard(
        "an address in a URL is judged when the URL is saved",
        old="            self._check_address(host, literal)\n            return\n",
        new="            return\n",
        fails="test_a_host_that_is_no_public_one_is_refused_when_it_is_saved[10.0.0.1]",
    ),
    _guard(
        "an IPv4-mapped address leads where its IPv4 address does",
        old="""\
    \"\"\"What an address leads to; an IPv4-mapped one leads where its IPv4 address does.\"\"\"
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
""",
        new="",
        fails="test_each_address_leads_to_what_is_known_of_it[::ffff:10.0.0.1-PRIVATE]",
    ),
    _guard(
        "NAT64 leads to private addresses",
        old='"::/8",',
        new="",
        fails="test_each_address_leads_to_what_is_known_of_it[64:ff9b::a00:1-NEVER]",
    ),
    _guard(
        "6to4 leads to loopback",
        old='"2002::/16",',
        new="",
        fails="test_each_address_leads_to_what_is_known_of_it[2002:7f00:1::-NEVER]",
    ),
    _guard(
        "a private network that is open opens no metadata",
        old="address in _METADATA or ",
        new="",
        fails="test_each_address_leads_to_what_is_known_of_it[fd00:ec2::254-LOCAL]",
    ),
    _guard(
        "a number is an address to a resolver",
        old="        if _NUMBER.fullmatch(labels[-1]):\n",
        new="        if False:\n",
        fails="test_a_host_that_is_no_public_one_is_refused_when_it_is_saved[0x7f.1]",
    ),
    _guard(
        "a URL names no user",
        old='"@" in parts.netloc or ',
        new="",
        fails="test_a_refusal_does_not_repeat_the_url",
    ),
    _guard(
        "an address of ours is closed though it is public",
        old=" or (address in self.own_addresses and not is_exact)",
        new="",
        fails="test_an_operator_opens_private_networks_and_single_hosts_and_no_more"
        "[an address of ours]",
    ),
    _guard(
        "a resolver that hangs holds no call up",
        old="asyncio.timeout(RESOLVE_SECONDS_MAX)",
        new="asyncio.timeout(None)",
        fails="test_a_resolver_that_hangs_is_left",
    ),
    _connections(
        "a judged address is the one that is connected to",
        old="self._open(str(address), ",
        new="self._open(self._host, ",
        fails="test_the_judged_address_is_called_and_host_is_the_name",
    ),
    _connections(
        "the address of the socket is compared",
        old="if connection.peer == address:",
        new="if connection.is_open:",
        fails="test_a_connection_that_leads_elsewhere_is_closed_before_a_byte_is_written",
    ),
    _connections(
        "TLS is of the name, also at a judged address",
        old="server_hostname=self._host if self._is_tls else None",
        new="server_hostname=host if self._is_tls else None",
        fails="test_tls_is_of_the_name_and_not_of_the_address",
    ),
]
