"""Names that look like others are refused."""

from __future__ import annotations

import unicodedata

import pytest

from merchant_rpc.domain.names import RESERVED_IDS, is_reserved, parse_name
from mesh.errors import InvalidArgument


@pytest.mark.parametrize(
    "name",
    [
        "Acme",
        "Müller & Söhne GmbH",
        "7-Eleven",
        "京东",
        "小米 Mi",
        "北京（朝阳）·老店",
        "セブン-イレブン",
        "카카오 Shop",
        "Яндекс",
        "Ελληνικά Νέα",
        "מכולת",
        "سوق",
        "हिन्दी",
        "Đặng",
    ],
)
def test_names_of_one_script_are_taken_as_they_are(name: str) -> None:
    assert parse_name(name) == name


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("Аcme", "mixes"),
        ("Acmе", "mixes"),
        ("Αcme", "mixes"),
        ("РауРаӏ", "cannot have|look like"),
        ("АСМЕ", "look like"),
        ("ΑΒΕ", "look like"),
        ("日本Яндекс", "mixes"),
        ("עברית عربي", "mixes"),
        ("Ａcme", "cannot have"),
        ("𝐀cme", "cannot have"),
        ("Ⓐcme", "cannot have"),
        ("ⅷ", "cannot have|letter or a digit"),
        ("Ꭺcme", "cannot have"),  # Cherokee
        ("Ac\u200bme", "cannot have"),  # zero width
        ("Ac\u00adme", "cannot have"),  # soft hyphen
        ("Ac\u202eme", "cannot have"),  # turns the direction
        ("Ac\u2060me", "cannot have"),
        ("Ac\ufeffme", "cannot have"),
        ("Ac\u00a0me", "cannot have"),
        ("Ac\u3164me", "cannot have"),  # looks like nothing
        ("Ac\nme", "cannot have"),
        ("Acme 😀", "cannot have"),
        ("Acme\U000e0041", "cannot have"),  # a tag
        ("Acme\ue000", "cannot have"),  # for private use
        ("Z\u0301\u0302\u0303\u0304", "cannot have"),
        ("١٢٣", "cannot have|letter"),
        ("", "letter or a digit"),
        ("   ", "letter or a digit"),
        ("!!!", "letter or a digit"),
    ],
)
def test_what_deceives_is_refused(name: str, problem: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse_name(name)
    assert set(refused.value.fields) == {"name"}
    assert any(part in refused.value.fields["name"] for part in problem.split("|"))


def test_a_name_is_composed_and_has_no_blanks_around_it() -> None:
    assert parse_name(f"  {unicodedata.normalize('NFD', 'Café')} ") == "Café"


@pytest.mark.parametrize(
    "merchant_id", [*sorted(RESERVED_IDS), "acme_test", "mall_test", "billing_rpc"]
)
def test_ids_that_mean_something_are_reserved(merchant_id: str) -> None:
    assert is_reserved(merchant_id)


@pytest.mark.parametrize("merchant_id", ["acme", "acme-test", "test1", "attest", "mall2"])
def test_other_ids_are_free(merchant_id: str) -> None:
    assert not is_reserved(merchant_id)
