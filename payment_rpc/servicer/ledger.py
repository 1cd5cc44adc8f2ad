"""LedgerService: proves the books."""

from __future__ import annotations

from typing import Any

from paymesh.payment.v1 import ledger_pb2, ledger_pb2_grpc

from payment_rpc.usecases.verifying import Verifying


class LedgerServicer(ledger_pb2_grpc.LedgerServiceServicer):
    """Proves the books."""

    def __init__(self, verifying: Verifying) -> None:
        self._verifying = verifying

    async def VerifyLedger(
        self, request: ledger_pb2.VerifyLedgerRequest, context: Any
    ) -> ledger_pb2.VerifyLedgerResponse:
        """Recomputes everything that must hold."""
        result = await self._verifying.verify()
        return ledger_pb2.VerifyLedgerResponse(
            violations=[
                ledger_pb2.LedgerViolation(
                    invariant=problem.invariant, subject=problem.subject, detail=problem.detail
                )
                for problem in result.violations
            ],
            transactions=result.transactions,
            postings=result.postings,
        )
