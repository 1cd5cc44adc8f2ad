"""LedgerService: verifies the books."""

from __future__ import annotations

from typing import Any

from paymesh.payment.v1 import ledger_pb2, ledger_pb2_grpc

from payment_rpc.usecases.ledger_verification import LedgerVerification


class LedgerServicer(ledger_pb2_grpc.LedgerServiceServicer):
    """Verifies the books."""

    def __init__(self, verification: LedgerVerification) -> None:
        self._verification = verification

    async def VerifyLedger(
        self, request: ledger_pb2.VerifyLedgerRequest, context: Any
    ) -> ledger_pb2.VerifyLedgerResponse:
        """Recomputes everything that must hold."""
        result = await self._verification.verify_ledger()
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
