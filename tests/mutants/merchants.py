"""What protects merchants and their people, removed piece by piece. The name of a mutant is the
sentence that it breaks.
"""

from __future__ import annotations

from functools import partial

from tests.mutants.runner import Edit, Mutant


def _mutant(path: str, sentence: str, *, old: str, new: str, fails: str) -> Mutant:
    return Mutant(sentence, fails, (Edit(f"merchant_rpc/{path}", old, new),))


def _test(module: str, name: str, *, on: str = "sqlite") -> str:
    return f"test_{module}.py::{name}" + (f"[{on}]" if on else "")


_MATRIX = "test_access_matrix.py::test_"

_sign_ups = partial(_mutant, "usecases/sign_ups.py")
_links = partial(_mutant, "usecases/one_time_links.py")
_link_store = partial(_mutant, "store/one_time_links.py")
_merchants = partial(_mutant, "usecases/merchants.py")
_merchant_store = partial(_mutant, "store/merchants.py")
_settings = partial(_mutant, "usecases/shop_settings.py")
_members = partial(_mutant, "usecases/members.py")
_invitations = partial(_mutant, "usecases/invitations.py")
_mail = partial(_mutant, "usecases/mail.py")

_in_sign_up = partial(_test, "sign_up")
_in_merchants = partial(_test, "merchants")
_in_settings = partial(_test, "shop_settings")
_in_members = partial(_test, "members")

MUTANTS = [
    _sign_ups(
        "an address with an account gets no link",
        old="if await members.find_account(tx, email=email) is not None:",
        new="if False:",
        fails=_in_sign_up(
            "test_an_address_with_an_account_gets_the_same_answer_and_a_mail_that_says_so"
        ),
    ),
    _sign_ups(
        "ids of tenants that are kept elsewhere are taken",
        old="or merchant.merchant_id in self._reserved_ids",
        new="or False",
        fails=_in_sign_up("test_ids_of_tenants_that_are_kept_elsewhere_are_taken"),
    ),
    _sign_ups(
        "an account that began meanwhile is not overwritten",
        old='or await members.find_account(tx, email=said["email"]) is not None',
        new="or False",
        fails=_in_sign_up("test_an_account_that_began_meanwhile_is_not_overwritten"),
    ),
    _link_store(
        "a link ends after a day",
        old="""                _L.used_at.is_(None),
                _L.expires_at > now,
            )
        )
    ).one_or_none()""",
        new="""                _L.used_at.is_(None),
            )
        )
    ).one_or_none()""",
        fails=_in_sign_up("test_a_link_ends_after_a_day"),
    ),
    _links(
        "only the last mail works",
        old="await store.delete_of(tx, kind=kind, subject=subject)",
        new="",
        fails=_in_members("test_only_the_last_mail_works"),
    ),
    _mail(
        "a mail that was handed over is kept without its link",
        old="await forget_content(tx, event_id=message.event_id)",
        new="pass",
        fails=_in_sign_up("test_a_mail_that_was_handed_over_is_kept_without_its_link"),
    ),
    _merchants(
        "a suspension covers the sibling",
        old="await merchants.update_merchant(tx, change(sibling, now))",
        new="pass",
        fails=_in_merchants(
            "test_a_suspension_covers_the_sibling_and_ends_where_it_began", on="sqlite-LIVE"
        ),
    ),
    _merchant_store(
        "a merchant is its own only",
        old="if merchant is None or scope.merchant_id not in {None, merchant_id}:",
        new="if merchant is None:",
        fails=_in_merchants("test_a_merchant_reads_itself_and_nobody_else"),
    ),
    _settings(
        "nobody overwrites what he has not seen",
        old="if merchant.settings_version != command.read_version:",
        new="if False:",
        fails=_in_settings("test_nobody_overwrites_what_he_has_not_seen", on="sqlite-2"),
    ),
    _members(
        "a token is worth no more than the role is now",
        old="held = frozenset() if own is None else own.role.scopes",
        new="held = caller.scopes or frozenset()",
        fails=_in_members("test_a_token_is_worth_no_more_than_the_role_is_now"),
    ),
    _members(
        "a token gives no more than it says",
        old="held &= caller.scopes",
        new="pass",
        fails=_in_members("test_a_token_gives_no_more_than_it_says"),
    ),
    _members(
        "a key does not even list people",
        old='if caller.subject.startswith("key:"):',
        new="if False:",
        fails=_in_members("test_a_key_does_not_even_list_them"),
    ),
    _members(
        "who was removed is removed again",
        old="            if await self._actions.was_done(",
        new="            if False and await self._actions.was_done(",
        fails=_in_members(
            "test_who_was_removed_is_removed_again_and_nothing_happens", on="sqlite-acme"
        ),
    ),
    _mutant(
        "store/actions.py",
        "only a removal counts as one",
        old="            _A.method == method,\n",
        new="",
        fails=_in_members("test_who_was_removed_elsewhere_or_only_changed_here_is_not_found"),
    ),
    _mutant(
        "store/actions.py",
        "a removal counts where it was done",
        old="            _A.merchant_id == merchant_id,\n            _A.target",
        new="            _A.target",
        fails=_in_members("test_who_was_removed_elsewhere_or_only_changed_here_is_not_found"),
    ),
    _invitations(
        "an invitation of somebody who may less now is worth nothing",
        old="if WRITES_MEMBERS not in held or not role.scopes <= held:",
        new="if False:",
        fails=_in_members("test_an_invitation_of_somebody_who_may_less_now_is_worth_nothing"),
    ),
    _invitations(
        "a wrong password joins nobody",
        old="if person.password_hash is None or not fits or not person.may_log_in:",
        new="if person.password_hash is None:",
        fails=_in_members("test_a_wrong_password_joins_nobody_and_leaves_the_link"),
    ),
    _invitations(
        "nobody joins a full merchant",
        old="if await members.count_memberships(tx, merchant_id=merchant_id) >= MEMBERS_MAX:",
        new="if False:",
        fails=_in_members("test_nobody_joins_a_full_merchant"),
    ),
    Mutant(
        "a token reaches rows of its merchant and mode",
        _MATRIX + "people_and_keys_reach_rows_of_their_merchant_and_mode_and_of_no_other",
        (
            Edit(
                "mesh/access.py",
                "                if self._merchant.get(request) != caller.merchant_id:\n",
                "                if not self._merchant.get(request):\n",
            ),
        ),
    ),
    _mutant(
        "store/api_keys.py",
        "a key is found at its merchant",
        old='.where(_K.merchant_id == bindparam("merchant"), _K.key_id == bindparam("key"))',
        new='.where(_K.key_id == bindparam("key"))',
        fails=_MATRIX + "a_row_of_another_merchant_or_mode_is_not_found_under_ones_own_name"
        "[RevokeApiKey]",
    ),
    _mutant(
        "store/members.py",
        "a member is found at his merchant",
        old="""_MEMBERSHIPS.where(_S.merchant_id == merchant_id, _S.member_id == member_id)
    )
    row""",
        new="""_MEMBERSHIPS.where(_S.member_id == member_id)
    )
    row""",
        fails=_MATRIX + "a_row_of_another_merchant_or_mode_is_not_found_under_ones_own_name"
        "[SetMemberRole]",
    ),
    Mutant(
        "a role reaches what its scopes name and nothing else",
        _MATRIX + "every_method_admits_whom_its_rules_name_and_nobody_else",
        (
            Edit(
                "mesh/access.py",
                "        if not self._scopes <= scopes:\n",
                "        if False:\n",
            ),
        ),
    ),
]
