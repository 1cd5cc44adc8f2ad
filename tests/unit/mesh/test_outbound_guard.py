"""Where a URL of a merchant may lead: S85 to S99 of the study, at save and at each connection."""

from __future__ import annotations

import asyncio
import socket
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from mesh.outbound import guard
from mesh.outbound.guard import Blocked, Guard, Reach, Target, Unresolved, reach

STRICT = Guard()


def answering(monkeypatch: pytest.MonkeyPatch, *answers: tuple[str, ...]) -> list[tuple[str, int]]:
    """A resolver that gives each question the next of the answers. Returns what it was asked."""
    asked: list[tuple[str, int]] = []
    left = list(answers)

    async def getaddrinfo(host: str, port: int, **_: Any) -> list[Any]:
        asked.append((host, port))
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (ip, port)) for ip in left.pop(0)]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    return asked


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("8.8.8.8", Reach.PUBLIC),
        ("2606:4700::1", Reach.PUBLIC),
        ("::ffff:8.8.8.8", Reach.PUBLIC),
        ("10.0.0.1", Reach.PRIVATE),
        ("172.16.0.1", Reach.PRIVATE),
        ("172.31.255.255", Reach.PRIVATE),
        ("192.168.1.1", Reach.PRIVATE),
        ("100.64.0.1", Reach.PRIVATE),
        ("fd00::1", Reach.PRIVATE),
        ("fc00::1", Reach.PRIVATE),
        ("::ffff:10.0.0.1", Reach.PRIVATE),
        ("127.0.0.1", Reach.LOCAL),
        ("127.255.255.254", Reach.LOCAL),
        ("::1", Reach.LOCAL),
        ("::ffff:127.0.0.1", Reach.LOCAL),
        ("169.254.1.1", Reach.LOCAL),
        ("169.254.169.254", Reach.LOCAL),
        ("fe80::1", Reach.LOCAL),
        ("fd00:ec2::254", Reach.LOCAL),
        ("100.100.100.200", Reach.LOCAL),
        ("192.0.0.192", Reach.LOCAL),
        ("168.63.129.16", Reach.LOCAL),
        ("0.0.0.0", Reach.NEVER),
        ("0.1.2.3", Reach.NEVER),
        ("::", Reach.NEVER),
        ("64:ff9b::a00:1", Reach.NEVER),
        ("64:ff9b::808:808", Reach.NEVER),
        ("64:ff9b:1::1", Reach.NEVER),
        ("2002:7f00:1::", Reach.NEVER),
        ("2001::1", Reach.NEVER),
        ("224.0.0.1", Reach.NEVER),
        ("ff02::1", Reach.NEVER),
        ("ff0e::1", Reach.NEVER),
        ("192.0.0.8", Reach.NEVER),
        ("192.88.99.1", Reach.NEVER),
        ("3fff::1", Reach.NEVER),
        ("5f00::1", Reach.NEVER),
        ("fec0::1", Reach.NEVER),
        ("::5efe:7f00:1", Reach.NEVER),
        ("::7f00:1", Reach.NEVER),
        ("2001:db8::1", Reach.NEVER),
        ("100::1", Reach.NEVER),
        ("198.18.0.1", Reach.NEVER),
        ("192.0.2.1", Reach.NEVER),
        ("240.0.0.1", Reach.NEVER),
        ("255.255.255.255", Reach.NEVER),
    ],
)
def test_each_address_leads_to_what_is_known_of_it(address: str, expected: Reach) -> None:
    assert reach(ip_address(address)) is expected


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1",
        "localhost",
        "localhost.",
        "[::1]",
        "0",
        "127.1",
        "2130706433",
        "0x7f.1",
        "0x7f000001",
        "017700000001",
        "0177.0.0.1",
        "\uff11\uff12\uff17.0.0.1",  # full-width digits are the case
        "ex\u0430mple.com",  # the Cyrillic a
        "10.0.0.1",
        "[::ffff:10.0.0.1]",
        "[::]",
        "[64:ff9b::a00:1]",
        "[2002:7f00:1::]",
        "[fe80::1%25eth0]",
        "224.0.0.1",
        "169.254.169.254",
        "redis",
        "a..example.com",
        "-a.example.com",
        "a_-.example.com",
        "a.example.com:99999",
        "a.example.com:x",
        f"{'a' * 64}.example.com",
        f"{'a.' * 130}com",
        "[::1",
        "",
        "good.example@127.0.0.1",
        "@example.com",
        "good.example\\@127.0.0.1",
        "exam\tple.com",
        "exam\nple.com",
        "exam ple.com",
    ],
)
def test_a_host_that_is_no_public_one_is_refused_when_it_is_saved(host: str) -> None:
    with pytest.raises(Blocked):
        STRICT.target(f"https://{host}/hook")


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "file:///etc/passwd",
        "gopher://example.com/",
        "ftp://example.com/",
        "dict://example.com:11211/",
        "data:text/plain,x",
        "//example.com/",
        "example.com",
        "https:example.com",
        "https://example.com/#",
        "https://example.com/#@127.0.0.1",
        "https://example.com/\x7f",
        "https://example.com/\r\nx: y",
        f"https://example.com/{'a' * 493}",
        *(f"https://example.com:{port}/" for port in (0, 22, 25, 80, 3306, 6379, 8500)),
    ],
)
def test_a_url_of_another_form_is_refused_when_it_is_saved(url: str) -> None:
    with pytest.raises(Blocked):
        STRICT.target(url)


def test_what_is_read_of_a_url_is_what_is_called() -> None:
    target = STRICT.target("HTTPS://Hooks.Example.COM:8443/a/b?c=d")
    assert target == Target(scheme="https", host="hooks.example.com", port=8443, path="/a/b?c=d")
    assert target.origin == "https://hooks.example.com:8443"
    assert STRICT.target("https://[2606:4700::1]").origin == "https://[2606:4700::1]"
    assert STRICT.target(f"https://example.com/{'a' * 492}").port == 443
    http = Guard(allow_http=True, ports=frozenset({8080}))
    assert http.target("http://example.com").origin == "http://example.com"
    assert http.target("http://example.com:8080/x").port == 8080
    assert http.target("https://example.com:8080/x").port == 8080


@pytest.mark.parametrize("port", [443, 22])
def test_http_has_ports_of_its_own(port: int) -> None:
    with pytest.raises(Blocked, match=f"port {port}"):
        Guard(allow_http=True).target(f"http://example.com:{port}/")


def test_a_refusal_does_not_repeat_the_url() -> None:
    with pytest.raises(Blocked) as refusal:
        STRICT.target("https://user:hunter2@example.com/")
    assert "hunter2" not in str(refusal.value)


async def test_one_forbidden_address_refuses_the_whole_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target = STRICT.target("https://example.com/")
    asked = answering(monkeypatch, ("8.8.8.8", "2606:4700::1"), ("8.8.8.8", "10.0.0.1"))
    assert await STRICT.addresses(target) == (ip_address("8.8.8.8"), ip_address("2606:4700::1"))
    with pytest.raises(Blocked) as refusal:
        await STRICT.addresses(target)
    assert "10.0.0.1" not in str(refusal.value)
    assert asked == [("example.com", 443)] * 2


async def test_a_name_without_an_address_is_unresolved(monkeypatch: pytest.MonkeyPatch) -> None:
    target = STRICT.target("https://example.com/")
    answering(monkeypatch, ())
    with pytest.raises(Unresolved):
        await STRICT.addresses(target)

    async def fails(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", fails)
    with pytest.raises(Unresolved, match="no address"):
        await STRICT.addresses(target)


async def test_a_resolver_that_hangs_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    async def hangs(*_: object, **__: object) -> None:
        await asyncio.Event().wait()  # for ever

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", hangs)
    monkeypatch.setattr(guard, "RESOLVE_SECONDS_MAX", 0.01)
    call = asyncio.create_task(STRICT.addresses(STRICT.target("https://example.com/")))
    done, _ = await asyncio.wait({call}, timeout=5)
    call.cancel()
    assert done
    with pytest.raises(Unresolved, match="in time"):
        await call


async def test_an_address_in_a_url_is_not_resolved(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = answering(monkeypatch)
    target = STRICT.target("https://8.8.8.8/")
    assert await STRICT.addresses(target) == (ip_address("8.8.8.8"),)
    assert asked == []


@pytest.mark.parametrize(
    ("opened", "host", "address", "is_open"),
    [
        (Guard(private_networks=(ip_network("10.1.0.0/16"),)), "a.example", "10.1.2.3", True),
        (Guard(private_networks=(ip_network("10.1.0.0/16"),)), "a.example", "10.2.0.1", False),
        (Guard(private_networks=(ip_network("0.0.0.0/0"),)), "a.example", "127.0.0.1", False),
        (Guard(private_networks=(ip_network("0.0.0.0/0"),)), "a.example", "169.254.1.1", False),
        (Guard(private_networks=(ip_network("0.0.0.0/0"),)), "a.example", "224.0.0.1", False),
        (Guard(private_networks=(ip_network("fc00::/7"),)), "a.example", "fd00:ec2::254", False),
        (Guard(private_suffixes=(".corp.example",)), "a.corp.example", "10.0.0.1", True),
        (Guard(private_suffixes=(".corp.example",)), "acorp.example", "10.0.0.1", False),
        (Guard(private_suffixes=(".corp.example",)), "a.corp.example", "127.0.0.1", False),
        (Guard(exact_hosts=frozenset({"hooks"})), "hooks", "127.0.0.1", True),
        (Guard(exact_hosts=frozenset({"hooks"})), "hooks", "169.254.169.254", True),
        (Guard(exact_hosts=frozenset({"hooks"})), "hooks", "10.0.0.1", True),
        (Guard(exact_hosts=frozenset({"hooks"})), "hooks", "224.0.0.1", False),
        (Guard(exact_hosts=frozenset({"hooks"})), "hooks", "64:ff9b::a00:1", False),
        (Guard(exact_hosts=frozenset({"hooks"})), "other.example", "127.0.0.1", False),
        pytest.param(
            Guard(own_addresses=frozenset({ip_address("8.8.8.8")})),
            "a.example",
            "8.8.8.8",
            False,
            id="an address of ours",
        ),
        (
            Guard(own_addresses=frozenset({ip_address("8.8.8.8")})),
            "a.example",
            "::ffff:8.8.8.8",
            False,
        ),
        (
            Guard(
                own_addresses=frozenset({ip_address("10.0.0.1")}),
                private_networks=(ip_network("10.0.0.0/8"),),
            ),
            "a.example",
            "10.0.0.1",
            False,
        ),
    ],
)
async def test_an_operator_opens_private_networks_and_single_hosts_and_no_more(
    monkeypatch: pytest.MonkeyPatch, opened: Guard, host: str, address: str, is_open: bool
) -> None:
    answering(monkeypatch, (address,))
    target = opened.target(f"https://{host}/")
    if is_open:
        assert await opened.addresses(target) == (ip_address(address),)
    else:
        with pytest.raises(Blocked):
            await opened.addresses(target)


@pytest.mark.parametrize(
    "opened", [{"private_suffixes": ("corp.example",)}, {"exact_hosts": frozenset({"Hooks"})}]
)
def test_what_an_operator_opens_is_written_in_one_form(opened: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"begin with a dot|lower case"):
        Guard(**opened)
