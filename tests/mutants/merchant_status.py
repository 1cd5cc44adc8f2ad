"""What holds for merchants that may not sell, removed piece by piece."""

from __future__ import annotations

from tests.mutants.runner import Edit, Mutant

MUTANTS = [
    Mutant(
        "nobody is let into a flash sale of a suspended merchant",
        "test_seckill_merchant_status.py::test_nobody_is_let_in[sqlite-suspended]",
        (
            Edit(
                "seckill_rpc/usecases/admission/seckill_action.py",
                "if status is not MerchantStatus.OPEN:",
                "if False:",
            ),
        ),
    ),
    Mutant(
        "an order of a flash sale of a suspended merchant is not written",
        "test_order_merchant_terms.py::"
        "test_no_new_order_of_a_flash_sale_is_written_and_an_old_one_stays"
        "[sqlite-SUSPENDED-MerchantSuspended]",
        (
            Edit(
                "order_rpc/usecases/allocations.py",
                "terms[each.merchant_id].require_open()",
                "pass",
            ),
        ),
    ),
    Mutant(
        "a refund in other units is the same request",
        "test_refunds.py::test_a_repetition_in_other_units_is_the_same_refund[sqlite-key]",
        (
            Edit(
                "payment_rpc/usecases/refund_start.py",
                "amount=command.amount.spelled_in(payment.amount.currency)",
                "amount=command.amount",
            ),
        ),
    ),
    Mutant(
        "a refund is said in one kind of units",
        "test_money.py::test_an_amount_is_sent_in_one_kind_of_units",
        (
            Edit(
                "mesh/money.py",
                "        _require_one_of(text, minor, field=field)\n        return cls",
                "        return cls",
            ),
        ),
    ),
]
