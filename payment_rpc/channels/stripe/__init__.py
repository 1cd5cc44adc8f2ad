"""Stripe: PaymentIntents with automatic and manual capture, hosted Checkout Sessions, refunds,
disputes, and statements made of balance transactions.

`ref` is the PaymentIntent (`pi_…`), or the Checkout Session (`cs_…`) of a hosted page, because only
the session can be closed there. `trade_no` is the PaymentIntent in both cases: refunds are asked by
it, disputes and rows of the balance name it, and it is known before a charge is.
"""
