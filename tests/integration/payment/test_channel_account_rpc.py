"""ChannelAccountService over the wire: what is asked and answered, and that no secret is in it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
import pytest
from paymesh.payment.v1 import channel_account_pb2 as pb
from paymesh.payment.v1 import channel_account_pb2_grpc

from mesh.server import MeshServer
from mesh.settings import MeshSettings
from mesh.wire_errors import from_rpc_error
from tests.builders.all_services import Tokens
from tests.builders.channel_accounts import REASON, SECRET, accounts_in, credentials
from tests.builders.payment import PaymentWorld
from tests.support.echo import plain_channel


class Line:
    """A client of a running payment_rpc."""

    def __init__(self, stub: Any, tokens: Tokens) -> None:
        self._stub = stub
        self._tokens = tokens

    async def call(self, method: str, request: Any, *, merchant_id: str = "mall") -> Any:
        token = self._tokens.bearer("merchant", subject="boss", merchant_id=merchant_id)
        return await getattr(self._stub, method)(request, metadata=[token], timeout=20)

    async def refusal(self, method: str, request: Any, *, merchant_id: str = "mall") -> Any:
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await self.call(method, request, merchant_id=merchant_id)
        assert SECRET not in str(failed.value)
        return from_rpc_error(failed.value)


@pytest.fixture
async def line(world: PaymentWorld) -> AsyncIterator[Line]:
    app = accounts_in(world).app
    tokens = Tokens(world.clock)
    settings = MeshSettings(
        service="payment_rpc", environment="test", port=0, var_dir=world.folder, drain_seconds=0
    )
    server = MeshServer(
        settings,
        clock=world.clock,
        ids=world.ids,
        user_tokens=tokens.users,
        caller_tokens=tokens.of("payment_rpc"),
    )
    app.add_to(server)
    await server.start()
    try:
        async with plain_channel(server.port) as channel:
            yield Line(channel_account_pb2_grpc.ChannelAccountServiceStub(channel), tokens)
    finally:
        await server.stop(0)
        await app.account_channels.aclose()


def request(**changes: Any) -> Any:
    values: dict[str, Any] = {
        "provider": "toy",
        "label": "main",
        "credentials": credentials(),
        "reason": REASON,
        **changes,
    }
    return pb.CreateChannelAccountRequest(**values)


async def test_an_account_is_created_changed_shown_listed_and_tried(line: Line) -> None:
    created = (await line.call("CreateChannelAccount", request())).account
    assert (created.merchant_id, created.mode, created.state, created.default_for) == (
        "mall",
        pb.CHANNEL_ACCOUNT_MODE_LIVE,
        pb.CHANNEL_ACCOUNT_STATE_ENABLED,
        pb.CHANNEL_ACCOUNT_DEFAULT_PROVIDER,
    )
    assert dict(created.credentials_hint) == {"account_name": "Acme", "secret_key": "…0042"}
    assert created.notify_url == f"https://pay.test/api/v1/callbacks/{created.account_id}"
    named = {"account_id": created.account_id}
    changed = (
        await line.call(
            "UpdateChannelAccount",
            pb.UpdateChannelAccountRequest(
                **named,
                read_version=1,
                reason=REASON,
                state=pb.CHANNEL_ACCOUNT_STATE_DISABLED,
                default_for=pb.CHANNEL_ACCOUNT_DEFAULT_NONE,
            ),
        )
    ).account
    assert (changed.label, changed.state, changed.default_for, changed.version) == (
        "main",
        pb.CHANNEL_ACCOUNT_STATE_DISABLED,
        pb.CHANNEL_ACCOUNT_DEFAULT_NONE,
        2,
    )
    shown = await line.call("GetChannelAccount", pb.GetChannelAccountRequest(**named))
    listed = await line.call("ListChannelAccounts", pb.ListChannelAccountsRequest())
    tried = await line.call("TestChannelAccount", pb.TestChannelAccountRequest(**named))
    assert (shown.account, list(listed.accounts)) == (changed, [changed])
    assert (tried.is_usable, tried.problem) == (True, "")
    assert SECRET not in f"{created}{changed}{shown}{listed}{tried}"


async def test_refusals_name_the_field_and_no_secret(line: Line) -> None:
    for changes, field in (
        ({"credentials": credentials(unknown_field=SECRET)}, "credentials.unknown_field"),
        ({"credentials": f"{SECRET} is no JSON"}, "credentials"),
        ({"provider": "Toy!"}, "provider"),
        ({"label": ""}, "label"),
        ({"reason": ""}, "reason"),
    ):
        refusal = await line.refusal("CreateChannelAccount", request(**changes))
        assert (refusal.reason, list(refusal.fields)) == ("INVALID_ARGUMENT", [field])


async def test_another_merchant_finds_nothing(line: Line) -> None:
    account = (await line.call("CreateChannelAccount", request())).account
    named = {"account_id": account.account_id}
    for method, asked in (
        ("GetChannelAccount", pb.GetChannelAccountRequest(**named)),
        ("TestChannelAccount", pb.TestChannelAccountRequest(**named)),
        (
            "UpdateChannelAccount",
            pb.UpdateChannelAccountRequest(**named, read_version=1, reason=REASON),
        ),
    ):
        refusal = await line.refusal(method, asked, merchant_id="acme")
        assert refusal.reason == "CHANNEL_ACCOUNT_NOT_FOUND"
    late = pb.UpdateChannelAccountRequest(**named, read_version=7, reason=REASON)
    assert (await line.refusal("UpdateChannelAccount", late)).reason == "CHANNEL_ACCOUNT_CHANGED"
