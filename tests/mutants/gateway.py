"""What the gateway promises, removed piece by piece. The name of a mutant is the sentence that it
breaks.
"""

from __future__ import annotations

from functools import partial

from tests.mutants.runner import Edit, Mutant


def _mutant(
    path: str, sentence: str, *, old: str, new: str, fails: str, behind: Edit | None = None
) -> Mutant:
    return Mutant(
        sentence, fails, (Edit(f"gateway/{path}", old, new), *(() if behind is None else (behind,)))
    )


_handlers = partial(_mutant, "handlers.py")
_limits = partial(_mutant, "limits.py")
_binding = partial(_mutant, "binding.py")
_streams = partial(_mutant, "streams.py")
_request = partial(_mutant, "request.py")
_cors = partial(_mutant, "cors.py")


def _unit(module: str, name: str) -> str:
    return f"test_gateway_{module}.py::{name}"


def _test(name: str, module: str = "") -> str:
    return f"test_gateway{module}.py::{name}"


_in_bad_input = partial(_test, module="_bad_input")
_in_streams = partial(_test, module="_streams")

MUTANTS = [
    _limits(
        "two buyers behind one address have a share each",
        old="caller.limited_as or network_of(address)",
        new="network_of(address)",
        fails=_unit("limits", "test_whose_share_a_request_takes"),
    ),
    _limits(
        "one name in two shops is two buyers",
        old="caller.limited_as or",
        new="caller.subject or",
        fails=_unit("limits", "test_a_name_in_another_shop_is_somebody_else"),
    ),
    _limits(
        "a customer has one network of IPv6",
        old="network_of(address)",
        new="address",
        fails=_unit("limits", "test_whose_share_a_request_takes"),
    ),
    Mutant(
        "an address of IPv4 is one in IPv6 too",
        _unit("limits", "test_whose_share_a_request_takes"),
        (
            Edit(
                "mesh/limits.py",
                "        if parsed.ipv4_mapped is not None:\n"
                "            return str(parsed.ipv4_mapped)\n",
                "",
            ),
        ),
    ),
    _limits(
        "who has no token hears so",
        old="        if missing_seconds:\n",
        new="        if False:\n",
        fails=_unit("limits", "test_a_burst_passes_and_the_next_call_hears_when_to_come_back"),
    ),
    _handlers(
        "a stream takes a token of the limit",
        old="        if self._limit is not None:\n",
        new="        if False:\n",
        fails=_unit("limits", "test_a_stream_takes_a_token_of_the_limit_of_its_method"),
    ),
    _handlers(
        "a call takes a token of the limit",
        old="        if self._limit is not None:\n",
        new="        if False:\n",
        fails=_test("test_too_many_calls_are_429_for_that_caller_alone"),
    ),
    _handlers(
        "an idempotency key has 255 characters without spaces",
        old="_KEY.fullmatch(key) is None:",
        new="_KEY.match(key) is None:",
        fails=_unit("handlers", "test_a_bad_idempotency_key_goes_to_no_server"),
    ),
    _handlers(
        "a key is passed on",
        old="        metadata.append((IDEMPOTENCY_KEY, text))\n",
        new="",
        fails=_test("test_keys_and_traces_travel_and_come_back"),
    ),
    _handlers(
        "a method that needs a key has one",
        old="            if self._idempotency is Idempotency.REQUIRED:\n                raise "
        "IdempotencyKeyMissing\n",
        new="",
        fails=_in_bad_input("test_a_method_that_needs_a_key_is_not_called_without_one"),
    ),
    _handlers(
        "a merchant writes amounts as strings",
        old="        if caller.role is Role.MERCHANT:\n            binder",
        new="        if False:\n            binder",
        fails=_in_bad_input("test_a_merchant_writes_amounts_as_strings"),
    ),
    _handlers(
        "what is refused at the door moved no money",
        old="        request.money_untouched = self._moves_money\n",
        new="",
        fails=_test("test_what_is_refused_at_the_door_of_a_method_that_moves_money_moved_nothing"),
    ),
    _handlers(
        "without a key an effect may not be repeated",
        old="request.safe_to_retry = self._repeatable or bool(key)",
        new="request.safe_to_retry = True",
        fails=_test("test_a_server_that_is_away_is_503_without_an_address"),
    ),
    _handlers(
        "a replay says so",
        old="            if name == REPLAYED:\n",
        new="            if False:\n",
        fails=_test("test_keys_and_traces_travel_and_come_back"),
    ),
    _handlers(
        "the deadline of the method is the deadline of the call",
        old="deadline=monotonic() + self._timeout_seconds, caller=caller, idempotency_key=key,",
        new="deadline=monotonic() + 2 * self._timeout_seconds, caller=caller, idempotency_key=key,",
        fails=_unit("handlers", "test_a_call_lasts_as_long_as_its_method_may"),
    ),
    _handlers(
        "a body is no larger than its method takes",
        old="min(method.body_bytes_max, settings.body_bytes_max)",
        new="settings.body_bytes_max",
        fails=_in_bad_input("test_a_method_may_have_a_body_of_its_own_size"),
    ),
    _binding(
        "the body must not contradict a header or a path",
        old="    if holder.setdefault(path[-1], value) != value:\n",
        new="    if holder.setdefault(path[-1], value) is None:\n",
        fails=_unit(
            "binding", "test_the_body_may_repeat_what_a_header_says_and_must_not_contradict_it"
        ),
    ),
    _binding(
        "a header fills its field",
        old="            if text is not None:\n                _place(",
        new="            if False:\n                _place(",
        fails=_unit("binding", "test_raw_bytes_and_headers_go_where_the_contract_says"),
    ),
    _binding(
        "a field of a header is not taken from the query",
        old="skip={*self._taken, rule.body}",
        new="skip={rule.body}",
        fails=_unit("binding", "test_a_field_of_a_header_is_not_taken_from_the_query"),
    ),
    _binding(
        "a parameter stands once",
        old="            elif path in seen:\n",
        new="            elif False:\n",
        fails=_unit("binding", "test_a_bad_query_names_its_parameter"),
    ),
    _binding(
        "a list in the query has an end",
        old="                if len(values) > most:\n",
        new="                if False:\n",
        fails=_unit(
            "binding",
            "TestShapesThatTheContractDoesNotHaveYet::test_a_list_of_a_query_has_its_end_too",
        ),
    ),
    _binding(
        "what is sensitive is not taken from the query",
        old=" or field_policy(field).sensitive:",
        new=":",
        fails=_unit(
            "binding",
            "TestShapesThatTheContractDoesNotHaveYet::test_a_sensitive_field_is_never_taken_from_a_query",
        ),
    ),
    _streams(
        "a caller has so many streams",
        old="        if self._callers[name] >= most:\n",
        new="        if False:\n",
        fails=_in_streams("test_a_caller_has_so_many_streams_and_everybody_together_too"),
    ),
    _streams(
        "everybody together has so many",
        old="        if len(self._open) >= self._settings.streams_max:\n",
        new="        if False:\n",
        fails=_in_streams("test_a_caller_has_so_many_streams_and_everybody_together_too"),
    ),
    _streams(
        "a refused stream gives its place back",
        old="        except BaseException:\n            await stream.close()\n            raise\n",
        new="        except BaseException:\n            raise\n",
        fails=_in_streams("test_a_refused_stream_gives_its_place_back"),
    ),
    _streams(
        "a gateway that stops opens no stream",
        old="        if self._ended:\n            raise _stopping()\n",
        new="",
        fails=_in_streams("test_a_gateway_that_stops_opens_no_stream"),
    ),
    _streams(
        "a client that goes away cancels the call",
        old="        self.end(ClientGone())\n",
        new="        return\n",
        fails=_in_streams("test_a_client_that_goes_away_cancels_the_call"),
    ),
    _request(
        "a header that counts stands once",
        old="        if self._repeated and name in self._repeated:\n            raise",
        new="        if False:\n            raise",
        fails=_in_bad_input("test_two_idempotency_keys_are_400"),
    ),
    _request(
        "a bearer token stands once",
        old=' or (self._repeated and b"authorization" in self._repeated)',
        new="",
        fails=_unit("request", "test_anything_else_is_an_invalid_token"),
    ),
    _request(
        "a body is counted as it comes",
        old="                if length > bytes_max:\n                    raise "
        "_too_large(bytes_max)\n                message",
        new="                message",
        fails=_unit("request", "test_an_endless_body_is_read_no_further_than_its_limit"),
    ),
    _request(
        "an announced length is refused before anything is read",
        old="int(announced) > bytes_max:",
        new="False:",
        fails=_unit("request", "test_an_announced_length_is_refused_before_anything_is_read"),
    ),
    _request(
        "a compressed body is not taken",
        old='.lower() != b"identity":',
        new='.lower() == b"none":',
        fails=_unit("request", "test_a_compressed_body_is_not_taken"),
    ),
    _cors(
        "only pages on the list may read",
        old="self._vary + self._headers.get(origin, []) if origin",
        new='self._vary + self._headers.get(origin, [(b"access-control-allow-origin", origin)]) '
        "if origin",
        fails=_test("test_another_page_may_not"),
    ),
]
