"""Messages that a channel sends us, and our answers to them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from payment_rpc.domain.callback import Subject
from payment_rpc.domain.dispute import DisputeFact
from payment_rpc.domain.facts import ChannelFact
from payment_rpc.domain.refund_facts import RefundFact


@dataclass(frozen=True, slots=True, kw_only=True)
class Inbound:
    """A request of a channel as it arrived; nothing of it is believed yet.

    Attributes:
        headers: names in lower case; repeated ones joined by ", ".
        query: without the question mark.
        body: the raw bytes, which signatures are over.
    """

    body: bytes
    headers: Mapping[str, str]
    method: str = "POST"
    path: str = ""
    query: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """The answer that a channel expects."""

    status_code: int
    content_type: str = "text/plain"
    body: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """Genuine news that says no more than: ask the channel about this. `subject` names the attempt
    by our id, or by the channel's own (`ref`).
    """

    subject: Subject


News = ChannelFact | RefundFact | DisputeFact | Ask


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """What a verified message says.

    Attributes:
        news: what to apply, in order; empty for a message that is genuine and means nothing to us.
        event_id: the channel's name of the message, the same in all its deliveries; "" where it has
            none, and then the bytes are the name.
        summary: of the message, for the log: its type.
    """

    news: tuple[News, ...]
    event_id: str = ""
    occurred_at: datetime | None = None
    summary: str = ""


class KeyUnknown(Exception):
    """A message is signed with a key that we do not have yet. `learn_key(url)` fetches it, and the
    message can be received once more.
    """

    def __init__(self, url: str) -> None:
        super().__init__(f"the key at {url} is not known yet")
        self.url = url
