"""What holds for keys that merchant_rpc remembers, removed piece by piece."""

from __future__ import annotations

from tests.mutants.runner import Edit, Mutant

_KNOWN = "merchant_rpc/usecases/known_keys.py"
_TESTS = "test_known_keys.py"

MUTANTS = [
    Mutant(
        "a remembered key is held against what changed",
        f"{_TESTS}::test_a_merchant_that_changes_twice_is_seen_both_times[sqlite]",
        (
            Edit(
                _KNOWN,
                "            await self._forget_what_changed(moment)\n",
                "            self._checked = moment\n",
            ),
        ),
    ),
    Mutant(
        "no remembered key is used without asking what changed",
        f"{_TESTS}::test_nothing_is_open_while_the_database_is_away[sqlite]",
        (Edit(_KNOWN, "if moment - self._checked < CHECK_SECONDS:", "if True:"),),
    ),
    Mutant(
        "a key that was revoked elsewhere is forgotten",
        f"{_TESTS}::test_a_key_that_is_revoked_elsewhere_is_refused_a_second_later[sqlite]",
        (Edit(_KNOWN, "or known.key.key.key_id in changed.key_ids", ""),),
    ),
    Mutant(
        "remembered keys have an end",
        f"{_TESTS}::test_so_many_keys_are_remembered_and_the_one_read_first_goes[sqlite]",
        (Edit(_KNOWN, "if len(self._known) > KEYS_MAX:", "if False:"),),
    ),
    Mutant(
        "a key that was given an end is asked for again",
        f"{_TESTS}::test_a_key_that_another_one_takes_over_from_ends_when_that_was_said[sqlite]",
        (
            Edit(
                "merchant_rpc/usecases/api_keys.py",
                "await merchants.mark_changed(tx, merchant_id=old.merchant_id, now=now)",
                "pass",
            ),
        ),
    ),
    Mutant(
        "a token ends by what was known of its key",
        "test_key_exchanges.py::test_every_server_believes_a_token_for_a_minute_at_most[sqlite]",
        (
            Edit(
                "merchant_rpc/usecases/key_exchanges.py",
                "ends = known_at.replace(microsecond=0)",
                "ends = (now + timedelta(seconds=0.1)).replace(microsecond=0)",
            ),
        ),
    ),
]
