"""A merchant and the steps that it may take. MERCHANT_STATES declares every step; the store writes
nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from merchant_rpc.domain.errors import MerchantStateInvalid, MerchantSuspended
from mesh.state_machine import Described, StateMachine

TEST_SUFFIX = "_test"


class MerchantState(Described):
    """Whether a merchant may sell."""

    PENDING_EMAIL = "PENDING_EMAIL", "the address is not confirmed yet"
    TEST_ONLY = "TEST_ONLY", "only its test sibling may take money, and only from the sandbox"
    LIVE = "LIVE", "takes real money"
    SUSPENDED = "SUSPENDED", "no new payments, orders and keys; money can go back"
    CLOSED = "CLOSED", "ended for ever"


class Verb(Described):
    """What can happen to a merchant."""

    CONFIRM = "CONFIRM", "the owner used the link of the mail"
    ACTIVATE = "ACTIVATE", "an administrator lets it take real money"
    SUSPEND = "SUSPEND", "an administrator stops new payments"
    RESUME_TEST = "RESUME_TEST", "a suspension ends; it was TEST_ONLY before"
    RESUME_LIVE = "RESUME_LIVE", "a suspension ends; it was LIVE before"
    CLOSE = "CLOSE", "an administrator ends it"


MERCHANT_STATES = StateMachine(
    "Merchant",
    MerchantState,
    (
        (MerchantState.PENDING_EMAIL, Verb.CONFIRM, MerchantState.TEST_ONLY),
        (MerchantState.TEST_ONLY, Verb.ACTIVATE, MerchantState.LIVE),
        (MerchantState.TEST_ONLY, Verb.SUSPEND, MerchantState.SUSPENDED),
        (MerchantState.LIVE, Verb.SUSPEND, MerchantState.SUSPENDED),
        (MerchantState.SUSPENDED, Verb.RESUME_TEST, MerchantState.TEST_ONLY),
        (MerchantState.SUSPENDED, Verb.RESUME_LIVE, MerchantState.LIVE),
        (MerchantState.TEST_ONLY, Verb.CLOSE, MerchantState.CLOSED),
        (MerchantState.LIVE, Verb.CLOSE, MerchantState.CLOSED),
        (MerchantState.SUSPENDED, Verb.CLOSE, MerchantState.CLOSED),
    ),
    introduction="A shop. Its test sibling is suspended, resumed and closed with it, and never "
    "becomes LIVE. A sign-up that nobody confirms is deleted after a day.",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Merchant:
    """A shop, or the test sibling of one."""

    merchant_id: str
    name: str
    state: MerchantState
    state_before: MerchantState | None  # while it is SUSPENDED: what it was
    is_test: bool
    country: str  # ISO 3166-1 alpha-2; "" when not known
    time_zone: str  # IANA name
    default_currency: str
    contact_email: str = field(repr=False)
    version: int  # raised by every change
    settings_version: int  # the one in force; 0: nothing was ever set
    created_at: datetime
    updated_at: datetime

    @property
    def test_merchant_id(self) -> str:
        """Its test sibling; "" for the sibling itself."""
        return "" if self.is_test else sibling_id(self.merchant_id)

    @property
    def takes_nothing_new(self) -> bool:
        """Whether new payments, orders and keys are refused."""
        return self.state in {MerchantState.SUSPENDED, MerchantState.CLOSED}

    def step(self, verb: Verb, *, now: datetime) -> Merchant:
        """The merchant after a step.

        Raises:
            MerchantStateInvalid: the table has no such step.
        """
        return replace(
            self,
            state=next_state(self.state, verb),
            state_before=self.state if verb is Verb.SUSPEND else None,
            version=self.version + 1,
            updated_at=now,
        )

    def resume(self, *, now: datetime) -> Merchant:
        """The merchant after its suspension: what it was before.

        Raises:
            MerchantStateInvalid: it is not suspended.
        """
        was_live = self.state_before is MerchantState.LIVE
        return self.step(Verb.RESUME_LIVE if was_live else Verb.RESUME_TEST, now=now)

    def check_takes_new(self) -> None:
        """Raises MerchantSuspended when new payments, orders and keys are refused."""
        if self.takes_nothing_new:
            raise MerchantSuspended(f"the merchant is {self.state}", state=self.state)


def next_state(state: MerchantState, verb: Verb) -> MerchantState:
    """The state after a step.

    Raises:
        MerchantStateInvalid: the table has no such step.
    """
    target = MERCHANT_STATES.after(state, verb)
    if target is None:
        raise MerchantStateInvalid(
            f"{verb} is not possible in state {state}", state=state, verb=verb
        )
    return target


def sibling_id(merchant_id: str) -> str:
    """The test sibling of a merchant."""
    return merchant_id + TEST_SUFFIX


def base_id(merchant_id: str) -> str:
    """The merchant itself, of it or of its test sibling. No merchant's own id ends with the
    suffix.
    """
    return merchant_id.removesuffix(TEST_SUFFIX)


def is_time_zone(name: str) -> bool:
    """Whether there is a time zone of this IANA name."""
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return False
    return True
