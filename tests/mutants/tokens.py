"""What keeps a token to what its issuer may say, and a caller to its token, removed piece by piece.
The name of a mutant is the sentence that it breaks.
"""

from __future__ import annotations

from functools import partial

from tests.mutants.runner import Edit, Mutant


def _mutant(path: str, sentence: str, *, old: str, new: str, fails: str) -> Mutant:
    return Mutant(sentence, fails, (Edit(path, old, new),))


_issuers = partial(_mutant, "mesh/token_issuers.py")
_auth = partial(_mutant, "mesh/auth.py")
_caller_tokens = partial(_mutant, "mesh/caller_tokens.py")
_claims = partial(_mutant, "mesh/claims.py")
_access = partial(_mutant, "mesh/access.py")
_pipeline = partial(_mutant, "mesh/pipeline.py")
_limits = partial(_mutant, "mesh/limits.py")
_call = partial(_mutant, "mesh/call.py")
_policies = partial(_mutant, "mesh/policies.py")
_settings = partial(_mutant, "mesh/settings.py")
_free_text = partial(_mutant, "mesh/free_text.py")
_handlers = partial(_mutant, "gateway/handlers.py")
_gateway_limits = partial(_mutant, "gateway/limits.py")
_amounts = partial(_mutant, "gateway/codec/amounts.py")
_decoder = partial(_mutant, "gateway/codec/decoder.py")


def _of_issuers(name: str) -> str:
    return f"test_token_issuers.py::{name}"


_ATTACKS = _of_issuers("test_a_key_claims_no_more_than_its_issuer_may")
_SIGNER = _of_issuers("test_nothing_is_signed_that_nobody_would_believe")


def _of_scopes(name: str) -> str:
    return f"test_scopes_and_checkout.py::{name}"


def _of_amounts(name: str) -> str:
    return f"test_gateway_amounts.py::{name}"


_CLAIMS = [
    _issuers(
        "a key of ours signs for its own issuer alone",
        old="issuer=issuer.issuer,\n        audience",
        new="issuer=claims.iss,\n        audience",
        fails=_ATTACKS,
    ),
    _issuers(
        "a token of ours is for us",
        old="audience=AUDIENCE,",
        new="audience=claims.aud if isinstance(claims.aud, str) else AUDIENCE,",
        fails=_ATTACKS,
    ),
    _issuers(
        "a token of ours lives as long as its issuer may say",
        old="lifetime_seconds_max=issuer.lifetime_seconds_max",
        new="lifetime_seconds_max=10**9",
        fails=_ATTACKS,
    ),
    _issuers(
        "an issuer speaks for its own kind of subjects",
        old="kind not in issuer.subjects or ",
        new="",
        fails=_ATTACKS,
    ),
    _issuers(
        "the name of a subject is an id",
        old="or _ID.fullmatch(name) is None:",
        new="or False:",
        fails=_ATTACKS,
    ),
    _issuers(
        "a checkout token is of the order that it is named after",
        old='        raise invalid("order_id")',
        new="        pass",
        fails=_ATTACKS,
    ),
    _issuers(
        "people alone have sessions",
        old="kind not in {MEMBER, OPERATOR} or",
        new="",
        fails=_ATTACKS,
    ),
    _issuers(
        "an issuer gives its one role",
        old='        raise invalid("roles")',
        new="        pass",
        fails=_ATTACKS,
    ),
    _issuers(
        "publishable keys alone have no role",
        old="(payload.roles or not payload.sub.startswith(KEY))",
        new="payload.roles",
        fails=_ATTACKS,
    ),
    _issuers(
        "a key is of a merchant and an operator of none",
        old='        raise invalid("merchant_id")',
        new="        pass",
        fails=_ATTACKS,
    ),
    _issuers(
        "a merchant's token without scopes is not one without limits",
        old='        raise invalid("scopes")',
        new="        pass",
        fails=_ATTACKS,
    ),
    _issuers(
        "a merchant alone decides what its integers mean",
        old='        raise invalid("amounts")',
        new="        pass",
        fails=_ATTACKS,
    ),
    _issuers(
        "a limit that we do not know is not ignored",
        old="forbid_unknown_fields=True",
        new="forbid_unknown_fields=False",
        fails=_ATTACKS,
    ),
    _issuers(
        "the signer refuses what its issuer may not claim",
        old="        self._refuse_what_nobody_would_believe(payload)\n",
        new="",
        fails=_SIGNER,
    ),
    _issuers(
        "the signer knows no scope that there is not",
        old="        if unknown:\n",
        new="        if False:\n",
        fails=_SIGNER,
    ),
    _auth(
        "the identity provider speaks for none of our own subjects",
        old="        if claims.sub.lower().startswith(RESERVED_SUBJECTS):\n",
        new="        if False:\n",
        fails=_of_issuers("test_the_identity_provider_speaks_for_none_of_our_own_subjects"),
    ),
    _auth(
        "nor in other letters",
        old="claims.sub.lower().startswith(",
        new="claims.sub.startswith(",
        fails=_of_issuers("test_the_identity_provider_speaks_for_none_of_our_own_subjects"),
    ),
    _auth(
        "our own type is for our own keys",
        old="{**dict.fromkeys(self._types, keys), OWN_TYPE: own_keys}",
        new="{OWN_TYPE: own_keys, **dict.fromkeys(self._types, keys)}",
        fails=_of_issuers(
            "test_a_type_of_the_identity_provider_in_the_settings_opens_no_type_of_our_own"
        ),
    ),
    _auth(
        "what a key of ours signed is forgotten when the key goes",
        old="return self._keys.version, self._own_keys.version, self._revocations.version",
        new="return self._keys.version, 0, self._revocations.version",
        fails=_of_issuers(
            "test_a_key_that_was_replaced_or_removed_signs_nothing_from_the_next_look_on"
        ),
    ),
    _auth(
        "an order of the identity provider is none",
        old="            scopes=scopes_of(everything),\n        )",
        new='            scopes=scopes_of(everything), order_id=everything.get("order_id", ""),\n'
        "        )",
        fails=_of_issuers("test_the_identity_provider_makes_no_checkout_and_no_session"),
    ),
    _settings(
        "the settings give no type of ours to the identity provider",
        old='if any("paymesh-" in kind.lower() for kind in self.user_token_types):',
        new="if False:",
        fails="test_settings.py::test_the_identity_provider_has_no_type_of_our_own",
    ),
    _caller_tokens(
        "the operators' key is no service",
        old=" if name not in NO_SERVICES",
        new="",
        fails=_of_issuers("test_the_operators_key_authenticates_no_service"),
    ),
    _claims(
        "reading follows from writing and not the other way round",
        old='        if right == "write"\n',
        new='        if right != "write"\n',
        fails=_of_issuers("test_a_right_to_write_includes_reading_and_nothing_else"),
    ),
    _claims(
        "scopes of another form are not taken for none",
        old='value.split(" ") if isinstance(value, str) else _words("scopes", value)',
        new='value.split(" ") if isinstance(value, str) else (value or ())',
        fails=_of_issuers("test_scopes_of_another_form_are_refused_rather_than_taken_for_none"),
    ),
]

_ACCESS = [
    _access(
        "a merchant needs the scopes of a method",
        old="                        self._check_scopes(caller.scopes)\n",
        new="                        pass\n",
        fails=_of_scopes("test_a_merchant_without_a_scope_is_refused_and_told_which_one"),
    ),
    _access(
        "all of them",
        old="if not self._scopes <= scopes:",
        new="if self._scopes.isdisjoint(scopes) and self._scopes:",
        fails=_of_scopes("test_a_merchant_without_a_scope_is_refused_and_told_which_one"),
    ),
    _access(
        "scopes limit merchants alone",
        old=" and role is Role.MERCHANT:",
        new=":",
        fails=_of_scopes("test_scopes_limit_merchants_alone"),
    ),
    _access(
        "a checkout token calls what has a checkout",
        old="            if user.order_id and not self._admits_checkout:\n",
        new="            if False:\n",
        fails=_of_scopes("test_a_checkout_token_calls_no_other_method_whoever_carries_it"),
    ),
    _access(
        "a checkout token reaches its order",
        old="            self._bind(self._order, request, caller.order_id)\n",
        new="            pass\n",
        fails=_of_scopes("test_a_checkout_token_reaches_no_other_order"),
    ),
    _call(
        "visitors of a page with a publishable key do not share its limit",
        old="if not self.subject or (not self.roles and self.subject.startswith(KEY_SUBJECT)):",
        new="if not self.subject:",
        fails="test_server_limits.py::"
        "test_a_publishable_key_stands_in_a_page_so_its_visitors_are_counted_by_address",
    ),
    _call(
        "a key without a role is no person without one",
        old="(not self.roles and self.subject.startswith(KEY_SUBJECT))",
        new="not self.roles",
        fails="test_server_limits.py::"
        "test_a_publishable_key_stands_in_a_page_so_its_visitors_are_counted_by_address",
    ),
    _policies(
        "a method for merchants says what they need",
        old="    if admits_merchants != (bool(declared.scopes) != declared.any_scope):\n",
        new="    if False:\n",
        fails="test_policies.py::test_every_bad_declaration_is_refused_and_named_at_once",
    ),
    _policies(
        "a scope of the contract is one that there is",
        old="        if scope not in SCOPES:\n",
        new="        if False:\n",
        fails="test_policies.py::test_every_bad_declaration_is_refused_and_named_at_once",
    ),
    _policies(
        "a checkout is for buyers",
        old="    if Role.USER not in {_ROLES.get(rule.role) for rule in declared.rules}:\n",
        new="    if False:\n",
        fails="test_policies.py::test_every_bad_declaration_is_refused_and_named_at_once",
    ),
    _limits(
        "our own gateways alone say where a call came from",
        old="    if told and is_relay(address, relays):\n",
        new="    if told:\n",
        fails="test_server_limits.py::"
        "test_the_address_of_a_client_is_believed_from_our_own_gateways_alone",
    ),
    _pipeline(
        "methods that want no address get none",
        old="        if self._wants_address:\n            call.client_address",
        new="        if True:\n            call.client_address",
        fails="test_pipeline.py::test_a_method_that_wants_it_knows_which_address_a_call_came_from",
    ),
    _handlers(
        "the gateway tells an address to methods that want it",
        old="        if self._wants_address:\n",
        new="        if True:\n",
        fails="test_gateway_handlers.py::"
        "test_a_method_that_wants_the_address_of_the_client_is_told_it",
    ),
    _gateway_limits(
        "what a proxy writes is an address or nothing",
        old='    except ValueError:\n        return ""\n',
        new="    except ValueError:\n        return address\n",
        fails="test_gateway_handlers.py::"
        "test_a_method_that_wants_the_address_of_the_client_is_told_it",
    ),
]

_AMOUNTS = [
    _free_text(
        "texts in lists are looked at",
        old='found[f"{path}[{number}].{name}"] = problem',
        new="pass",
        fails="test_free_text.py::test_texts_in_lists_and_values_of_maps_are_looked_at_and_named",
    ),
    _free_text(
        "so are the values of maps",
        old='_judge(found, f"{path}[{key}]", text, is_line=is_line)',
        new="pass",
        fails="test_free_text.py::test_texts_in_lists_and_values_of_maps_are_looked_at_and_named",
    ),
    _amounts(
        "a bare integer is not taken for major units",
        old="            raise BareInteger(value, name, minor_field)\n",
        new="            return str(value)\n",
        fails=_of_amounts("test_a_bare_integer_of_a_merchant_is_refused_with_both_readings"),
    ),
    _amounts(
        "an amount is not negative",
        old="            if value < 0:\n",
        new="            if False:\n",
        fails=_of_amounts("test_any_other_amount_that_is_not_text_is_refused_by_name"),
    ),
    _amounts(
        "an amount has 15 digits",
        old="            if value >= 10**DIGITS_MAX:\n",
        new="            if False:\n",
        fails=_of_amounts("test_any_other_amount_that_is_not_text_is_refused_by_name"),
    ),
    _amounts(
        "an amount is no float",
        old="        if isinstance(value, NumberLiteral):\n            raise FieldError(",
        new="        if isinstance(value, NumberLiteral):\n            return str(",
        fails=_of_amounts("test_any_other_amount_that_is_not_text_is_refused_by_name"),
    ),
    _amounts(
        "minor units are given once",
        old="        if self.minor_field in arguments:\n",
        new="        if False:\n",
        fails=_of_amounts("test_minor_units_are_not_given_twice"),
    ),
    _amounts(
        "the nearest currency counts",
        old="if self._has_currency or not isinstance(currency, str):",
        new="if not isinstance(currency, str):",
        fails=_of_amounts("test_the_currency_beside_an_amount_counts_before_the_one_around_it"),
    ),
    _decoder(
        "integers are minor units for those who decided so",
        old="takes_minor = self._numbers is Numbers.MINOR",
        new="takes_minor = True",
        fails=_of_amounts("test_a_bare_integer_of_a_merchant_is_refused_with_both_readings"),
    ),
    _handlers(
        "a merchant's integers are minor units only by its own decision",
        old="self._minor_binder if caller.minor_amounts else self._strict_binder",
        new="self._minor_binder",
        fails="test_gateway_handlers.py::test_a_merchants_integers_mean_what_its_token_says",
    ),
]

MUTANTS = [*_CLAIMS, *_ACCESS, *_AMOUNTS]
