"""Injects differences into a statement and lists them: a reconciliation is scored by found /
injected.

Every difference has lines of its own, and makes exactly one finding. A seed chooses; the same seed
on the same lines chooses the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from mesh.money import Money
from sandbox.domain import InvalidRequest
from sandbox.statement_file import Line, LineType, Planted

_ONE = 100  # minor units by which an amount differs


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of difference.

    Attributes:
        expected_finding: the finding of a correct reconciliation.
        change: what the file shows instead of the line: nothing, a changed line, or the line and
            more. Gets the line and an unused number.
        on: the type of line that it needs.
        shifts: the line is shown on the next day.
    """

    expected_finding: str
    change: Callable[[Line, str], tuple[Line, ...]]
    on: LineType = LineType.CAPTURE
    shifts: bool = False


def _changed(**change: Callable[[Line], str]) -> Callable[[Line, str], tuple[Line, ...]]:
    return lambda line, _number: (
        replace(line, **{field: make(line) for field, make in change.items()}),
    )


def _gone(_line: Line, _number: str) -> tuple[Line, ...]:
    return ()


def _off(minor: int) -> Callable[[Line], str]:
    def shift(line: Line) -> str:
        amount = Money.parse(line.amount, line.currency)
        by = minor if amount.minor > abs(minor) else 1  # never down to nothing
        return Money(amount.minor + by, line.currency).format()

    return shift


def _fee_off(line: Line) -> str:
    return Money(
        Money.parse(line.fee, line.currency, allow_zero=True).minor + _ONE, line.currency
    ).format()


def _other_currency(line: Line) -> str:
    return "EUR" if line.currency == "USD" else "USD"


def _unknown_capture(line: Line, number: str) -> tuple[Line, ...]:
    return line, replace(line, trade_no=f"SBX{number}", attempt_id=f"ATT{number}")


def _second_charge(line: Line, number: str) -> tuple[Line, ...]:
    return line, replace(line, trade_no=f"SBX{number}")


def _unknown_refund(line: Line, number: str) -> tuple[Line, ...]:
    refund = _part(line, LineType.REFUND, trade_no=f"SBR{number}")
    return line, replace(refund, refund_id=f"RF{number}")


def _console_refund(line: Line, number: str) -> tuple[Line, ...]:
    return line, replace(_part(line, LineType.REFUND, trade_no=f"SBR{number}"), refund_id="")


def _unknown_fee(line: Line, number: str) -> tuple[Line, ...]:
    return line, replace(_part(line, LineType.FEE, trade_no=f"SBF{number}"), attempt_id="")


def _unreadable(line: Line, number: str) -> tuple[Line, ...]:
    return line, replace(line, trade_no=f"SBX{number}", attempt_id=f"ATT{number}", amount="n/a")


def _part(line: Line, kind: LineType, *, trade_no: str) -> Line:
    """A line of another type about a tenth of the amount, without a fee."""
    minor = max(1, Money.parse(line.amount, line.currency).minor // 10)
    return replace(
        line,
        type=kind,
        trade_no=trade_no,
        amount=Money(minor, line.currency).format(),
        fee=Money.zero(line.currency).format(),
    )


KINDS: dict[str, Kind] = {
    "missing_line": Kind("MISSING_CHANNEL", _gone),
    "extra_line": Kind("MISSING_LOCAL", _unknown_capture),
    "amount_over": Kind("AMOUNT_MISMATCH", _changed(amount=_off(_ONE))),
    "amount_under": Kind("AMOUNT_MISMATCH", _changed(amount=_off(-_ONE))),
    "wrong_currency": Kind("CURRENCY_MISMATCH", _changed(currency=_other_currency)),
    "wrong_fee": Kind("FEE_MISMATCH", _changed(fee=_fee_off)),
    "unknown_fee": Kind("FEE_MISMATCH", _unknown_fee),
    "duplicate_line": Kind("DUPLICATE_LINE", lambda line, _number: (line, line)),
    "duplicate_charge": Kind("DUPLICATE_CHARGE", _second_charge),
    "unknown_trade_no": Kind(
        "REFERENCE_MISMATCH", lambda line, number: (replace(line, trade_no=f"SBX{number}"),)
    ),
    "next_day": Kind("CUTOFF_SHIFT", _gone, shifts=True),
    "unreadable_line": Kind("UNREADABLE_LINE", _unreadable),
    "console_refund": Kind("STATUS_MISMATCH", _console_refund),
    "extra_refund": Kind("REFUND_MISSING_LOCAL", _unknown_refund),
    "missing_refund": Kind("REFUND_MISSING_CHANNEL", _gone, on=LineType.REFUND),
    "refund_amount": Kind(
        "REFUND_AMOUNT_MISMATCH", _changed(amount=_off(_ONE)), on=LineType.REFUND
    ),
    "refund_status": Kind(
        "STATUS_MISMATCH",
        _changed(type=lambda _line: LineType.REFUND_REVERSED),
        on=LineType.REFUND,
    ),
}


class FaultInjector:
    """Injects differences into one statement."""

    def __init__(self, lines: Sequence[Line], *, seed: str, next_day: datetime) -> None:
        """
        Args:
            next_day: when the next day begins, in the channel's time zone.
        """
        self._seed = seed
        self._next_day = next_day
        self._lines = list(lines)
        self._free = sorted(
            range(len(self._lines)), key=lambda place: self._digest(f"line:{place}")
        )
        self._injected: dict[int, tuple[str, tuple[Line, ...]]] = {}
        self._shifted: list[Line] = []

    def inject(self, count: int, *, kinds: Sequence[str]) -> None:
        """Injects differences of the kinds in turn.

        Raises:
            InvalidRequest: no such kind, or too few lines.
        """
        unknown = [kind for kind in kinds if kind not in KINDS]
        if unknown:
            raise InvalidRequest(f"kinds: not one of {', '.join(KINDS)}")
        turn = sorted(kinds or KINDS, key=self._digest)
        while len(self._injected) < count:
            before = len(self._injected)
            for kind in turn:
                if len(self._injected) < count:
                    self._inject_one(kind)
            if len(self._injected) == before:
                raise InvalidRequest(
                    f"count: the statement has lines for {before} of these differences"
                )

    def result(self) -> tuple[list[Line], list[Planted], list[Line]]:
        """What the file shows, what was injected, and what the next day's file shows besides its
        own.
        """
        shown: list[Line] = []
        planted: list[Planted] = []
        for place, line in enumerate(self._lines):
            if place not in self._injected:
                shown.append(line)
                continue
            kind, instead = self._injected[place]
            shown += instead
            added = len(instead) > 1
            planted.append(
                Planted(
                    kind=kind,
                    finds=KINDS[kind].expected_finding,
                    line_no=len(shown) if instead else None,
                    was=None if added and kind != "duplicate_line" else line,
                    shows=instead[-1] if instead else None,
                )
            )
        return shown, planted, self._shifted

    def _inject_one(self, name: str) -> None:
        kind = KINDS[name]
        place = next((place for place in self._free if self._lines[place].type == kind.on), None)
        if place is None:
            return
        self._free.remove(place)
        line = self._lines[place]
        number = self._digest(f"number:{place}")[:26].upper()
        self._injected[place] = (name, kind.change(line, number))
        if kind.shifts:
            late = self._next_day + timedelta(seconds=len(self._shifted) + 1)
            self._shifted.append(replace(line, occurred_at=late.isoformat(timespec="milliseconds")))

    def _digest(self, purpose: str) -> str:
        return hashlib.sha256(f"{self._seed}:{purpose}".encode()).hexdigest()
