"""Defines the history of an order for `paymesh explain`: entries with a time, and pending steps.
The texts are for people.
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


class Actor(IntEnum):
    """The actor of an entry. Entries of the same moment are sorted in this order, causes before
    effects. The names are printed. They are defined here because each service uses some of them and
    none may import another.
    """

    ORDER = 1
    PAYMENT = 2
    CHANNEL = 3
    LEDGER = 4
    REFUND = 5
    MESSAGE = 6
    DECISION = 7
    PERSON = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class TimelineEntry:
    """A past event."""

    at: datetime
    actor: Actor
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingStep:
    """A future step. `at` is None when the time is unknown because a person must act."""

    at: datetime | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """The knowledge of one service. `headlines` state the present situation, one sentence each."""

    headlines: tuple[str, ...]
    timeline: tuple[TimelineEntry, ...]
    pending: tuple[PendingStep, ...]


async def messages_about(
    tx: AsyncConnection, ids: Sequence[str], *, receivers: dict[str, str], newest: int | None = None
) -> tuple[list[TimelineEntry], list[PendingStep]]:
    """Messages about some subjects, sent and still to be sent. `receivers` names the destinations
    that matter to people; only the `newest` messages are read.
    """
    timeline, pending = [], []
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
        timeline.append(
            TimelineEntry(
                at=row.created_at,
                actor=Actor.MESSAGE,
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
            pending.append(
                PendingStep(at=row.due_at, text=f"{receiver} is told that {about}{because}.")
            )
        if row.state == "DEAD":
            pending.append(
                PendingStep(
                    at=None,
                    text=f"{receiver} must be told by hand: paymesh outbox replay {row.event_id}",
                )
            )
    return timeline, pending


def _payload(text: str) -> dict[str, Any]:
    """The payload of a message; empty when it cannot be parsed, so that one bad row does not hide
    the others.
    """
    try:
        payload = json.loads(text)
    except ValueError:
        return {}
    return payload if isinstance(payload, dict) else {}
