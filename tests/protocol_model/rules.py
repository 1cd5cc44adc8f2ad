"""The guards of the protocol, each with the sentence that it stands for. A search runs with all of
them, or without some: a mutant.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace


def _rule(sentence: str) -> bool:
    kept: bool = field(default=True, metadata={"sentence": sentence})
    return kept


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Which sentences hold. Everything holds unless it was taken away with `without`."""

    # one payment at a time
    gate: bool = _rule(
        "Every insert of a payment or an attempt checks the order gate, which ClosePayment closed "
        "in its transaction."
    )
    gate_row: bool = _rule(
        "The gate row is inserted OPEN if it is absent, then locked and checked, in the "
        "transaction of the insert and before "
        "live payments are read."
    )
    live_slot: bool = _rule("One live payment per (merchant, order): the slot is unique.")
    late_blocks: bool = _rule(
        "A new payment is refused while a LATE_SUCCESS of the order awaits its answer."
    )
    resend_guard: bool = _rule(
        "An attempt is sent again in a transaction that finds the payment still PAYING."
    )
    # facts of the channel
    late_success: bool = _rule("FAILED, CLOSED -> LATE_SUCCESS on evidence of money.")
    late_from_failed: bool = _rule(
        "DECLINED, TECH_FAILED, NOT_ATTEMPTED, CLOSED -> CAPTURED (late)."
    )
    second_capture: bool = _rule(
        "A capture on a payment that has one goes back as auto:<attempt_id>."
    )
    second_in_any_state: bool = _rule(
        "So does a capture on a payment in LATE_SUCCESS, LATE_REFUNDED or CONFLICTED."
    )
    own_cap: bool = _rule(
        "The refund of a second capture is capped by its attempt alone and appears in no column "
        "of the payment."
    )
    conflict_keeps_paid: bool = _rule(
        "An amount that is not ours parks the attempt; a payment that has money keeps its state."
    )
    statement: bool = _rule(
        "What the channel captured is told to us again until it is booked, also after the attempt "
        "ended."
    )
    receipt_final: bool = _rule(
        "apply_channel_fact writes the first final answer into the receipt, whoever calls it, once."
    )
    # held money
    void_held: bool = _rule(
        "Held money of a payment that is being closed is let go at the channel."
    )
    capture_or_void: bool = _rule("Held money is not let go once its capture is intended.")
    capture_again: bool = _rule(
        "A capture whose answer was lost is sent again under its key, once its lease is over."
    )
    parts_once: bool = _rule(
        "A channel tells how much of a hold it took in all; what is booked of it is not booked "
        "again."
    )
    same_capture_key: bool = _rule("A capture that is sent again keeps its key.")
    withdraw_once: bool = _rule(
        "A capture that was refused is forgotten only if it was sent once: the first call may have "
        "taken money."
    )
    rest_ends_paid: bool = _rule(
        "A hold that ends after a part of it was taken ends with that part, not without money."
    )
    # closing
    deadline_close: bool = _rule("payment_rpc itself moves PAYING to CLOSING at the deadline.")
    cancelling_first: bool = _rule(
        "Cancel and expiry: CANCELLING is committed before ClosePayment is called."
    )
    closing_waits: bool = _rule(
        "ClosePayment answers CLOSING while a payment is open; the order stays and asks again."
    )
    already_paid: bool = _rule("ALREADY_PAID is the PAID use case.")
    precedence: bool = _rule(
        "One answer per order, by precedence: ALREADY_PAID, HELD, CLOSING, CONFLICTED, CLOSED."
    )
    # the order decides
    order_state: bool = _rule("An order is cancelled only out of CANCELLING.")
    disposition_once: bool = _rule("The disposition of a payment is decided and stored once.")
    money_decides: bool = _rule(
        "It is decided only by a snapshot in state SUCCESS or LATE_SUCCESS; any other is NOTED."
    )
    version: bool = _rule("An older version changes nothing.")
    paid_payment_id: bool = _rule(
        "PAID again is a no-op only for the payment that paid; any other gets "
        "REFUSED_PAID_BY_OTHER."
    )
    refund_of_paid_only: bool = _rule("Only a full refund of paid_payment_id changes the order.")
    release: bool = _rule("CANCELLED releases the stock, in the same transaction.")
    revive_one_tx: bool = _rule("Re-reserving and CANCELLED -> PAID are one transaction.")
    revive_whole: bool = _rule("Only a payment of which enough is left revives an order.")
    ship_guard: bool = _rule("Ship is refused while a full refund is open.")
    # between the services
    outbox_tx: bool = _rule("The outbox row is written in the transaction of the change.")
    redeliver: bool = _rule("The relay delivers until it is answered.")
    # payment_rpc carries out what the order decided
    slot_handover: bool = _rule(
        "LATE_SUCCESS takes the slot when the order took it; in that transaction any other holder "
        "gives it up."
    )
    refused_leaves_slot: bool = _rule("A refusal moves SUCCESS to LATE_SUCCESS, without the slot.")
    auto_refund: bool = _rule("On a refusal the refund auto:<payment_id> is created.")
    refund_with_refusal: bool = _rule(
        "It is created in the transaction that marks the outbox row done."
    )
    auto_rest: bool = _rule(
        "auto:<payment_id> takes captured - refunded - refund_reserved, none if 0."
    )
    auto_attention: bool = _rule(
        "From a refusal on, every refund of the payment counts as automatic: FAILED or REVERSED "
        "needs attention."
    )
    # refunds
    refund_cap: bool = _rule(
        "A refund is reserved by one conditional UPDATE: captured - refunded - refund_reserved >= "
        "amount."
    )
    same_refund_id: bool = _rule("A refund is sent under an id that never changes.")
    over_refund: bool = _rule(
        "Evidence of money out above the cap is booked to loss, not to refunded, with an "
        "attention item."
    )
    bounce_unheard: bool = _rule(
        "A bounce of a refund whose success was never heard is both: it went back and bounced."
    )
    # channels that are asked by an id of their own, or need a step of ours
    remember_guard: bool = _rule(
        "The channel's id of an attempt is remembered, and the attempt sent further, only while "
        "its payment is PAYING, it has no result and its lease runs."
    )
    not_found_judged: bool = _rule(
        "NOT_FOUND loses an attempt only if its lease was over when the channel was asked, and "
        "only if the channel's own id of it is not known."
    )
    not_found_by_kind: bool = _rule(
        "It never loses an attempt whose page works without the channel knowing it."
    )
    step_guard: bool = _rule(
        "No step of ours is begun in an attempt with a result, beside another one, or, if it is "
        "the first, while the payment is being closed."
    )
    step_intention: bool = _rule("A step of ours is counted and leased before it is taken.")
    promise_waits: bool = _rule(
        "An attempt is closed by promise only if no step was begun and its lease is over, in the "
        "transaction that closes it."
    )
    same_step_key: bool = _rule("A step of ours is repeated under the same key.")
    watched: bool = _rule(
        "An attempt that may be paid for ever is asked about after it was closed here: the message "
        "about its money may be lost."
    )
    # behind others: no end state shows one of these alone (see mutants)
    settled_once: bool = _rule("payment_rpc carries out the first disposition of a payment only.")
    auto_unique: bool = _rule("The request id auto:<payment_id> is unique.")
    lease: bool = _rule("The channel's 'not found' is UNKNOWN while the attempt's lease runs.")
    tombstone: bool = _rule(
        "After the lease the attempt id is closed at the channel, which leaves a tombstone there, "
        "and only then lost."
    )
    no_failover_on_unknown: bool = _rule(
        "Only NOT_ATTEMPTED and TECH_FAILED may fail over; UNKNOWN is queried."
    )
    same_attempt_id: bool = _rule("An attempt is sent again under the same attempt id.")

    def without(self, *names: str) -> Rules:
        """These rules less some, by name."""
        return replace(self, **dict.fromkeys(names, False))


ALL = Rules()
SENTENCES: dict[str, str] = {rule.name: rule.metadata["sentence"] for rule in fields(Rules)}
