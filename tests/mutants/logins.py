"""What protects the log-in of people, removed piece by piece. The name of a mutant is the sentence
that it breaks.
"""

from __future__ import annotations

from functools import partial

from tests.mutants.runner import Edit, Mutant


def _mutant(
    path: str, sentence: str, *, old: str, new: str, fails: str, behind: Edit | None = None
) -> Mutant:
    edit = Edit(f"merchant_rpc/{path}", old, new)
    return Mutant(sentence, fails, (edit, *(() if behind is None else (behind,))))


def _test(module: str, name: str, *, on: str = "sqlite") -> str:
    return f"test_{module}.py::{name}" + (f"[{on}]" if on else "")


_passwords = partial(_mutant, "passwords.py")
_key = partial(_mutant, "people_key.py")
_oidc = partial(_mutant, "oidc.py")
_delays = partial(_mutant, "domain/login_delay.py")
_session = partial(_mutant, "domain/session.py")
_totp = partial(_mutant, "domain/totp.py")
_people = partial(_mutant, "store/people.py")
_attempts = partial(_mutant, "usecases/login_attempts.py")
_logins = partial(_mutant, "usecases/logins.py")
_sessions = partial(_mutant, "usecases/sessions.py")
_factor = partial(_mutant, "usecases/second_factor.py")
_resets = partial(_mutant, "usecases/password_resets.py")
_oidc_logins = partial(_mutant, "usecases/oidc_logins.py")
_operators = partial(_mutant, "usecases/operators.py")
_limits = partial(_mutant, "usecases/attempt_limits.py")

_in_passwords = partial(_test, "merchant_passwords", on="")
_in_domain = partial(_test, "login_domain", on="")
_in_logins = partial(_test, "logins")
_in_sessions = partial(_test, "sessions")
_in_factor = partial(_test, "second_factor")
_in_oidc = partial(_test, "oidc_logins")
_in_sign_up = partial(_test, "sign_up")

MUTANTS = [
    _passwords(
        "few hashes wait",
        old="if not self._places.acquire(blocking=False):",
        new="if self._places.acquire(blocking=False) is None:",
        fails=_in_passwords("test_two_run_one_waits_and_the_next_is_told_to_come_again"),
    ),
    _passwords(
        "a place is free when the hash has ended",
        old="return await asyncio.wrap_future(future)",
        new="""try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            self._places.release()
            raise""",
        fails=_in_passwords(
            "test_a_call_that_stops_waiting_leaves_its_place_only_when_its_hash_has_ended"
        ),
    ),
    _passwords(
        "without an account the work is the same",
        old="fits = await self._in_thread(",
        new="fits = bool(password_hash) and await self._in_thread(",
        fails=_in_passwords(
            "test_without_an_account_no_password_fits_and_a_hash_is_computed_all_the_same"
        ),
    ),
    _passwords(
        "the password of nobody lets nobody in",
        old="return fits and bool(password_hash)",
        new="return fits",
        fails=_in_passwords(
            "test_without_an_account_no_password_fits_and_a_hash_is_computed_all_the_same"
        ),
    ),
    _key(
        "a secret is its owner's",
        old=".decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], owner.encode())",
        new=".decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], b'M1')",
        fails=_in_domain("test_a_secret_is_read_back_for_its_owner_and_with_its_key_only"),
    ),
    _delays(
        "yesterday's attempts are forgotten",
        old="failures = 1 if self.is_forgotten(now) else self.failures + 1",
        new="failures = self.failures + 1",
        fails=_in_domain("test_attempts_of_yesterday_do_not_count"),
    ),
    _delays(
        "a wait has a longest",
        old="return min(FIRST_DELAY * (1 << doublings), LONGEST_DELAY)",
        new="return FIRST_DELAY * (1 << doublings)",
        fails=_in_logins("test_after_five_wrong_ones_each_waits_twice_as_long_and_never_for_ever"),
    ),
    Mutant(
        "a network of IPv6 is one",
        _in_logins("test_the_addresses_of_one_ipv6_network_are_one"),
        (
            Edit(
                "mesh/limits.py",
                "str(ipaddress.ip_network((parsed, _SITE_BITS), strict=False))",
                "str(parsed)",
            ),
        ),
    ),
    _attempts(
        "who has to wait is not looked at",
        old="if wait > 0:",
        new="if wait < 0:",
        fails=_in_logins("test_after_five_wrong_ones_each_waits_twice_as_long_and_never_for_ever"),
    ),
    _attempts(
        "an account of one's own does not free an address",
        old="fewer = attempts.taken_back(now)",
        new="fewer = None",
        fails=_in_logins("test_an_account_of_ones_own_does_not_free_an_address"),
    ),
    _logins(
        "attempts of an account count from everywhere",
        old="await self._attempts.count(tx, (begun.account, begun.address))",
        new="await self._attempts.count(tx, (begun.address,))",
        fails=_in_logins("test_a_thousand_wrong_passwords_of_one_account_hold_up_nobody_else"),
    ),
    _logins(
        "attempts of an address count for all accounts",
        old="await self._attempts.count(tx, (begun.account, begun.address))",
        new="await self._attempts.count(tx, (begun.account,))",
        fails=_in_logins("test_the_addresses_of_one_ipv6_network_are_one"),
    ),
    _logins(
        "a known address is not held up by others",
        old="if is_known",
        new="if is_known is None",
        fails=_in_logins(
            "test_who_logged_in_from_an_address_before_is_not_held_up_by_others_attempts"
        ),
    ),
    _logins(
        "who is disabled does not log in",
        old="if not fits or person is None or not person.may_log_in or known_hash is None:",
        new="if not fits or person is None or known_hash is None:",
        fails=_in_logins("test_nobody_is_told_what_was_wrong"),
        behind=Edit(
            "merchant_rpc/usecases/logins.py",
            "or not person.may_log_in or person.password_hash != checked.password_hash",
            "",
        ),
    ),
    _logins(
        "a password counts as it is when the session begins",
        old="or person.password_hash != checked.password_hash",
        new="",
        fails=_in_logins("test_a_password_that_was_changed_meanwhile_is_the_old_one"),
    ),
    _logins(
        "an enrolled person needs a code",
        old="if person.totp_secret is not None:",
        new="if person.totp_secret is not None and command.code:",
        fails=_in_logins("test_a_code_is_asked_for_only_after_the_right_password"),
    ),
    _logins(
        "the code of the app has to be right",
        old="if not await self._second_factor.use(tx, person, command.code):",
        new="if await self._second_factor.use(tx, person, command.code) is None:",
        fails=_in_logins("test_wrong_codes_wait_like_wrong_passwords"),
    ),
    _totp(
        "a used step is used",
        old="if fitting is None or (used_step is not None and fitting <= used_step):",
        new="if fitting is None:",
        fails=_in_domain("test_which_step_a_code_may_be_of") + "[59839200-59839200-False]",
    ),
    _people(
        "a recovery code is one log-in",
        old="_R.code_digest == digest, _R.used_at.is_(None)",
        new="_R.code_digest == digest",
        fails=_in_logins("test_a_recovery_code_is_one_log_in_however_it_is_typed"),
    ),
    _people(
        "a recovery code is of one person",
        old="_R.member_id == member_id, _R.code_digest == digest",
        new="_R.code_digest == digest",
        fails=_in_logins("test_a_recovery_code_of_somebody_else_is_none"),
        behind=Edit("merchant_rpc/domain/totp.py", 'f"{member_id}|{plain}"', "plain"),
    ),
    _session(
        "a session that is not used ends",
        old="return self.revoked_at is None and now < self.idle_expires_at",
        new="return self.revoked_at is None",
        fails=_in_sessions("test_a_session_that_is_not_used_ends_after_half_an_hour"),
    ),
    _session(
        "a session ends after twelve hours",
        old="idle_expires_at=min(now + IDLE, self.expires_at)",
        new="idle_expires_at=now + IDLE, expires_at=now + ABSOLUTE",
        fails=_in_sessions("test_a_session_ends_after_twelve_hours_however_it_is_used"),
    ),
    _session(
        "an old token is somebody with a copy",
        old="return Use.END",
        new="return Use.REFUSE",
        fails=_in_sessions("test_an_old_refresh_token_ends_the_session"),
    ),
    _session(
        "grace is short",
        old="if rotation == self.rotation - 1 and now - self.rotated_at <= GRACE:",
        new="if rotation == self.rotation - 1:",
        fails=_in_sessions("test_an_old_refresh_token_ends_the_session"),
    ),
    _session(
        "two tabs refresh at once",
        old="if rotation == self.rotation - 1 and now - self.rotated_at <= GRACE:",
        new="if rotation == 0:",
        fails=_in_sessions("test_two_refreshes_at_once_go_on_with_one_token"),
    ),
    _session(
        "a token is for a merchant of the person",
        old="if one.merchant_id == base_id(wanted):",
        new="if one.merchant_id:",
        fails=_in_domain("test_it_is_never_for_a_merchant_of_others") + "[other]",
    ),
    _sessions(
        "a forged token is none",
        old="if not self._key.is_code(token.code, text):",
        new="if not token.code:",
        fails=_in_sessions("test_who_reads_the_database_can_make_no_token"),
    ),
    _sessions(
        "who is disabled goes on no longer",
        old="if use is Use.REFUSE or person is None or not person.may_log_in:",
        new="if use is Use.REFUSE or person is None:",
        fails=_in_sessions("test_a_person_who_was_disabled_goes_on_no_longer"),
    ),
    _factor(
        "only people who logged in have a second factor",
        old="if caller.subject.startswith(prefix) and caller.session_id:",
        new="if caller.subject.startswith(prefix):",
        fails=_test(
            "sessions",
            "test_only_a_person_who_logged_in_here_has_sessions_and_a_second_factor",
            on="sqlite-caller4",
        ),
    ),
    _factor(
        "a second enrolment does not replace the first",
        old="if person.totp_secret is not None:\n            raise TotpAlreadyEnrolled\n        secret",
        new="secret",
        fails=_in_factor("test_a_second_enrolment_needs_the_end_of_the_first"),
        behind=Edit(
            "merchant_rpc/usecases/second_factor.py",
            "if person is None or person.totp_secret is not None:",
            "if person is None:",
        ),
    ),
    _factor(
        "enrolling needs the password",
        old="if person is None or not person.may_log_in or not fits:",
        new="if person is None or not person.may_log_in:",
        fails=_in_factor("test_enrolling_and_ending_need_the_password_and_wrong_ones_wait"),
    ),
    _factor(
        "ending needs a code",
        old="or not await self.use(tx, person, code)",
        new="",
        fails=_in_factor("test_ending_needs_a_code_and_wrong_ones_wait"),
    ),
    _resets(
        "a new password ends every session",
        old="await sessions.revoke_all(tx, member_id=person.member_id, now=now)",
        new="",
        fails=_in_factor("test_a_new_password_ends_every_session_and_the_old_password"),
    ),
    _resets(
        "a link is looked at before a hash is made",
        old="await self._db.read(self._links.peek, LinkKind.PASSWORD_RESET, command.token)",
        new="",
        fails=_in_factor("test_links_cannot_be_tried_out_and_cost_no_hash"),
    ),
    _resets(
        "nothing is written where nothing sends mail",
        old="self._mail.check()",
        new="",
        fails=_in_factor("test_without_mail_nothing_is_written"),
    ),
    _resets(
        "mails to one address wait",
        old="(of_mail_to(digest), of_mail_from(client_address))",
        new="(of_mail_from(client_address),)",
        fails=_in_factor("test_mails_are_not_sent_as_often_as_somebody_asks"),
    ),
    _resets(
        "who is disabled gets no new password",
        old="if person is None or not person.may_log_in:\n            raise LinkInvalid",
        new="if person is None:\n            raise LinkInvalid",
        fails=_in_factor("test_a_person_who_was_disabled_meanwhile_gets_no_password"),
    ),
    _oidc_logins(
        "a redirect belongs to the browser that began",
        old='if not hmac.compare_digest(_derived(token, "state"), command.state):',
        new="if not command.state:",
        fails=_in_oidc("test_a_login_is_finished_once_by_the_browser_that_began_it"),
    ),
    _oidc_logins(
        "an account has one name at the provider",
        old="return person if is_first else None",
        new="return person",
        fails=_in_oidc("test_who_has_another_name_there_does_not_take_an_account_over"),
    ),
    _oidc(
        "an address counts when it was verified",
        old='email if is_verified and isinstance(email, str) else ""',
        new='email if isinstance(email, str) else ""',
        fails=_test(
            "oidc_logins", "test_whom_we_do_not_know_is_not_let_in", on="sqlite-claims0-ACTIVE"
        ),
    ),
    _oidc(
        "no redirect and no URL leads elsewhere",
        old="require_safe(each)",
        new="pass",
        fails=_test(
            "oidc_logins",
            "test_a_provider_that_leads_elsewhere_is_not_followed",
            on="sqlite-change1",
        ),
    ),
    _oidc(
        "a provider's answer is small",
        old="if len(body) > BODY_BYTES_MAX:",
        new="if len(body) < 0:",
        fails="test_oidc_logins.py::test_a_long_answer_is_not_read_to_its_end[sqlite]",
    ),
    _operators(
        "a member becomes an operator with the password that was checked",
        old="or person.password_hash != password_hash",
        new="",
        fails=_test("cli_operator", "test_a_member_who_becomes_an_operator_keeps_his_password"),
    ),
    _factor(
        "codes of an app are not tried out before they count",
        old="""        await self._db.run(self._attempts.count, (of_person(member_id),))
        await self._db.run(self._confirm,""",
        new="""        await self._db.run(self._confirm,""",
        fails=_in_factor("test_codes_are_not_tried_out_before_they_count"),
    ),
    _oidc_logins(
        "a provider does not stand for our second factor",
        old="if self._needs_totp and person.totp_secret is not None:",
        new="if False:",
        fails=_in_oidc("test_who_enrolled_a_second_factor_gives_its_code_too"),
    ),
    _oidc_logins(
        "wrong codes after the provider's log-in are counted",
        old="        await self._db.run(self._attempts.count, (of_person(payload[_IDENTIFIED]),))\n",
        new="",
        fails=_in_oidc("test_wrong_codes_leave_the_log_in_open_and_make_the_next_one_wait"),
    ),
    _oidc_logins(
        "a code after the provider's log-in is checked",
        old="if not await self._second_factor.use(tx, person, command.totp_code):",
        new="if await self._second_factor.use(tx, person, command.totp_code) is None:",
        fails=_in_oidc("test_a_code_that_was_used_logs_nobody_in"),
    ),
    _oidc_logins(
        "a log-in that waited for its code is used up with it",
        old="""        await self._links.redeem(tx, LinkKind.OIDC_LOGIN, command.login_token)
        person""",
        new="        person",
        fails=_in_oidc("test_who_enrolled_a_second_factor_gives_its_code_too"),
    ),
    _oidc_logins(
        "who was disabled while his code was waited for stays out",
        old="""lock_person(tx, payload[_IDENTIFIED])
        if person is None or not person.may_log_in:""",
        new="""lock_person(tx, payload[_IDENTIFIED])
        if person is None:""",
        fails=_in_oidc("test_who_was_disabled_meanwhile_is_not_let_in"),
    ),
    _mutant(
        "usecases/grants.py",
        "who logged in stands in the log",
        old="await self._actions.record(\n            tx,",
        new="dict(",
        fails=_in_logins("test_who_logged_in_stands_in_the_log_of_the_merchant_and_nobody_else"),
    ),
    _resets(
        "each merchant of a person may know of his new password",
        old='sorted(one.merchant_id for one in memberships) or [""]',
        new='[""]',
        fails=_in_factor("test_a_reset_stands_in_the_log_of_each_merchant_of_the_person"),
    ),
    _limits(
        "mails are counted",
        old="            await store.save(tx, allowances[each.subject].taken(each, now))\n",
        new="            pass\n",
        fails=_in_sign_up("test_nobodys_mailbox_is_filled_from_many_networks"),
    ),
    _limits(
        "a network signs up a few times, at whichever replica",
        old="((sender, MAILS), (_mailbox(email), MAILS))",
        new="((_mailbox(email), MAILS),)",
        fails=_in_sign_up("test_replicas_count_sign_ups_together"),
    ),
    _limits(
        "a network shows so many links, at whichever replica",
        old="((network, LINKS), (link, MAILS))",
        new="((link, MAILS),)",
        fails=_in_sign_up("test_replicas_count_links_together"),
    ),
    _mutant(
        "domain/attempt_allowance.py",
        "a clock that was set back leaves the allowance empty for an hour at most",
        old="return min(max(attempts.blocked_until, now), now + self._whole)",
        new="return max(attempts.blocked_until, now)",
        fails="test_attempt_allowance.py::test_a_clock_that_was_set_back_costs_an_interval",
    ),
]
