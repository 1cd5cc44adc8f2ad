"""The messages of channels about a payment: what was said, whether it was believed, what
became of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import assert_never

from mesh.audit.explain import Actor, PendingStep, TimelineEntry
from payment_rpc.domain.callback import Callback, CallbackKind, CallbackResult
from payment_rpc.usecases.callback_questions import UNFINISHED_AFTER


def callback_entries(callbacks: Sequence[Callback]) -> Iterator[TimelineEntry]:
    """What happened."""
    for callback in callbacks:
        if callback.signature_valid:
            yield TimelineEntry(
                at=callback.received_at,
                actor=Actor.CHANNEL,
                text=f"{_who(callback)} {_became(callback)}{_again(callback)}",
            )
    # Forgeries tell one line, however many somebody sends.
    for reason, group in groupby(
        sorted((c for c in callbacks if not c.signature_valid), key=lambda c: c.reason),
        key=lambda c: c.reason,
    ):
        forged = list(group)
        came = "A message came" if len(forged) == 1 else f"{len(forged)} messages came"
        yield TimelineEntry(
            at=min(c.received_at for c in forged),
            actor=Actor.CHANNEL,
            text=f"{came} that claimed to be the channel's. Nobody believed it and it changed "
            f"nothing ({reason}).",
        )


def callback_steps(callbacks: Sequence[Callback]) -> Iterator[PendingStep]:
    """What happens next."""
    for callback in callbacks:
        if callback.result is CallbackResult.RECEIVED:
            yield PendingStep(
                at=callback.received_at + UNFINISHED_AFTER,
                text=f"The channel is asked because of hint {callback.about.event_id}.",
            )


def _who(callback: Callback) -> str:
    name = f" ({callback.about.event_id})" if callback.about.event_id else ""
    about = f" about refund {callback.about.refund_id}" if callback.about.refund_id else ""
    return (
        f"A hint came that there is news{name}"
        if callback.kind is CallbackKind.HINT
        else f"The channel called{about}{name}"
    )


def _became(callback: Callback) -> str:
    is_hint = callback.kind is CallbackKind.HINT
    match callback.result:
        case CallbackResult.RECEIVED:
            return "and makes us ask the channel."
        case CallbackResult.PROCESSED:
            return (
                f"and made us ask: {callback.reason}. That was news."
                if is_hint
                else f"and said {callback.reason}. It counted."
            )
        case CallbackResult.IGNORED:
            return (
                f"and made us ask: {callback.reason}. That was nothing new."
                if is_hint
                else f"and said {callback.reason}. That was nothing new."
            )
        case CallbackResult.FAILED:
            return f"and could not be used: {callback.reason}. The channel was told to call again."
        case _:
            assert_never(callback.result)


def _again(callback: Callback) -> str:
    return (
        f" It came {callback.deliveries} times and counts once." if callback.deliveries > 1 else ""
    )
