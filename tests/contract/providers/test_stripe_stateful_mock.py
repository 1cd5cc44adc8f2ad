"""How our calls to Stripe repeat, against stripe-stateful-mock, which nobody here wrote and which keeps
idempotency keys as Stripe does. It has charges and no PaymentIntents, so the calls are made one
layer below the adapter.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from mesh.outbound.connections import Lost
from payment_rpc.channels.stripe.api import OK, StripeApi, is_repeated, refusal
from payment_rpc.channels.time_left import TimeLeft
from tests.support.fault_proxy import FaultProxy, Loss, fault_proxy
from tests.support.processes import Processes
from tools.processes import ROOT, free_port
from tools.servers import missing

CLIENTS = ROOT / "tests" / "clients"
KEY = "sk_test_12345"
CHARGES = "/v1/charges"


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    package = CLIENTS / "node_modules" / "stripe-stateful-mock"
    node = shutil.which("node")
    if node is None or not package.is_dir():
        missing("Node with stripe-stateful-mock", hint="make servers, or npm ci in tests/clients")
    processes = Processes(tmp_path_factory.mktemp("stripe_mock"))
    port = free_port()
    process = processes.command(node, str(CLIENTS / "stripe_mock.cjs"), str(port))
    try:
        process.wait_for_port(port)
        yield port
    finally:
        processes.destroy()


@pytest.fixture
async def line(port: int) -> AsyncIterator[FaultProxy]:
    async with fault_proxy(port) as proxy:
        yield proxy


@pytest.fixture
async def api(line: FaultProxy) -> AsyncIterator[StripeApi]:
    it = StripeApi(f"http://127.0.0.1:{line.port}", secret_key=KEY)
    yield it
    await it.aclose()


@pytest.fixture
def own_id(tmp_path: Path) -> str:
    """Of this test: the mock keeps its keys for all of them."""
    return tmp_path.name


def charge_form(own_id: str, *, amount: int = 9999, source: str = "tok_visa") -> dict[str, str]:
    return {
        "amount": str(amount),
        "currency": "usd",
        "source": source,
        "metadata[attempt_id]": own_id,
    }


async def post(api: StripeApi, form: dict[str, str], key: str, path: str = CHARGES) -> Any:
    return await api.post(path, form, key=key, time_left=TimeLeft(10))


async def charges_of(port: int, own_id: str) -> list[dict[str, Any]]:
    """What the mock has of an attempt, by somebody else's HTTP client."""
    url = f"http://127.0.0.1:{port}{CHARGES}?limit=100"
    async with httpx.AsyncClient(trust_env=False, auth=(KEY, "")) as client:
        listed = (await client.get(url)).json()["data"]
    return [one for one in listed if one["metadata"].get("attempt_id") == own_id]


async def test_one_key_makes_one_charge_and_says_that_it_was_repeated(
    port: int, api: StripeApi, own_id: str
) -> None:
    first = await post(api, charge_form(own_id), own_id)
    again = await post(api, charge_form(own_id), own_id)
    assert (first.status_code, is_repeated(first)) == (OK, False)
    assert (again.status_code, is_repeated(again)) == (OK, True)
    assert again.body == first.body
    [charge] = await charges_of(port, own_id)
    assert (charge["amount"], charge["id"]) == (9999, msgspec.json.decode(first.body)["id"])
    await post(api, charge_form(own_id), f"{own_id}-2")
    assert len(await charges_of(port, own_id)) == 2


async def test_a_lost_answer_is_learned_by_the_same_key(
    port: int, api: StripeApi, line: FaultProxy, own_id: str
) -> None:
    line.lose(own_id.encode(), Loss.ANSWER)
    with pytest.raises(Lost):
        await post(api, charge_form(own_id), own_id)
    [charge] = await charges_of(port, own_id)
    again = await post(api, charge_form(own_id), own_id)
    assert is_repeated(again)
    assert msgspec.json.decode(again.body)["id"] == charge["id"]
    assert [one["id"] for one in await charges_of(port, own_id)] == [charge["id"]]


async def test_a_request_that_got_lost_is_made_by_the_same_key(
    port: int, api: StripeApi, line: FaultProxy, own_id: str
) -> None:
    line.lose(own_id.encode(), Loss.REQUEST)
    with pytest.raises(Lost):
        await post(api, charge_form(own_id), own_id)
    assert await charges_of(port, own_id) == []
    assert not is_repeated(await post(api, charge_form(own_id), own_id))
    assert len(await charges_of(port, own_id)) == 1


async def test_another_request_under_a_used_key_is_refused_and_charges_nothing(
    port: int, api: StripeApi, own_id: str
) -> None:
    await post(api, charge_form(own_id), own_id)
    other = refusal(await post(api, charge_form(own_id, amount=1), own_id))
    assert (other.status_code, other.error.type) == (400, "idempotency_error")
    assert [one["amount"] for one in await charges_of(port, own_id)] == [9999]


async def test_a_decline_is_repeated_as_it_was(port: int, api: StripeApi, own_id: str) -> None:
    form = charge_form(own_id, source="tok_chargeDeclinedInsufficientFunds")
    first, again = [await post(api, form, own_id) for _ in range(2)]
    assert [is_repeated(one) for one in (first, again)] == [False, True]
    assert refusal(again) == refusal(first)
    assert (refusal(first).status_code, refusal(first).error.code) == (402, "card_declined")


@pytest.mark.parametrize(("source", "status"), [("tok_500", 500), ("tok_429", 429)])
async def test_an_error_of_the_server_is_no_charge(
    port: int, api: StripeApi, own_id: str, source: str, status: int
) -> None:
    answer = await post(api, charge_form(own_id, source=source), own_id)
    assert (answer.status_code, refusal(answer).status_code) == (status, status)
    assert [one["paid"] for one in await charges_of(port, own_id)] in ([], [False])


async def test_a_refund_under_one_key_gives_back_once(
    port: int, api: StripeApi, line: FaultProxy, own_id: str
) -> None:
    made = await post(api, charge_form(own_id), own_id)
    refund = {"charge": msgspec.json.decode(made.body)["id"], "amount": "4000"}
    line.lose(b"/v1/refunds", Loss.ANSWER)
    with pytest.raises(Lost):
        await post(api, refund, f"{own_id}-refund", "/v1/refunds")
    answers = await asyncio.gather(
        *(post(api, refund, f"{own_id}-refund", "/v1/refunds") for _ in range(4))
    )
    assert {is_repeated(one) for one in answers} == {True}
    [charge] = await charges_of(port, own_id)
    assert charge["amount_refunded"] == 4000
    over = refusal(await post(api, {**refund, "amount": "6000"}, own_id, "/v1/refunds"))
    assert (over.status_code, over.error.type) == (400, "invalid_request_error")
