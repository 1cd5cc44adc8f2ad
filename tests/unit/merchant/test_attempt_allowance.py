"""How many mails and looks at links an hour has room for."""

from __future__ import annotations

from datetime import timedelta

from merchant_rpc.domain.attempt_allowance import LINKS, MAILS, Allowance
from merchant_rpc.domain.login_delay import Attempts, no_attempts
from tests.support.fakes import EPOCH

NONE = timedelta(0)


def all_taken(allowance: Allowance) -> Attempts:
    """After as many as there are at once."""
    attempts = no_attempts("mailbox", EPOCH)
    for _ in range(allowance.burst):
        assert allowance.wait(attempts, EPOCH) == NONE
        attempts = allowance.taken(attempts, EPOCH)
    return attempts


def test_so_many_at_once_then_one_per_interval() -> None:
    for allowance, interval in ((MAILS, timedelta(minutes=12)), (LINKS, timedelta(minutes=2))):
        attempts = all_taken(allowance)
        assert allowance.wait(attempts, EPOCH) == interval
        assert allowance.wait(attempts, EPOCH + interval) == NONE
        after = allowance.taken(attempts, EPOCH + interval)
        assert allowance.wait(after, EPOCH + interval) == interval


def test_an_hour_later_all_of_it_is_there_again() -> None:
    attempts, later = all_taken(MAILS), EPOCH + timedelta(hours=1)
    for _ in range(MAILS.burst):
        assert MAILS.wait(attempts, later) == NONE
        attempts = MAILS.taken(attempts, later)
    assert MAILS.wait(attempts, later) > NONE


def test_a_clock_that_was_set_back_costs_an_interval() -> None:
    attempts = all_taken(MAILS)
    assert MAILS.wait(attempts, EPOCH - timedelta(days=30)) == timedelta(minutes=12)
