"""What the gateway itself refuses and passes on, with a server that only remembers: the same rules
of a real server behind it would hide a fault.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from paymesh.payment.v1 import payment_pb2

from gateway.errors import MalformedBody
from gateway.handlers import RouteHandler
from gateway.request import Request
from gateway.schema import Method, load_schema
from gateway.settings import GatewaySettings
from mesh.auth import OwnTokenSigner, UserTokenIssuer, UserTokens
from mesh.call import CLIENT_ADDRESS, CURRENT, IDEMPOTENCY_KEY, Call, Role
from mesh.client import DEADLINE_MARGIN_SECONDS
from mesh.errors import InvalidArgument, PermissionDenied
from mesh.jwks import Key, secret_key
from mesh.token_issuers import MERCHANTS
from tests.support.fakes import FakeClock, FakeIds

SCHEMA = load_schema()
SECRET = b"s" * 32
CLOCK = FakeClock()
TOKEN = UserTokenIssuer(SECRET, clock=CLOCK, ids=FakeIds()).issue("alice")
KEY = Ed25519PrivateKey.generate()
USERS = UserTokens(
    {"": secret_key(SECRET)},
    clock=CLOCK,
    issuer="paymesh",
    own_keys={"merchant_rpc": Key("EdDSA", KEY.public_key())},
)
BODY = b'{"amount": "1", "order_id": "O"}'


class Recorder:
    """A server that answers with an empty message."""

    is_ready = True

    def __init__(self) -> None:
        self.calls: list[tuple[dict[str, str | bytes], Call | None]] = []
        self.requests: list[bytes] = []

    async def call(self, _path: str, request: bytes, *, metadata: Any = ()) -> tuple[bytes, Any]:
        self.calls.append((dict(metadata), CURRENT.get()))
        self.requests.append(request)
        return b"", ()

    def stream(self, _path: str, _request: bytes, *, metadata: Any = ()) -> AsyncGenerator[bytes]:
        raise NotImplementedError


def method_of(name: str) -> Method:
    return next(each for each in SCHEMA.routed(development=True) if each.policy.method == name)


async def post(
    server: Recorder,
    method: Method,
    body: bytes,
    *headers: tuple[bytes, bytes],
    token: str = TOKEN,
    client: str = "10.1.2.3",
) -> None:
    """A call over HTTP from an address, which succeeds."""
    door = RouteHandler(
        method,
        method.rules[0],
        schema=SCHEMA,
        upstream=server,
        settings=GatewaySettings(),
        limit=None,
        user_tokens=USERS,
    )
    given = [
        (b"authorization", b"Bearer " + token.encode()),
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        *headers,
    ]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body}

    request = Request(
        {
            "type": "http",
            "method": "POST",
            "raw_path": b"/x",
            "query_string": b"",
            "client": (client, 5),
            "headers": given,
        }
    )
    answer = await door.serve(request, receive, ())
    assert answer.status < 400


async def charge(
    server: Recorder, *headers: tuple[bytes, bytes], client: str = "10.1.2.3", wants: bool = False
) -> None:
    """A call of Charge from an address; with `wants` the method wants to know it."""
    method = method_of("Charge")
    method = replace(method, policy=replace(method.policy, wants_client_address=wants))
    await post(server, method, BODY, *headers, client=client)


@pytest.mark.parametrize(
    "key", [b"", b"a b", b"a\tb", b"k" * 256, b"k" * 300, b"k\n", "ключ".encode(), b"k\x7f"]
)
async def test_a_bad_idempotency_key_goes_to_no_server(key: bytes) -> None:
    server = Recorder()
    with pytest.raises(InvalidArgument):
        await charge(server, (b"idempotency-key", key))
    assert server.calls == []


@pytest.mark.parametrize("key", [b"k", b"k" * 255, b"!~"])
async def test_a_good_one_is_passed_on(key: bytes) -> None:
    server = Recorder()
    await charge(server, (b"idempotency-key", key))
    [(metadata, call)] = server.calls
    assert metadata[IDEMPOTENCY_KEY] == key.decode()
    assert call is not None
    assert call.idempotency_key == key.decode()


async def test_a_call_lasts_as_long_as_its_method_may() -> None:
    server = Recorder()
    await charge(server)
    [(_, call)] = server.calls
    assert call is not None
    seconds = next(
        each.policy.timeout_seconds for each in SCHEMA.methods if each.policy.method == "Charge"
    )
    assert seconds / 2 < call.remaining_seconds() <= seconds + DEADLINE_MARGIN_SECONDS


@pytest.mark.parametrize(
    ("client", "told"),
    [
        ("203.0.113.9", "203.0.113.9"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("::ffff:203.0.113.9", "203.0.113.9"),
        ("fe80::1%eth0", "fe80::1"),
        ("", None),
        ("unknown", None),
        ("203.0.113.9\n", None),
        ("\u0661", None),
    ],
)
async def test_a_method_that_wants_the_address_of_the_client_is_told_it(
    client: str, told: str | None
) -> None:
    server = Recorder()
    forged = (CLIENT_ADDRESS.encode(), b"198.51.100.1")
    await charge(server, forged, client=client, wants=True)
    await charge(server, forged, client=client)
    assert [metadata.get(CLIENT_ADDRESS) for metadata, _ in server.calls] == [told, None]


def key(*scopes: str, minor_amounts: bool = False) -> str:
    """The token of a merchant's key."""
    return OwnTokenSigner(MERCHANTS, KEY, clock=CLOCK, ids=FakeIds()).sign(
        "key:AK1",
        merchant_id="acme",
        roles=[Role.MERCHANT],
        lifetime_seconds=30,
        scopes=scopes,
        minor_amounts=minor_amounts,
    )


async def test_a_merchants_integers_mean_what_its_token_says() -> None:
    method, body = method_of("CreatePayment"), b'{"order_id": "7", "amount": 10000}'
    server = Recorder()
    with pytest.raises(MalformedBody) as refused:
        await post(server, method, body, token=key("payments:write"))
    assert list(refused.value.fields) == ["amount"]
    assert server.requests == []
    await post(server, method, body, token=key("payments:write", minor_amounts=True))
    [sent] = map(payment_pb2.CreatePaymentRequest.FromString, server.requests)
    assert (sent.amount, sent.amount_minor) == ("", 10000)


async def test_a_key_without_the_scope_is_refused_before_its_body_is_read() -> None:
    server = Recorder()
    with pytest.raises(PermissionDenied) as refused:
        await post(server, method_of("CreatePayment"), b"{", token=key("payments:read"))
    assert refused.value.metadata == {"missing_scope": "payments:write"}
    assert server.calls == []
