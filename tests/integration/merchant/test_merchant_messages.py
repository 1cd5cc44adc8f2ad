"""Messages of the contract in, messages out: nothing is lost on the way through the servicers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from paymesh.merchant.v1 import member_pb2, merchant_pb2

from merchant_rpc.domain.member import MemberRole
from merchant_rpc.servicer.members import MemberServicer
from merchant_rpc.servicer.merchants import MerchantServicer
from mesh.call import NOBODY, Caller, calling
from tests.builders.merchant import ADMIN, HOME, PASSWORD, MerchantWorld, as_member


class Servers:
    """The servicers of a world, called as the pipeline calls them."""

    def __init__(self, shops: MerchantWorld) -> None:
        self.merchants = MerchantServicer(
            shops.app.merchants, shops.app.sign_ups, shops.app.settings
        )
        self.members = MemberServicer(shops.app.members, shops.app.invitations)

    @contextmanager
    def caller(self, caller: Caller) -> Iterator[None]:
        with calling(caller=caller, timeout_seconds=30) as call:
            call.client_address = HOME
            yield

    async def call(self, method: str, caller: Caller = ADMIN, **fields: Any) -> Any:
        is_of_members = hasattr(member_pb2, f"{method}Request")
        contract: Any = member_pb2 if is_of_members else merchant_pb2
        of = self.members if is_of_members else self.merchants
        with self.caller(caller):
            return await getattr(of, method)(getattr(contract, f"{method}Request")(**fields), None)


@pytest.fixture
def servers(shops: MerchantWorld) -> Servers:
    return Servers(shops)


async def test_a_sign_up_ends_as_a_merchant_with_everything_that_was_said(
    shops: MerchantWorld, servers: Servers
) -> None:
    said = {
        "email": "owner@acme.example",
        "name": "Acme",
        "merchant_id": "acme",
        "country": "DE",
        "default_currency": "EUR",
        "time_zone": "Europe/Berlin",
    }
    assert (await servers.call("SignUp", NOBODY, **said)) == merchant_pb2.SignUpResponse()
    answer = await servers.call(
        "ConfirmSignUp", NOBODY, token=await shops.token(), password=PASSWORD
    )
    merchant = answer.merchant
    assert (merchant.merchant_id, merchant.name, merchant.country) == ("acme", "Acme", "DE")
    assert (merchant.default_currency, merchant.time_zone) == ("EUR", "Europe/Berlin")
    assert merchant.contact_email == "owner@acme.example"
    assert merchant.state == merchant_pb2.MERCHANT_STATE_TEST_ONLY
    assert (merchant.test_merchant_id, merchant.is_test) == ("acme_test", False)
    sibling = (await servers.call("GetMerchant", merchant_id="acme_test")).merchant
    assert (sibling.test_merchant_id, sibling.is_test) == ("", True)
    listed = await servers.call("ListMerchants")
    assert [each.merchant_id for each in listed.merchants] == ["acme"]


async def test_steps_answer_the_merchant_as_it_is_now(
    shops: MerchantWorld, servers: Servers
) -> None:
    await shops.merchant()
    for method, state in (
        ("ActivateMerchant", merchant_pb2.MERCHANT_STATE_LIVE),
        ("SuspendMerchant", merchant_pb2.MERCHANT_STATE_SUSPENDED),
        ("ResumeMerchant", merchant_pb2.MERCHANT_STATE_LIVE),
        ("CloseMerchant", merchant_pb2.MERCHANT_STATE_CLOSED),
    ):
        answer = await servers.call(method, merchant_id="acme", reason="because")
        assert answer.merchant.state == state
    actions = (await servers.call("ListAdminActions", merchant_id="acme")).actions
    assert [action.method for action in actions] == [
        "CloseMerchant",
        "ResumeMerchant",
        "SuspendMerchant",
        "ActivateMerchant",
        "ConfirmSignUp",
    ]
    closing = actions[0]
    assert (closing.actor, closing.target, closing.outcome) == ("root", "acme", "DONE")
    assert (closing.reason, closing.client_address) == ("because", HOME)
    assert len(closing.trace_id) == 32
    assert "CLOSED" in closing.after_json
    assert [action.action_id for action in actions] == sorted(
        (action.action_id for action in actions), reverse=True
    )


async def test_settings_come_back_as_they_were_sent(shops: MerchantWorld, servers: Servers) -> None:
    await shops.merchant()
    owner = as_member(await shops.owner())
    sent = merchant_pb2.Settings(
        return_urls=["https://acme.example/"],
        late_money=merchant_pb2.LATE_MONEY_REVIVE_IF_STOCK,
        shipping=[merchant_pb2.AmountRule(currency="EUR", amount="4.90", threshold="50")],
        discount=[merchant_pb2.AmountRule(currency="JPY", amount="100")],
        payment_window_minutes=15,
        integer_amounts=merchant_pb2.INTEGER_AMOUNTS_MINOR,
        channels=["sandbox"],
        ship_on_authorized=True,
        buyers_may_hold=True,
    )
    written = await servers.call(
        "UpdateSettings", owner, merchant_id="acme", settings=sent, read_version=0, reason="a sale"
    )
    assert (written.version.version, written.version.settings) == (1, sent)
    assert written.version.created_by == owner.subject
    read = await servers.call("GetSettings", owner, merchant_id="acme")
    assert read.version == written.version
    versions = await servers.call("ListSettingsVersions", owner, merchant_id="acme")
    assert list(versions.versions) == [written.version]
    told = await servers.call("GetMerchantSettings", merchant_id="acme")
    assert (told.is_known, told.settings, told.settings_version) == (True, sent, 1)
    assert (told.state, told.name) == (merchant_pb2.MERCHANT_STATE_TEST_ONLY, "Acme")
    unknown = await servers.call("GetMerchantSettings", merchant_id="mall")
    assert unknown == merchant_pb2.GetMerchantSettingsResponse(is_known=False)


async def test_members_come_and_go(shops: MerchantWorld, servers: Servers) -> None:
    await shops.merchant()
    owner = as_member(await shops.owner())
    await servers.call(
        "InviteMember",
        owner,
        merchant_id="acme",
        email="clerk@acme.example",
        role=member_pb2.MEMBER_ROLE_FINANCE,
    )
    joined = await servers.call(
        "AcceptInvitation", NOBODY, token=await shops.token(), password=PASSWORD, name="Kim"
    )
    assert (joined.member.email, joined.member.name) == ("clerk@acme.example", "Kim")
    assert (joined.member.merchant_id, joined.member.role) == (
        "acme",
        member_pb2.MEMBER_ROLE_FINANCE,
    )
    assert (joined.member.invited_by, joined.member.has_totp) == (owner.subject, False)
    listed = await servers.call("ListMembers", owner, merchant_id="acme")
    assert [member.role for member in listed.members] == [
        member_pb2.MEMBER_ROLE_OWNER,
        member_pb2.MEMBER_ROLE_FINANCE,
    ]
    changed = await servers.call(
        "SetMemberRole",
        owner,
        merchant_id="acme",
        member_id=joined.member.member_id,
        role=member_pb2.MEMBER_ROLE_VIEWER,
    )
    assert changed.member.role == member_pb2.MEMBER_ROLE_VIEWER
    await servers.call("RemoveMember", owner, merchant_id="acme", member_id=joined.member.member_id)
    assert [each.role for each in await shops.people()] == [MemberRole.OWNER]


async def test_an_operator_is_a_member_of_no_merchant(
    shops: MerchantWorld, servers: Servers
) -> None:
    token = await shops.db.run(shops.app.operators.invite, "root@pay.example", actor="shell")
    answer = await servers.call("AcceptInvitation", NOBODY, token=token, password=PASSWORD)
    assert (answer.member.email, answer.member.merchant_id) == ("root@pay.example", "")
    assert answer.member.role == member_pb2.MEMBER_ROLE_UNSPECIFIED
