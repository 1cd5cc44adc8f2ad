"""The table of docs/channels.md: what the adapters say that they can and cannot."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from payment_rpc.channels import Channel
from payment_rpc.channels.capabilities import Capabilities, StatementKind
from payment_rpc.channels.providers import PROVIDERS
from paymesh_cli.demo_providers import VISITS
from sandbox.providers.settings import NAMES

HEAD = (
    "| provider | hands to a buyer | currencies | `close` | holds money | refunds | life of an "
    "attempt | asked by our id | statement | fee known |"
)


def opened(provider: str) -> Channel:
    """A channel with the credentials of the simulator; it has called nobody. Needs a running
    loop.
    """
    url = "http://127.0.0.1:8095"
    known = PROVIDERS[provider]
    return known.open_channel(
        account=f"{provider}_1",
        credentials=known.parse(VISITS[provider].credentials(url)),
        is_live=False,
        notify_url="https://shop.example/notices",
        base_url=url,
        now=lambda: datetime.now(UTC),
    )


async def capability_rows() -> list[str]:
    """The lines of the table."""
    rows = [HEAD, "|---" * (HEAD.count("|") - 1) + "|"]
    for name in NAMES:
        if name in PROVIDERS:
            channel = opened(name)
            rows.append("| " + " | ".join((name, *_cells(channel.capabilities))) + " |")
            await channel.aclose()
    return rows


def _cells(able: Capabilities) -> tuple[str, ...]:
    return (
        ", ".join(sorted(able.instruments)),
        _currencies(able),
        able.close,
        _holds(able),
        _refunds(able),
        " to ".join(map(_span, able.expires)) if able.expires else "any",
        "yes" if able.ask_by_own_id else "no",
        _statement(able),
        able.fee_known,
    )


def _currencies(able: Capabilities) -> str:
    known = sorted(able.currencies or ())
    return ", ".join(known) if len(known) < 3 else str(len(known))


def _holds(able: Capabilities) -> str:
    if not able.authorize:
        return "no"
    return "yes, several captures" if able.multiple_captures else "yes, one capture"


def _refunds(able: Capabilities) -> str:
    found = ["in parts" if able.partial_refunds else "all at once"]
    if able.refunds_max is not None:
        found.append(f"at most {able.refunds_max}")
    if able.refund_spacing:
        found.append(f"{_span(able.refund_spacing)} apart")
    found.append("no window" if able.refund_window is None else f"for {_span(able.refund_window)}")
    return ", ".join(found)


def _statement(able: Capabilities) -> str:
    if able.statement is StatementKind.NONE:
        return "none"
    zone = able.statement_day.time_zone.key
    return f"{able.statement}, a day of {zone}, {_span(able.statement_ready)} after its end"


def _span(time: timedelta) -> str:
    for unit, seconds in (("days", 86_400), ("h", 3600), ("min", 60)):
        if time >= timedelta(seconds=seconds) and not time % timedelta(seconds=seconds):
            return f"{time // timedelta(seconds=seconds)} {unit}"
    return f"{time // timedelta(seconds=1)} s"
