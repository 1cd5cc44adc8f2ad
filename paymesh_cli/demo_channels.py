"""`paymesh demo-channels`: a merchant signs up, adds an account at each simulated provider, sells
once through each, gives a part back, and the books agree.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from zoneinfo import ZoneInfo

import click
import httpx

from mesh.clock import SystemClock
from mesh.ids import UlidIds
from mesh.money import Money
from payment_rpc.channels.providers import PROVIDERS
from paymesh_cli.audit import audit
from paymesh_cli.demo_client import Conversation, DemoFailed
from paymesh_cli.demo_merchant import MerchantDemo
from paymesh_cli.demo_providers import VISITS, Simulator, Visit
from paymesh_cli.options import installation_option, need_running
from paymesh_cli.supervisor.installation import Installation
from paymesh_cli.terminal import Terminal, shown, table
from paymesh_cli.token import open_issuer
from sandbox.providers.settings import NAMES

PAID_SECONDS_MAX: Final = 60.0
REFUNDED_SECONDS_MAX: Final = 60.0
IMPORT_SECONDS_MAX: Final = 30.0
REST_SECONDS_MAX: Final = 60.0
_POLL_SECONDS: Final = 0.3
_AMOUNT_MINOR: Final = 10_000
_PART_MINOR: Final = 3_000
_LINES: Final = 2  # of a statement: the payment and the refund
_SIMULATORS: Final = "run `make run` without --no-providers"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of the purchase at one provider."""

    account_id: str
    action: str
    payment: str
    refund: str
    statement: str


@click.command(name="demo-channels")
@installation_option
def demo_channels(installation: Installation) -> None:
    """Buys once through each simulated payment provider and gives a part back, with every call
    shown. Exits 0 when every payment is paid, every refund has succeeded and `paymesh audit
    --strict` holds.
    """
    running = need_running(installation)
    if not running.providers:
        raise click.ClickException(f"the simulated providers do not run: {_SIMULATORS}")
    issuer = open_issuer(installation)
    console = Terminal()
    clock = SystemClock()
    # trust_env: a proxy is not about us
    with (
        _told_as_click_tells(running.urls["gateway"]),
        httpx.Client(base_url=running.urls["gateway"], timeout=20, trust_env=False) as client,
        httpx.Client(timeout=20, trust_env=False) as buyer,
    ):
        conversation = Conversation(client, console)
        merchant = MerchantDemo(
            conversation,
            run_id=UlidIds(clock).new(""),
            log_file=installation.log_dir / "merchant_rpc.log",
        )
        merchant.sign_up()
        session = merchant.log_in()
        shop = _Shop(
            conversation,
            session=session,
            key=merchant.create_key(session),
            operator=issuer.issue("demo-operator", roles=["admin"]),
            today=lambda zone: clock.now().astimezone(zone).date().isoformat(),
        )
        outcomes = {
            name: shop.visit(
                VISITS[name], Simulator(name, running.providers[name], buyer, conversation.note)
            )
            for name in NAMES
            if name in PROVIDERS
        }
    _show(console, outcomes)
    _audit(installation, console)


@contextmanager
def _told_as_click_tells(gateway: str) -> Iterator[None]:
    try:
        yield
    except DemoFailed as failure:
        raise click.ClickException(str(failure)) from None
    except httpx.HTTPError as problem:
        raise click.ClickException(f"{gateway}: {problem!r}") from None


class _Shop:
    """A merchant with accounts at providers. Raises DemoFailed or httpx.HTTPError at the first
    thing that goes wrong.
    """

    def __init__(
        self,
        conversation: Conversation,
        *,
        session: str,
        key: str,
        operator: str,
        today: Callable[[ZoneInfo], str],
    ) -> None:
        """
        Args:
            session: token of the owner, who may add accounts. key: API key, which may sell.
            operator: token of an operator, who imports statements.
            today: the date in a time zone.
        """
        self._conversation = conversation
        self._session = session
        self._key = key
        self._operator = operator
        self._today = today

    def visit(self, visit: Visit, simulator: Simulator) -> Outcome:
        """The whole story at one provider."""
        account = self.open_account(visit, simulator)
        payment, action = self.sell(visit, simulator, str(account["account_id"]))
        refund = self.give_back(visit, simulator, payment)
        return Outcome(
            account_id=str(account["account_id"]),
            action=action,
            payment=f"{payment['payment_id']} {payment['state']} "
            f"{Money(_AMOUNT_MINOR, visit.currency)}",
            refund=f"{refund['refund_id']} {refund['state']} {Money(_PART_MINOR, visit.currency)}",
            statement="has none"
            if visit.statement_zone is None
            else self.read_statement(account, simulator, visit.statement_zone),
        )

    def open_account(self, visit: Visit, simulator: Simulator) -> Mapping[str, Any]:
        """An account whose credentials the provider accepts."""
        self._conversation.heading(f"{simulator.name}: the merchant adds its account")
        account = self._conversation.call(
            "POST",
            "/api/v1/channel-accounts",
            token=self._session,
            expect=201,
            body={
                "provider": simulator.name,
                "label": f"demo {simulator.name}",
                "credentials": json.dumps(visit.credentials(simulator.url)),
            },
        )
        if visit.registers:
            self._conversation.note("and registers the address for notices at the provider")
            simulator.notices_to(str(account["notify_url"]))
        tested = self._conversation.call(
            "POST",
            f"/api/v1/channel-accounts/{account['account_id']}/test",
            token=self._session,
            expect=200,
            body={},
        )
        if not tested.get("is_usable"):
            raise DemoFailed(f"{simulator.name}: the account is not usable: {tested}")
        return account

    def sell(
        self, visit: Visit, simulator: Simulator, account_id: str
    ) -> tuple[Mapping[str, Any], str]:
        """A purchase; returns the payment that is paid, and what the buyer was handed."""
        self._conversation.heading(f"{simulator.name}: it sells something")
        told_before = simulator.notices_accepted()
        payment = self._conversation.call(
            "POST",
            "/api/v1/payments",
            token=self._key,
            expect=200,
            body={
                "order_no": f"demo-{account_id}",
                "amount_minor": _AMOUNT_MINOR,
                "currency": visit.currency,
                "channel": account_id,
                "description": "A mug",
            },
        )
        action = payment.get("next_action") or {}
        if action.get("kind") != visit.kind:
            raise DemoFailed(f"{simulator.name}: expected a {visit.kind}, got {action}")
        self._conversation.note(f"the buyer is handed a {visit.kind}:")
        self._conversation.note(f"  {action['value']}")
        visit.pay(simulator, str(action["value"]))
        paid = self._conversation.poll(
            f"/api/v1/payments/{payment['payment_id']}",
            token=self._key,
            state="SUCCESS",
            timeout_seconds=PAID_SECONDS_MAX,
        )
        self._see_notice(simulator, told_before)
        return paid, f"{visit.kind} {str(action['value'])[:40]}…"

    def give_back(
        self, visit: Visit, simulator: Simulator, payment: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """A part of the money goes back."""
        self._conversation.heading(f"{simulator.name}: it gives a part back")
        path = f"/api/v1/payments/{payment['payment_id']}/refunds"
        made = self._conversation.call(
            "POST",
            path,
            token=self._key,
            expect=(201, 202),
            body={"amount_minor": _PART_MINOR, "reason": "the handle broke"},
        )
        visit.give_back(simulator, made)
        return self._conversation.poll(
            f"/api/v1/refunds/{made['refund_id']}",
            token=self._key,
            state="SUCCESS",
            timeout_seconds=REFUNDED_SECONDS_MAX,
        )

    def _see_notice(self, simulator: Simulator, before: int) -> None:
        """The provider has told of the payment, and the mesh has believed it."""
        deadline = time.monotonic() + PAID_SECONDS_MAX
        while simulator.notices_accepted() <= before:
            if time.monotonic() > deadline:
                raise DemoFailed(f"{simulator.name}: no notice was accepted")
            time.sleep(_POLL_SECONDS)
        self._conversation.note(f"{simulator.name} told of it, and its notice was accepted")

    def read_statement(
        self,
        account: Mapping[str, Any],
        simulator: Simulator,
        zone: ZoneInfo,
    ) -> str:
        """What the statement of today has so far agrees with the books. It lists what other shops
        of the demo sold at the same provider too.
        """
        self._conversation.heading(f"{account['provider']}: an operator imports today's statement")
        simulator.early_bills()
        begun = self._conversation.call(
            "POST",
            "/api/v1/reconciliation/imports",
            token=self._operator,
            expect=202,
            body={
                "channel": account["account_id"],
                "date": self._today(zone),
                "so_far": True,
            },
        )
        done = self._conversation.poll(
            f"/api/v1/reconciliation/imports/{begun['import_id']}",
            token=self._operator,
            state="DONE",
            timeout_seconds=IMPORT_SECONDS_MAX,
        )
        lines, matched = done.get("lines", 0), done.get("matched", 0)
        if matched != _LINES or done.get("differences"):
            raise DemoFailed(f"{account['account_id']}: the statement does not agree: {done}")
        return f"{lines} lines, {matched} of this shop, no difference"


def _show(console: Terminal, outcomes: Mapping[str, Outcome]) -> None:
    rows = table("provider", "account", "handed to the buyer", "payment", "refund", "statement")
    for name, one in outcomes.items():
        cells = (name, one.account_id, one.action, one.payment, one.refund, one.statement)
        rows.add_row(*map(shown, cells))
    console.print()
    console.show(rows)


def _audit(installation: Installation, console: Terminal) -> None:
    """`paymesh audit --strict`, as soon as nothing is on its way any more.

    Raises:
        SystemExit: it does not hold.
    """
    console.print("\n[bold]paymesh audit --strict[/]")
    deadline = time.monotonic() + REST_SECONDS_MAX
    while True:
        try:
            audit.main(["--strict", "--var-dir", str(installation.var_dir)], standalone_mode=False)
        except SystemExit:
            if time.monotonic() > deadline:
                raise
            console.print("something is still on its way; once more …")
            time.sleep(_POLL_SECONDS * 10)
        else:
            return
