"""What API keys promise at gateways and at merchant_rpc, removed piece by piece."""

from __future__ import annotations

from tests.mutants.runner import Edit, Mutant

_DOOR = "gateway/api_keys.py"


def _mutant(path: str, sentence: str, *, old: str, new: str, fails: str) -> Mutant:
    return Mutant(sentence, fails, (Edit(path, old, new),))


def _door(sentence: str, *, old: str, new: str, fails: str) -> Mutant:
    return _mutant(_DOOR, sentence, old=old, new=new, fails=f"test_gateway_api_keys.py::{fails}")


def _rule(sentence: str, *, old: str, new: str, fails: str) -> Mutant:
    return _mutant(
        "merchant_rpc/domain/api_key.py",
        sentence,
        old=old,
        new=new,
        fails=f"test_api_key.py::{fails}",
    )


def _keys(sentence: str, *, old: str, new: str, fails: str) -> Mutant:
    return _mutant(
        "merchant_rpc/usecases/api_keys.py",
        sentence,
        old=old,
        new=new,
        fails=f"test_api_keys.py::{fails}",
    )


def _exchange(sentence: str, *, old: str, new: str, fails: str) -> Mutant:
    return _mutant(
        "merchant_rpc/usecases/key_exchanges.py",
        sentence,
        old=old,
        new=new,
        fails=f"test_key_exchanges.py::{fails}",
    )


def _stored(sentence: str, *, old: str, new: str, fails: str) -> Mutant:
    return _mutant("merchant_rpc/store/api_keys.py", sentence, old=old, new=new, fails=fails)


MUTANTS = [
    _keys(
        "a key that rotates itself keeps one",
        old="if not request.overlap and caller.subject == old.subject:",
        new="if False:",
        fails="test_a_key_that_rotates_itself_lives_on_so_a_lost_answer_costs_nothing[sqlite]",
    ),
    _mutant(
        "mesh/api_key_format.py",
        "the checksum of a key is right",
        old="and _checksum(text[:-_CHECKSUM_CHARACTERS]) == text[-_CHECKSUM_CHARACTERS:]",
        new="",
        fails="test_api_key_format.py::test_one_wrong_character_is_noticed",
    ),
    _mutant(
        "mesh/api_key_format.py",
        "what is stored of a key depends on a pepper",
        old='return hmac.digest(pepper, sha256, "sha256")',
        new="return sha256",
        fails="test_api_key_format.py::test_the_stored_digest_depends_on_key_and_pepper",
    ),
    _mutant(
        "mesh/logs.py",
        "a key that stands in a text is masked in the log",
        old="pm[srp]k_[0-9A-Za-z_]+",
        new="pm[srp]k_[0-9A-Za-z_]+-",
        fails="test_logs_mask_tokens.py::test_an_api_key_is_masked_wherever_it_stands[False-{}]",
    ),
    _door(
        "a key with a wrong checksum is sent to nobody",
        old="        if not is_well_formed(key):\n            raise ApiKeyInvalid\n",
        new="",
        fails="test_a_wrong_checksum_is_refused_without_asking[mode]",
    ),
    _door(
        "a key is kept as its digest",
        old="digest = blake2s(key.encode(), key=self._secret).digest()",
        new="digest = key.encode()",
        fails="test_nothing_that_is_kept_holds_the_key",
    ),
    _door(
        "calls that come at once share an exchange",
        old="        if running is not None:\n            return running\n",
        new="",
        fails="test_calls_that_come_at_once_share_one_exchange",
    ),
    _door(
        "an exchange goes on when a client goes away",
        old="return await asyncio.shield(running)",
        new="return await running",
        fails="test_a_client_that_goes_away_takes_the_exchange_from_nobody",
    ),
    _door(
        "a refusal is remembered",
        old="        if self._refused.get(place, 0) > self._now():\n            raise ApiKeyInvalid\n",
        new="",
        fails="test_a_refusal_is_remembered_for_a_while",
    ),
    _door(
        "a client tries so many keys in a second",
        old="if missing_seconds:",
        new="if False:",
        fails="test_one_client_address_asks_for_so_many_unknown_keys_in_a_second",
    ),
    _door(
        "the addresses of one IPv6 customer share a limit",
        old="self._limiter.take(network_of(address))",
        new="self._limiter.take(address)",
        fails="test_the_addresses_of_one_ipv6_customer_share_a_limit",
    ),
    _door(
        "a token in use is renewed before it ends",
        old="elif moment >= known.refresh_at:",
        new="elif False:",
        fails="test_a_token_in_use_is_renewed_in_the_background",
    ),
    _door(
        "a token is renewed once",
        old="            known.refresh_at = moment + RETRY_SECONDS\n            self._begin",
        new="            self._begin",
        fails="test_a_renewal_that_fails_is_not_tried_by_each_call",
    ),
    _door(
        "a token that has ended is not used",
        old="if known is None or moment >= known.until:",
        new="if known is None:",
        fails="test_a_warm_key_lives_to_the_end_of_its_token_while_merchant_rpc_is_away",
    ),
    _door(
        "a token is used no longer than we say",
        old="lifetime = min(TOKEN_SECONDS_MAX, key.expires_at_seconds - "
        "self._clock.now().timestamp())",
        new="lifetime = key.expires_at_seconds - self._clock.now().timestamp()",
        fails="test_a_token_is_used_no_longer_than_we_say",
    ),
    _door(
        "a token is used no longer than merchant_rpc says",
        old="lifetime = min(TOKEN_SECONDS_MAX, key.expires_at_seconds - "
        "self._clock.now().timestamp())",
        new="lifetime = TOKEN_SECONDS_MAX",
        fails="test_a_token_is_used_no_longer_than_merchant_rpc_says",
    ),
    _door(
        "a key that is bound to addresses is good for those alone",
        old="digest + address.encode() if key.is_bound_to_address else digest",
        new="digest",
        fails="test_a_key_bound_to_addresses_is_exchanged_for_each",
    ),
    _door(
        "a revoked key is forgotten",
        old="known.key.subject in revoked.subjects\n            or ",
        new="",
        fails="test_a_revoked_key_is_refused_after_the_next_poll",
    ),
    _door(
        "a merchant that changed is asked for anew",
        old="\n            or known.key.merchant_id in revoked.merchant_ids",
        new="",
        fails="test_keys_of_a_merchant_that_changed_are_exchanged_anew",
    ),
    _door(
        "a token that was made while its key was revoked is not used",
        old="        if key.subject in self._revoked:",
        new="        if False:",
        fails="test_a_token_that_was_made_while_its_key_was_revoked_is_not_used",
    ),
    _door(
        "a refused renewal ends a key",
        old="        self._known.pop(digest, None)\n",
        new="",
        fails="test_a_key_that_is_revoked_is_found_out_by_its_renewal",
    ),
    _door(
        "the keys that are remembered have an end",
        old="if len(self._known) > self._keys_max:",
        new="if False:",
        fails="test_what_is_remembered_is_bounded_and_the_oldest_goes",
    ),
    _door(
        "the refusals that are remembered have an end",
        old="if len(self._refused) > REFUSED_MAX:",
        new="if False:",
        fails="test_refusals_are_bounded_and_push_no_key_out",
    ),
    _door(
        "the exchanges that run have an end",
        old="if len(self._running) >= EXCHANGES_MAX:",
        new="if False:",
        fails="test_exchanges_that_run_at_once_are_bounded",
    ),
    _door(
        "a gateway without keys in use asks nothing",
        old="        if self._now() >= self._last_until:\n            return 0\n",
        new="",
        fails="test_nothing_is_asked_while_no_key_is_in_use",
    ),
    _door(
        "two credentials that differ are refused",
        old="if bearer is not None and bearer != key:",
        new="if False:",
        fails="test_what_leaves_the_key_open_is_refused[headers0]",
    ),
    _door(
        "a header with a key stands once",
        old='request.once(b"x-api-key") is None or ',
        new="",
        fails="test_what_leaves_the_key_open_is_refused[headers2]",
    ),
    _mutant(
        "gateway/handlers.py",
        "a key is refused where there is no merchant_rpc",
        old="            if self._api_keys is None:\n                raise ApiKeyInvalid\n"
        "            bearer = await self._api_keys.token(api_key, request.client)",
        new="            bearer = (\n                bearer if self._api_keys is None else\n"
        "                await self._api_keys.token(api_key, request.client)\n            )",
        fails="test_gateway_api_keys_http.py::"
        "test_without_merchant_rpc_each_key_is_refused_and_all_else_works",
    ),
    _mutant(
        "gateway/__main__.py",
        "a gateway that merchant_rpc does not know takes no API key",
        old="if not is_there or not caller_tokens.can_sign:",
        new="if not is_there:",
        fails="test_merchant_keys_at_gateways.py::"
        "test_a_gateway_process_without_a_key_of_its_own_refuses_api_keys_and_says_so",
    ),
    _mutant(
        "gateway/__main__.py",
        "a gateway asks what was revoked",
        old="stack.push_async_callback(_ended, polling, asyncio.create_task(polling.run()))",
        new="",
        fails="test_merchant_keys_at_gateways.py::"
        "test_a_gateway_process_exchanges_keys_in_its_own_name",
    ),
    _rule(
        "a secret key has no rights over people",
        old="for scope in catalogue if not scope.startswith(_PEOPLE)",
        new="for scope in catalogue",
        fails="test_a_secret_key_has_every_scope_but_those_over_people",
    ),
    _rule(
        "a restricted key has no rights over people",
        old="if scope.startswith(_PEOPLE):",
        new="if False:",
        fails="test_rights_over_people_are_refused_as_what_they_are",
    ),
    _rule(
        "there is such a scope",
        old="if scope not in possible:",
        new="if False:",
        fails="test_other_scopes_are_refused_by_name[RESTRICTED-named3-scopes[1]]",
    ),
    _rule(
        "only a restricted key names its scopes",
        old="        if named:\n",
        new="        if False:\n",
        fails="test_other_scopes_are_refused_by_name[SECRET-named0-scopes]",
    ),
    _rule(
        "an address has no zone",
        old='if "%" in text:',
        new="if False:",
        fails="test_what_is_no_address_is_refused_by_its_place[fe80::1%eth0]",
    ),
    _rule(
        "a list of addresses does not hold all of them",
        old="if network.prefixlen == 0:",
        new="if False:",
        fails="test_what_is_no_address_is_refused_by_its_place[0.0.0.0/0]",
    ),
    _rule(
        "a list of addresses has an end",
        old="if len(texts) > ADDRESSES_MAX:",
        new="if False:",
        fails="test_a_list_has_an_end",
    ),
    _rule(
        "a new key has not ended",
        old="if expires_at is not None and expires_at <= now:",
        new="if False:",
        fails="test_a_key_that_has_ended_is_not_made[0]",
    ),
    _rule(
        "an IPv4 address in IPv6 is that address",
        old="if isinstance(client, IPv6Address) and client.ipv4_mapped is not None:",
        new="if False:",
        fails="test_a_client_inside_may_use_a_key[::ffff:203.0.113.9]",
    ),
    _keys(
        "nobody makes a key that may do more than he may",
        old="        _check_held(scopes, caller)\n",
        new="",
        fails="test_nobody_makes_a_key_that_may_do_more_than_he_may[sqlite-SECRET-scopes2]",
    ),
    _keys(
        "nobody rotates a key that may do more than he may",
        old="        _check_held(old.scopes, caller)\n",
        new="",
        fails="test_nobody_rotates_a_key_that_may_do_more_than_he_may[sqlite]",
    ),
    _keys(
        "a merchant that sells nothing new gets no key",
        old="        merchant.check_takes_new()\n",
        new="",
        fails="test_a_merchant_that_may_not_sell_gets_no_key"
        "[sqlite-SUSPENDED-True-MerchantSuspended]",
    ),
    _keys(
        "a merchant that takes no real money gets no live key",
        old="        if merchant.state is not MerchantState.LIVE and not merchant.is_test:\n"
        "            raise MerchantNotLive\n",
        new="",
        fails="test_a_merchant_that_may_not_sell_gets_no_key"
        "[sqlite-TEST_ONLY-False-MerchantNotLive]",
    ),
    _keys(
        "a live key has a reason",
        old="if not merchant.is_test and len(reason.strip()) < REASON_CHARACTERS_MIN:",
        new="if False:",
        fails="test_a_live_key_needs_a_reason[sqlite-]",
    ),
    _keys(
        "a merchant has a hundred keys at most",
        old="        if await api_keys.count_living(tx, key.merchant_id, now=key.created_at) >= "
        "KEYS_MAX:\n            raise ApiKeyLimitReached\n",
        new="",
        fails="test_a_merchant_has_a_hundred_living_keys_at_most[sqlite]",
    ),
    _keys(
        "a key that has ended is not rotated",
        old="        if not old.lives_at(now):\n            raise ApiKeyNotFound\n",
        new="",
        fails="test_a_key_that_has_ended_is_not_rotated[sqlite]",
    ),
    _keys(
        "a rotation makes no key live longer",
        old="ends if old.expires_at is None else min(ends, old.expires_at)",
        new="ends",
        fails="test_a_rotation_makes_no_key_live_longer[sqlite]",
    ),
    _keys(
        "a key is revoked once",
        old="        if key.revoked_at is not None:\n            return key\n",
        new="",
        fails="test_a_key_is_revoked_once[sqlite]",
    ),
    _keys(
        "what is done to a key stands in the log of actions",
        old='        await self._record(tx, "RevokeApiKey", key, reason, caller)\n',
        new="",
        fails="test_what_is_done_to_keys_stands_in_the_log_of_actions[sqlite]",
    ),
    _stored(
        "a key is its merchant's",
        old='.where(_K.merchant_id == bindparam("merchant"), _K.key_id == bindparam("key"))',
        new='.where(_K.key_id == bindparam("key"))',
        fails="test_api_keys.py::test_a_key_of_another_merchant_is_not_found[sqlite]",
    ),
    _stored(
        "the last use moves forward alone",
        old='or_(_K.last_used_at.is_(None), _K.last_used_at < bindparam("used_at")),',
        new="",
        fails="test_key_exchanges.py::test_the_last_use_moves_forward_alone[sqlite]",
    ),
    _exchange(
        "one address shows so many keys in a second",
        old="if missing_seconds:",
        new="if False:",
        fails="test_one_address_shows_so_many_keys_in_a_second[sqlite]",
    ),
    _exchange(
        "a closed merchant's keys have ended",
        old="            or found.merchant_state in _CLOSED\n",
        new="",
        fails="test_a_closed_merchants_keys_have_ended[sqlite]",
    ),
    _exchange(
        "a key that has ended is not exchanged",
        old="            or not found.key.lives_at(now)\n",
        new="",
        fails="test_a_revoked_key_is_refused[sqlite]",
    ),
    _exchange(
        "a key is of the kind and mode that it says",
        old="            or found.key.prefix != prefix\n",
        new="",
        fails="test_a_key_of_another_kind_or_mode_is_refused[sqlite-pmsk_live_]",
    ),
    _exchange(
        "a key comes from an address of its list",
        old="            or not found.key.may_come_from(client_address)\n",
        new="",
        fails="test_a_key_from_a_forbidden_address_is_refused[sqlite]",
    ),
    _exchange(
        "a publishable key has no role",
        old="roles=() if key.kind is ApiKeyKind.PUBLISHABLE else (Role.MERCHANT,),",
        new="roles=(Role.MERCHANT,),",
        fails="test_a_publishable_key_has_neither_role_nor_scope[sqlite]",
    ),
    _exchange(
        "the tokens of a key end with it",
        old="        if key.expires_at is not None:\n",
        new="        if False:\n",
        fails="test_an_expired_key_is_refused_and_its_tokens_end_with_it[sqlite]",
    ),
    _exchange(
        "an old pepper finds its keys",
        old="self._peppers.digests(sha256)",
        new="self._peppers.digests(sha256)[:1]",
        fails="test_an_old_pepper_still_finds_its_keys[sqlite]",
    ),
    _exchange(
        "the last use is written once a minute",
        old="if found.used_at is not None and now - found.used_at < LAST_USE_PAUSE:",
        new="if False:",
        fails="test_the_last_use_is_written_in_the_background_once_a_minute[sqlite]",
    ),
    _exchange(
        "uses that wait have an end",
        old="if key_id in self._uses or len(self._uses) < USES_MAX:",
        new="if True:",
        fails="test_uses_that_wait_have_an_end[sqlite]",
    ),
    _mutant(
        "merchant_rpc/peppers.py",
        "a pepper has enough bytes",
        old="if len(found[2]) < 2 * PEPPER_BYTES_MIN:",
        new="if False:",
        fails="test_peppers.py::test_a_short_pepper_is_refused",
    ),
]
