"""What happened to an order, as services tell it to `paymesh explain`: lines with a time, and what
happens next. In words for people.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from typing import Any

from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from mesh.outbox import OUTBOX


class Who(IntEnum):
    """Who did it; at one moment, causes come before effects in this order."""

    ORDER = 1
    PAYMENT = 2
    CHANNEL = 3
    LEDGER = 4
    REFUND = 5
    MESSAGE = 6
    DECISION = 7
    PERSON = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One thing that happened."""

    at: datetime
    who: Who
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Next:
    """One thing that will happen. `at` is None when nobody knows when: a person must act."""

    at: datetime | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What one service knows. `headlines` say in one sentence each how things stand."""

    headlines: tuple[str, ...]
    lines: tuple[Line, ...]
    nexts: tuple[Next, ...]


async def messages_about(
    tx: AsyncConnection, ids: Sequence[str], *, receivers: dict[str, str], newest: int | None = None
) -> tuple[list[Line], list[Next]]:
    """What others were told about some things, and what they will be told. `receivers` names the
    destinations that matter to people; of many messages the `newest` are read."""
    lines, nexts = [], []
    query = (
        select(OUTBOX)
        .where(OUTBOX.c.aggregate_id.in_(ids), OUTBOX.c.destination.in_(receivers))
        .order_by(OUTBOX.c.id.desc())
        .limit(newest)
    )
    for row in reversed((await tx.execute(query)).all()):
        receiver, payload = receivers[row.destination], _payload(row.payload)
        about = (
            f"{row.aggregate_id} is {payload['state']}"
            if "state" in payload
            else f"{row.tag} for {row.aggregate_id}"
        )
        lines.append(
            Line(
                at=row.created_at,
                who=Who.MESSAGE,
                text={
                    "DONE": f"{receiver} was told: {about}.",
                    "NEW": f"{receiver} is to be told: {about}.",
                    "DEAD": f"{receiver} refused to hear that {about}: {row.last_error}",
                }[row.state],
            )
        )
        if row.state == "NEW":
            because = (
                f" (attempt {row.attempts + 1}; the last one: {row.last_error})"
                if row.last_error
                else ""
            )
            nexts.append(Next(at=row.due_at, text=f"{receiver} is told that {about}{because}."))
        if row.state == "DEAD":
            nexts.append(
                Next(
                    at=None,
                    text=f"{receiver} must be told by hand: paymesh outbox replay {row.event_id}",
                )
            )
    return lines, nexts


def _payload(text: str) -> dict[str, Any]:
    """What a message says; nothing where it cannot be read, so that one spoilt row does not hide
    the story.
    """
    try:
        payload = json.loads(text)
    except ValueError:
        return {}
    return payload if isinstance(payload, dict) else {}
