"""VerifyLedger: recomputes everything that must hold of the ledger from its rows, page by page,
while payments go on.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from mesh.db import Database
from mesh.errors import InvalidArgument
from mesh.progress import looked_at
from payment_rpc.domain.books import Books, Problem, problems_of
from payment_rpc.store import books, ledger_checks

PAGE = 1000  # payments or wallets; their rows lie in memory at once
ORPHANS_PAGE = 5000  # counted by the database
VIOLATIONS_MAX = 1000
READS_MAX = 20  # of rows that change while they are read
READ_PAUSE_SECONDS = 0.05
# raised for a row with an impossible value
UNREADABLE = (ArithmeticError, LookupError, TypeError, ValueError, InvalidArgument)


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What does not hold, and how much was checked. Stops at VIOLATIONS_MAX."""

    violations: tuple[Problem, ...]
    transactions: int
    postings: int


class LedgerVerification:
    """Verifies the ledger. Reads only."""

    def __init__(self, *, db: Database) -> None:
        self._db = db

    async def verify_ledger(self) -> Verification:
        """Checks every payment, wallet, transaction and posting."""
        violations: list[Problem] = []
        await self._verify_payments(violations)
        await self._verify_wallets(violations)
        counts = {
            kind: await self._find_orphans(kind, violations)
            for kind in ("transaction", "posting", "entry")
        }
        return Verification(
            violations=tuple(violations[:VIOLATIONS_MAX]),
            transactions=counts["transaction"],
            postings=counts["posting"],
        )

    async def _verify_payments(self, violations: list[Problem]) -> None:
        after = ""
        while len(violations) < VIOLATIONS_MAX:
            try:
                ready, changed, last = await self._db.read(
                    books.books_page, after=after, limit=PAGE
                )
            except UNREADABLE:  # a row of one of them: each payment is read alone then
                ready = []
                changed, last = await self._db.read(books.ids_page, after=after, limit=PAGE)
            if not last:
                return
            for own in ready:
                violations += problems_of(own)
            for payment_id in changed:
                violations += await self._problems_of_one(payment_id)
            after = last
            looked_at("books of payments", len(ready) + len(changed))
            await asyncio.sleep(0)  # hashing a page takes a while; lets calls run in between

    async def _problems_of_one(self, payment_id: str) -> list[Problem]:
        try:
            own = await self._settled(payment_id)
            return [] if own is None else problems_of(own)
        except UNREADABLE as problem:
            return [
                Problem(
                    invariant="readable",
                    subject=payment_id,
                    detail=f"its rows cannot be read: {problem!r}",
                )
            ]

    async def _settled(self, payment_id: str) -> Books | None:
        """One payment's books of one moment; None for a payment that changes faster than it can be
        read.
        """
        for _ in range(READS_MAX):
            own = await self._db.read(books.books_of, payment_id)
            if own is not None:
                return own
            await asyncio.sleep(READ_PAUSE_SECONDS)
        return None

    async def _verify_wallets(self, violations: list[Problem]) -> None:
        after: ledger_checks.WalletKey | None = ("", "", "")
        while after is not None and len(violations) < VIOLATIONS_MAX:
            found, changed, after = await self._db.read(
                ledger_checks.check_wallets, after=after, limit=PAGE
            )
            violations += found
            for _ in range(READS_MAX):
                if not changed:
                    break
                await asyncio.sleep(READ_PAUSE_SECONDS)
                found, changed, _last = await self._db.read(
                    ledger_checks.check_wallets, after=("", "", ""), limit=PAGE, only=changed
                )
                violations += found

    async def _find_orphans(self, kind: str, violations: list[Problem]) -> int:
        total, after = 0, 0 if kind == "transaction" else ""
        last: Any = after
        while last is not None:
            count, found, last = await self._db.read(
                ledger_checks.count_and_find_orphans, kind, after=last, limit=ORPHANS_PAGE
            )
            total += count
            looked_at(f"{kind} rows", count)
            violations += found
        return total
