"""The whole mesh as processes: each planned as `paymesh up` plans it, but started, killed and
restarted one by one by the test.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx

from mesh import migrations
from mesh.auth import UserTokenIssuer
from mesh.clock import SystemClock
from mesh.ids import UlidIds
from mesh.secret_files import read_secret
from paymesh_cli.supervisor.health import Probe
from paymesh_cli.supervisor.installation import Installation
from paymesh_cli.supervisor.plan import plan_mesh
from paymesh_cli.supervisor.processes import ProcessPlan
from tests.e2e import armable
from tests.support.processes import Processes
from tools.processes import Process

FREE_PORTS = {
    "GATEWAY_PORT": "0",
    "PAYMENT_RPC_PORT": "0",
    "ORDER_RPC_PORT": "0",
    "SECKILL_RPC_PORT": "0",
    "MERCHANT_RPC_PORT": "0",
    "SANDBOX_PORT": "0",
    "PROVIDERS_STRIPE_PORT": "0",
    "PROVIDERS_PAYPAL_PORT": "0",
    "PROVIDERS_ALIPAY_PORT": "0",
    "PROVIDERS_WECHAT_PORT": "0",
    "PROVIDERS_BTCPAY_PORT": "0",
}
GOOD_CARD = "4242424242424242"
DECLINED_CARD = "4000000000000002"
DEADLINE_SECONDS = 30.0
POLL_SECONDS = 0.05


@contextlib.contextmanager
def environment(values: Mapping[str, str]) -> Iterator[None]:
    """Sets variables of this process for a while: what the user of `paymesh up` would have set."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _is_well(probe: Probe) -> bool:
    return asyncio.run(probe()) == ""


def wait_until(
    condition: Callable[[], Any], what: str, *, timeout_seconds: float = DEADLINE_SECONDS
) -> Any:
    """Asks until the answer is true, and returns it.

    Raises:
        AssertionError: not within `timeout_seconds`.
    """
    deadline = time.monotonic() + timeout_seconds
    while not (answer := condition()):
        assert time.monotonic() < deadline, f"no {what} within {timeout_seconds} s"
        time.sleep(POLL_SECONDS)
    return answer


@dataclass(frozen=True)
class Answer:
    """What the gateway said."""

    status: int
    code: str
    data: Any
    headers: httpx.Headers
    text: str

    @classmethod
    def of(cls, response: httpx.Response) -> Answer:
        envelope = response.json()
        return cls(
            response.status_code,
            envelope["code"],
            envelope["data"],
            response.headers,
            response.text,
        )


class Person:
    """Somebody who speaks HTTP to the gateway, with a token or an API key, or with neither ("")."""

    def __init__(self, gateway_url: str, token: str) -> None:
        self.token = token
        self._client = httpx.Client(
            base_url=gateway_url,
            timeout=20,
            trust_env=False,
            verify=False,
            headers={"authorization": f"Bearer {token}"} if token else {},
        )

    def close(self) -> None:
        self._client.close()

    def get(self, path: str, **query: Any) -> Answer:
        return Answer.of(self._client.get(path, params=query))

    def post(self, path: str, body: Any, **headers: str) -> Answer:
        return Answer.of(
            self._client.post(
                path,
                json=body,
                headers={name.replace("_", "-"): value for name, value in headers.items()},
            )
        )

    def put(self, path: str, body: Any) -> Answer:
        return Answer.of(self._client.put(path, json=body))

    def delete(self, path: str) -> Answer:
        return Answer.of(self._client.delete(path))

    def order(self, sku_id: str, quantity: int = 1) -> dict[str, Any]:
        answer = self.post("/api/v1/orders", {"items": [{"sku_id": sku_id, "quantity": quantity}]})
        assert answer.status == 201, answer.text
        return dict(answer.data)

    def charge(self, order: Mapping[str, Any], *, number: str = GOOD_CARD, key: str = "") -> Answer:
        headers = {"idempotency_key": key} if key else {}
        return self.post("/api/v1/payments/charge", charge_body(order, number=number), **headers)

    def top_up(self, amount: str, *, key: str) -> Answer:
        return self.post(
            "/api/v1/wallet/top-ups", {"amount": amount, "credit_card": card()}, idempotency_key=key
        )

    def balance(self) -> str:
        answer = self.get("/api/v1/wallet")
        assert answer.status == 200, answer.text
        return str(answer.data["balance"])

    def state_of(self, order_id: str) -> str:
        answer = self.get(f"/api/v1/orders/{order_id}")
        assert answer.status == 200, answer.text
        return str(answer.data["state"])

    def wait_paid(self, order_id: str, *, timeout_seconds: float = DEADLINE_SECONDS) -> None:
        wait_until(
            lambda: self.state_of(order_id) == "PAID",
            f"order {order_id} PAID",
            timeout_seconds=timeout_seconds,
        )


def charge_body(order: Mapping[str, Any], *, number: str = GOOD_CARD) -> dict[str, Any]:
    """A charge of the order's amount."""
    return {"order_id": order["order_id"], "amount": order["amount"], "credit_card": card(number)}


def card(number: str = GOOD_CARD) -> dict[str, Any]:
    """A card; the number decides what happens."""
    return {
        "credit_card_number": number,
        "credit_card_cvv": "123",
        "credit_card_expiration_month": 12,
        "credit_card_expiration_year": SystemClock().now().year + 2,
    }


def press_pay(cashier_url: str) -> None:
    """What the person at a cashier page does."""
    answer = httpx.post(f"{cashier_url}/pay", timeout=5, follow_redirects=True, trust_env=False)
    assert answer.status_code == 200, answer.text


class SandboxBooks:
    """What the channel itself has recorded."""

    def __init__(self, url: str, api_key: str) -> None:
        self._client = httpx.Client(
            base_url=url, timeout=5, trust_env=False, headers={"authorization": f"Bearer {api_key}"}
        )

    def close(self) -> None:
        self._client.close()

    def transactions(self) -> list[dict[str, Any]]:
        """All of them, oldest first."""
        found: list[dict[str, Any]] = []
        after = 0
        while after is not None:
            answer = self._client.get("/v1/transactions", params={"after": after, "limit": 1000})
            answer.raise_for_status()
            page = answer.json()
            found += page["transactions"]
            after = page["next_after"]
        return found

    def refunds(self, attempt_id: str) -> list[dict[str, Any]]:
        """Those of one transaction, oldest first."""
        answer = self._client.get(f"/v1/transactions/{attempt_id}/refunds")
        answer.raise_for_status()
        return list(answer.json()["refunds"])


class MeshProcesses:
    """A mesh in a folder of its own. Nothing runs until `start`. The crash points of the services
    named in `armable` can be armed while they run.
    """

    def __init__(
        self,
        folder: Path,
        processes: Processes,
        *,
        env: Mapping[str, str] | None = None,
        replicas: Mapping[str, int] | None = None,
        discovery: str = "static",
        armable: Collection[str] = (),
    ) -> None:
        self._given = {**FREE_PORTS, **(env or {})}
        self._armable = armable
        self._processes = processes
        self._people: list[Person] = []
        self._numbers = itertools.count(1)
        self.installation = Installation(folder / "var").prepare()
        with environment(self._given):
            self.plan = plan_mesh(self.installation, replicas=replicas or {}, discovery=discovery)
        self.gateway_url = self.plan.running.urls["gateway"]
        self._plans: dict[str, ProcessPlan] = {plan.name: plan for plan in self.plan.processes}
        self.names = tuple(self._plans)
        self.running: dict[str, Process] = {}
        clock = SystemClock()
        self._issuer = UserTokenIssuer(
            read_secret(self.installation.secret_file("user_token")),
            clock=clock,
            ids=UlidIds(clock),
        )
        self.books = SandboxBooks(
            self.plan.running.urls["sandbox"],
            read_secret(self.installation.secret_file("sandbox_api")).decode(),
        )

    def migrate(self) -> None:
        """Makes the databases."""
        for service, url in self.plan.database_urls.items():
            migrations.upgrade(service, url)

    def start(self, *names: str, env: Mapping[str, str] | None = None) -> None:
        """Starts processes (all without names), each with more environment; does not wait."""
        for name in names or tuple(self._plans):
            plan = self._plans[name]
            command, more = plan.command, dict(env or {})
            if name in self._armable:
                command, more[armable.FILE] = (
                    (sys.executable, "-m", armable.__name__, name),
                    str(self._points_file(name)),
                )
            self.running[name] = self._processes.command(
                *command, env={**self._given, **plan.env, **more}, name=name
            )

    def wait_ready(self, *names: str) -> None:
        """Waits until processes (all without names) are well."""
        for name in names or tuple(self.running):
            self.running[name].wait_for(partial(_is_well, self._plans[name].probe), "health")

    def arm(self, name: str, points: str) -> None:
        """Arms crash points of a process that runs, in the words of `failpoints`; returns when they
        are armed.
        """
        file = self._points_file(name)
        file.write_text(points)
        self.running[name].signal(signal.SIGUSR1)
        self.running[name].wait_for(lambda: not file.exists(), f"arming of {points}")

    def _points_file(self, name: str) -> Path:
        return self.installation.var_dir / f"{name}.points"

    def logs_of(self, name: str) -> list[str]:
        """What every process of this name has logged, the first one first."""
        return [process.log_text() for process in self._processes.started if process.name == name]

    def stop(self) -> None:
        """SIGTERM to all at once, and their ends; each must end well."""
        for process in self.running.values():
            process.signal(signal.SIGTERM)
        codes = {name: process.wait() for name, process in self.running.items()}
        assert set(codes.values()) <= {0}, codes

    def person(self, subject: str = "alice", **facts: Any) -> Person:
        """Somebody with a fresh token; `roles` and `merchant_id` as for the issuer."""
        return self.holder(self._issuer.issue(subject, **facts))

    def holder(self, token: str) -> Person:
        """Whoever shows a token or an API key, or neither ("")."""
        self._people.append(Person(self.gateway_url, token))
        return self._people[-1]

    def product(self, *, price: str = "100.00", available: int = 1000) -> str:
        """A new product, as soon as the gateway reaches order_rpc; returns its SKU."""
        sku_id = f"SKU-{next(self._numbers)}"
        merchant = self.person("merchant", roles=["merchant"])

        def created() -> bool:
            with contextlib.suppress(httpx.TransportError):
                return (
                    merchant.post(
                        "/api/v1/products",
                        {"sku_id": sku_id, "name": "A mug", "price": price, "available": available},
                    ).status
                    == 201
                )
            return False

        wait_until(created, "product")
        return sku_id

    def close(self) -> None:
        """Closes connections of the test; processes belong to `Processes`."""
        for person in self._people:
            person.close()
        self.books.close()
