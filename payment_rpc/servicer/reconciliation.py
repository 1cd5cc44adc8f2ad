"""ReconciliationService: statements, differences, decisions."""

from __future__ import annotations

from typing import Any

from paymesh.payment.v1 import reconciliation_pb2, reconciliation_pb2_grpc, refund_pb2

from mesh.call import current_caller
from mesh.paging import PageTokens
from mesh.times import timestamp
from payment_rpc.domain.difference import Difference
from payment_rpc.store.statement_imports import StatementImport
from payment_rpc.usecases.differences import Differences, ResolveDifference
from payment_rpc.usecases.statement_imports import StatementImports


class ReconciliationServicer(reconciliation_pb2_grpc.ReconciliationServiceServicer):
    """Compares, shows and settles differences."""

    def __init__(
        self,
        *,
        statement_imports: StatementImports,
        differences: Differences,
        page_tokens: PageTokens,
    ) -> None:
        self._statement_imports = statement_imports
        self._differences = differences
        self._page_tokens = page_tokens

    async def ImportStatement(
        self, request: reconciliation_pb2.ImportStatementRequest, context: Any
    ) -> reconciliation_pb2.ImportStatementResponse:
        """Fetches a statement and begins to compare it."""
        found = await self._statement_imports.import_statement(
            request.channel, request.date, so_far=request.so_far
        )
        return reconciliation_pb2.ImportStatementResponse(statement_import=import_message(found))

    async def GetStatementImport(
        self, request: reconciliation_pb2.GetStatementImportRequest, context: Any
    ) -> reconciliation_pb2.GetStatementImportResponse:
        """Shows how far an import is."""
        found = await self._statement_imports.get_statement_import(request.import_id)
        return reconciliation_pb2.GetStatementImportResponse(statement_import=import_message(found))

    async def ListDifferences(
        self, request: reconciliation_pb2.ListDifferencesRequest, context: Any
    ) -> reconciliation_pb2.ListDifferencesResponse:
        """Lists differences, oldest first."""
        scope = {"import_id": request.import_id, "state": request.state}
        page, token = await self._page_tokens.page(
            lambda start, limit: self._differences.list_differences(
                **scope, after=str(start[0]) if start else "", limit=limit
            ),
            list_name="ListDifferences",
            filter=scope,
            types=(str,),
            size=request.page_size,
            token=request.page_token,
            key=lambda difference: (difference.difference_id,),
        )
        return reconciliation_pb2.ListDifferencesResponse(
            differences=[difference_message(difference) for difference in page],
            next_page_token=token,
        )

    async def ResolveDifference(
        self, request: reconciliation_pb2.ResolveDifferenceRequest, context: Any
    ) -> reconciliation_pb2.ResolveDifferenceResponse:
        """Says what an action would do, or does it."""
        resolution = await self._differences.resolve_difference(
            ResolveDifference(
                difference_id=request.difference_id,
                action=request.action,
                reason=request.reason,
                execute=request.execute,
            ),
            current_caller(),
        )
        return reconciliation_pb2.ResolveDifferenceResponse(
            difference=difference_message(resolution.difference),
            effect=resolution.effect,
            postings=[
                refund_pb2.Posting(
                    account=posting.account,
                    side=posting.side,
                    amount=posting.amount.format(),
                    currency=posting.amount.currency,
                )
                for posting in resolution.postings
            ],
        )


def import_message(found: StatementImport) -> reconciliation_pb2.StatementImport:
    """An import as callers see it."""
    return reconciliation_pb2.StatementImport(
        import_id=found.import_id,
        channel=found.channel,
        date=found.date,
        state=reconciliation_pb2.ImportState.Value(f"IMPORT_STATE_{found.state}"),
        content_hash=found.content_hash,
        lines=found.lines,
        processed=found.processed,
        matched=found.matched,
        so_far=not found.is_complete,
        differences=found.differences,
        line_errors=found.line_errors,
        error=found.error,
        created_at=timestamp(found.created_at),
        finished_at=timestamp(found.finished_at),
    )


def difference_message(difference: Difference) -> reconciliation_pb2.Difference:
    """A difference as callers see it. The currency is the statement's where it has a line; the
    reason names both when they differ.
    """
    finding = difference.finding
    stated, booked = finding.statement_amount, finding.book_amount
    either = stated or booked
    return reconciliation_pb2.Difference(
        difference_id=difference.difference_id,
        import_id=difference.import_id,
        kind=finding.kind,
        reason=finding.reason,
        default_action=finding.default_action,
        state=difference.state,
        payment_id=finding.payment_id,
        refund_id=finding.refund_id,
        channel_trade_no=finding.channel_trade_no,
        statement_amount=stated.format() if stated else "",
        book_amount=booked.format() if booked else "",
        currency=either.currency if either else "",
        action=difference.action,
        actor=difference.actor,
        resolution_reason=difference.resolution_reason,
        created_at=timestamp(difference.created_at),
        resolved_at=timestamp(difference.resolved_at),
    )
