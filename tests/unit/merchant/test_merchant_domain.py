"""What a merchant may become, and what roles may do."""

from __future__ import annotations

from datetime import timedelta
from itertools import product

import pytest

from merchant_rpc.domain.errors import MerchantStateInvalid, MerchantSuspended
from merchant_rpc.domain.member import (
    MemberRole,
    email_digest,
    parse_email,
)
from merchant_rpc.domain.merchant import (
    MERCHANT_STATES,
    Merchant,
    MerchantState,
    Verb,
    base_id,
    is_time_zone,
    next_state,
    sibling_id,
)
from mesh.errors import InvalidArgument
from mesh.scopes import SCOPE_AREAS, SCOPES
from tests.support.fakes import EPOCH

S, V = MerchantState, Verb
LATER = EPOCH + timedelta(seconds=1)

# Every step there is; whatever is not here is refused.
STEPS = {
    (S.PENDING_EMAIL, V.CONFIRM): S.TEST_ONLY,
    (S.TEST_ONLY, V.ACTIVATE): S.LIVE,
    (S.TEST_ONLY, V.SUSPEND): S.SUSPENDED,
    (S.LIVE, V.SUSPEND): S.SUSPENDED,
    (S.SUSPENDED, V.RESUME_TEST): S.TEST_ONLY,
    (S.SUSPENDED, V.RESUME_LIVE): S.LIVE,
    (S.TEST_ONLY, V.CLOSE): S.CLOSED,
    (S.LIVE, V.CLOSE): S.CLOSED,
    (S.SUSPENDED, V.CLOSE): S.CLOSED,
}


def merchant(state: MerchantState, before: MerchantState | None = None) -> Merchant:
    return Merchant(
        merchant_id="acme",
        name="Acme",
        state=state,
        state_before=before,
        is_test=False,
        country="",
        time_zone="UTC",
        default_currency="CNY",
        contact_email="owner@acme.example",
        version=1,
        settings_version=0,
        created_at=EPOCH,
        updated_at=EPOCH,
    )


@pytest.mark.parametrize(("state", "verb"), list(product(S, V)))
def test_the_table_of_steps(state: MerchantState, verb: Verb) -> None:
    if (state, verb) in STEPS:
        assert next_state(state, verb) is STEPS[state, verb]
        assert MERCHANT_STATES.allows(state, STEPS[state, verb])
    else:
        with pytest.raises(MerchantStateInvalid) as refused:
            next_state(state, verb)
        assert refused.value.metadata == {"state": state, "verb": verb}


@pytest.mark.parametrize("before", [S.TEST_ONLY, S.LIVE])
def test_a_suspension_remembers_what_the_merchant_was(before: MerchantState) -> None:
    suspended = merchant(before).step(V.SUSPEND, now=LATER)
    assert (suspended.state_before, suspended.version) == (before, 2)
    resumed = suspended.resume(now=LATER)
    assert (resumed.state, resumed.state_before, resumed.version) == (before, None, 3)
    closed = suspended.step(V.CLOSE, now=LATER)
    assert closed.state_before is None


@pytest.mark.parametrize("state", [state for state in S if state is not S.SUSPENDED])
def test_only_what_is_suspended_is_resumed(state: MerchantState) -> None:
    with pytest.raises(MerchantStateInvalid):
        merchant(state).resume(now=LATER)


@pytest.mark.parametrize("state", S)
def test_suspended_and_closed_merchants_take_nothing_new(state: MerchantState) -> None:
    if state in (S.SUSPENDED, S.CLOSED):
        with pytest.raises(MerchantSuspended):
            merchant(state, S.LIVE).check_takes_new()
    else:
        merchant(state).check_takes_new()


def test_an_address_is_not_shown_where_values_are_printed() -> None:
    assert "owner@acme" not in repr(merchant(S.LIVE))


def test_a_sibling_and_its_merchant_name_each_other() -> None:
    assert base_id(sibling_id("acme")) == base_id("acme") == "acme"
    assert merchant(S.LIVE).test_merchant_id == "acme_test"


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("UTC", True),
        ("Asia/Shanghai", True),
        ("Mars/Olympus", False),
        ("../UTC", False),
        ("/etc/passwd", False),
    ],
)
def test_time_zones_are_those_of_the_world(name: str, is_one: bool) -> None:
    assert is_time_zone(name) is is_one


# --- roles ----------------------------------------------------------------------------------------


def test_an_owner_has_every_right_of_the_contract() -> None:
    assert MemberRole.OWNER.scopes == SCOPES


@pytest.mark.parametrize(
    ("role", "writes", "reads"),
    [
        (MemberRole.OWNER, set(SCOPE_AREAS), set()),
        (MemberRole.ADMIN, set(SCOPE_AREAS) - {"members"}, {"members"}),
        (
            MemberRole.DEVELOPER,
            {"webhooks", "keys"},
            {"payments", "orders", "events", "channel_accounts"},
        ),
        (MemberRole.SUPPORT, {"orders", "refunds"}, {"payments", "events"}),
        (MemberRole.FINANCE, {"refunds"}, {"payments", "reports", "channel_accounts"}),
        (MemberRole.VIEWER, set(), {"payments", "orders", "reports"}),
    ],
)
def test_the_table_of_roles(role: MemberRole, writes: set[str], reads: set[str]) -> None:
    expected = {f"{area}:write" for area in writes} | {f"{area}:read" for area in writes | reads}
    assert role.scopes == expected <= SCOPES


# --- addresses ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "a@",
        "@b.example",
        "a@b",
        "a b@c.example",
        "a@b@c.example",
        "a@b..",
        "a@b.example\r\nBcc: x@y.example",
        "<a@b.example>",
        '"a"@b.example',
        "é@b.example",
        "a@bé.example",
        f"{'a' * 65}@b.example",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="email"):
        parse_email(text)


def test_an_address_is_one_however_it_is_typed() -> None:
    assert parse_email(" Owner+Shop@ACME.Example ") == "owner+shop@acme.example"
    assert email_digest(" Owner@ACME.Example ") == email_digest("owner@acme.example")
