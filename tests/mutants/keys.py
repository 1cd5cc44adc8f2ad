"""What API keys promise at gateways and at merchant_rpc, removed piece by piece."""

from __future__ import annotations

from tests.mutants.runner import Edit, Mutant

_DOOR = "gateway/api_keys.py"


def _mutant(path: str, sentence: str, *, old: str, new: str, fails: str) -> Mutant:
    return Mutant(sentence, fails, (Edit(path, old, new),))


def _door(sentence: str, *, old: str, new: str, fails: str) -> Mutant:
    return _mutant(_DOOR, sentence, old=old, new=new, fails=f"test_gateway_api_keys.py::{fails}")


MUTANTS = [
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
        old="sha256 = key_sha256(key)",
        new="sha256 = key.encode()",
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
        old="sha256 + address.encode() if key.is_bound_to_address else sha256",
        new="sha256",
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
        old="        self._known.pop(sha256, None)\n",
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
]
