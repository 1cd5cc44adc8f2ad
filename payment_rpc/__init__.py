"""The payment service. Where each RPC is implemented, below `usecases/`:

| RPC | method |
|---|---|
| Charge, CreatePayment | `payments.Payments.charge`, `.create_payment` |
| TopUp | `payments.Payments.top_up` |
| CancelPayment, ClosePayment | `cancel.Cancellation.cancel_payment`, `.close_payment` |
| CapturePayment, VoidPayment | `captures.Captures.capture_payment`, `.void_payment` |
| CancelByIdempotencyKey | `cancel.Cancellation.cancel_by_idempotency_key` |
| ResolveConflict | `conflicts.Conflicts.resolve_conflict` |
| GetPayment, GetPaymentByOrderId, ListPayments | `queries.PaymentQueries`, same names |
| GetWallet, ListWalletEntries | `queries.WalletQueries`, same names |
| CreateRefund, PreviewRefund, GetRefund, ListRefunds | `refunds.Refunds`, same names |
| HandleCallback | `callbacks.Callbacks.handle_callback` |
| MockCallback, GenerateSignature | `mock_callbacks.MockCallbacks`, same names |
| ImportStatement, GetStatementImport | `statement_imports.StatementImports`, same names |
| ListDifferences, ResolveDifference | `differences.Differences`, same names |
| VerifyLedger | `ledger_verification.LedgerVerification.verify_ledger` |

Each message is translated in `servicer/`. A payment runs through `payments` (request, order),
`payment_start` (tx1), `payment_completion` with `payment_sending` (channel call), `channel_results`
(tx2) and `order_answers` (the order's disposition, tx3), a refund through `refunds`, `refund_start`
(tx1) and `refund_results` (tx2). The workers (`workers.py`) run `polling`, `refunds`,
`statement_imports`, `mock_callbacks` and `future_rows`.
"""
