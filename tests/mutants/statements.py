"""Guards of the import of statements, removed one at a time: see runner."""

from __future__ import annotations

from functools import partial

from tests.mutants.runner import Edit, Mutant

_SO_FAR = "test_statements_so_far.py"
_READING = "test_statement_reading.py"


def _mutant(name: str, test: str, file: str, old: str, new: str) -> Mutant:
    return Mutant(name, test, (Edit(f"payment_rpc/{file}", old, new),))


_imports = partial(_mutant, file="usecases/statement_imports.py")

MUTANTS = [
    _imports(
        "what does not agree on a day that lasts is not filed",
        f"{_SO_FAR}::test_what_does_not_agree_yet_is_filed_when_the_day_is_complete_and_once[sqlite]",
        old="if running.is_complete: await self._file(tx, running, found)",
        new="await self._file(tx, running, found)",
    ),
    _imports(
        "what a day that lasts does not list is not missing",
        f"{_SO_FAR}::test_what_a_day_has_so_far_is_matched_and_the_whole_day_completes_it[sqlite]",
        old="await self._file_missing(running, channel, matching) await",
        new="pass\n            await self._file_missing(running, channel, matching)\n            await",
    ),
    _imports(
        "a day is complete when its statement is",
        f"{_SO_FAR}::test_a_day_counts_as_complete_when_its_statement_is_and_not_when_it_is_over[sqlite]",
        old="complete_at = day.bounds(wanted)[1] + ready",
        new="complete_at = day.bounds(wanted)[1] + 0 * ready",
    ),
    _imports(
        "a process that ends waits for no file",
        f"{_SO_FAR}::test_a_process_that_ends_leaves_a_file_that_is_being_fetched_to_the_next[sqlite]",
        old="if not fetching.done():",
        new="if False:",
    ),
    _mutant(
        "a statement is read into its import once",
        f"{_SO_FAR}::test_of_two_processes_that_fetch_one_statement_the_first_counts[sqlite]",
        "store/statement_imports.py",
        old='_I.state == "FETCHING") .values( state="RUNNING",',
        new='True) .values( state="RUNNING",',
    ),
    _imports(
        "lines of a file that was not stored are not compared",
        f"{_SO_FAR}::test_lines_of_a_file_that_was_not_stored_are_not_compared[sqlite]",
        old="reading if is_stored else None",
        new="reading",
    ),
    _imports(
        "an import whose channel is gone fails",
        f"{_SO_FAR}::test_an_import_whose_channel_cannot_be_opened_any_more_fails_and_blocks_no_other[sqlite-0]",
        old="except (ChannelUnavailable, ChannelNotSupported, StatementUnreadable)",
        new="except (ChannelUnavailable, StatementUnreadable)",
    ),
    _imports(
        "a file is read as it was when it was stored",
        f"{_SO_FAR}::test_a_file_that_another_version_reads_otherwise_fails_its_import[sqlite]",
        old="if reading.index.lines != running.lines:",
        new="if False:",
    ),
    _mutant(
        "a refund that came back does not stand for the refund",
        "test_reconciliation_boundaries.py::test_a_refund_that_came_back_is_missing_when_its_going_out_is",
        "domain/reconciliation.py",
        old="if refund.state is RefundState.REVERSED else self._index.lists_refund",
        new="if False else self._index.lists_refund",
    ),
    _mutant(
        "an account without a log is found",
        "test_account_audit.py::test_accounts_that_were_put_there_by_hand_are_found[sqlite]",
        "audit/checks.py",
        old="UNLOGGED,\n        *messages",
        new="*messages",
    ),
    _mutant(
        "an import under way is not begun again",
        f"{_SO_FAR}::test_an_import_that_is_under_way_is_the_one_that_is_asked_for[sqlite]",
        "store/statement_imports.py",
        old="if row is not None:\n        return _import(row)\n    await tx.execute",
        new="await tx.execute",
    ),
    _mutant(
        "lines that were not compared are read again",
        f"{_READING}::test_lines_come_from_wherever_the_comparison_stands",
        "usecases/statement_reading.py",
        old="if start < self._next:",
        new="if False:",
    ),
    _mutant(
        "a line that says the same as another one is a duplicate",
        f"{_READING}::test_the_first_of_equal_lines_is_known_wherever_reading_begins",
        "domain/statement_index.py",
        old="if content in self._contents:",
        new="if False:",
    ),
    _mutant(
        "an account is what its log says",
        "test_account_audit.py::test_an_account_that_was_changed_by_hand_is_found[sqlite-changes0-not what its log says]",
        "audit/accounts.py",
        old="if logged(account) != row.after_json:",
        new="if False:",
    ),
    _mutant(
        "an account is of the merchant of its log",
        "test_account_audit.py::test_an_account_that_was_changed_by_hand_is_found[sqlite-changes4-it is of thief, and its log says of mall]",
        "audit/accounts.py",
        old="if account.merchant_id != row.of:",
        new="if False:",
    ),
    _mutant(
        "an account has the last version of its log",
        "test_account_audit.py::test_an_account_that_was_changed_by_hand_is_found[sqlite-changes5-version 2, and its log ends with 1]",
        "audit/accounts.py",
        old="if row.version != row.logged_version:",
        new="if False:",
    ),
    _mutant(
        "a fee of a dispute is no fee of the capture",
        "test_reconciliation_boundaries.py::test_what_a_person_decides_is_no_difference_and_books_no_fee[DISPUTE]",
        "domain/reconciliation.py",
        old="if line.type is LineType.CAPTURE and capture is not None:",
        new="if capture is not None:",
    ),
    _mutant(
        "a dispute is not the line of its capture",
        "test_reconciliation_boundaries.py::test_what_a_person_decides_is_no_difference_and_books_no_fee[DISPUTE]",
        "domain/statement_index.py",
        old="isinstance(entry, BadLine) or entry.type is LineType.CAPTURE:",
        new="True:",
    ),
]
