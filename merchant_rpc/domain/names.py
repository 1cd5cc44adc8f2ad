"""What merchants may be called. A name that looks like another one's is a way to deceive buyers, so
names that mix look-alikes are refused (the restriction level "highly restrictive" of UTS #39, and
no letters that all look like Latin ones).
"""

from __future__ import annotations

import unicodedata

from merchant_rpc.domain.merchant import TEST_SUFFIX
from mesh.errors import InvalidArgument

_MARKS_MAX = 2  # in a row; more is for letters that nobody can read
_SIGNS = frozenset(
    " !\"#$%&'()*+,-./:;=?@[]_|~¡¿§©®°£¥€·–—‘’“”«»…、。〈〉《》「」『』【】（），：；！？・％＆＋－"
)
# Of the first word of a character's Unicode name. Other scripts have look-alikes that nobody
# checks, or nobody writes with them.
_SCRIPTS = {
    "LATIN": "LATIN",
    "CYRILLIC": "CYRILLIC",
    "GREEK": "GREEK",
    "ARMENIAN": "ARMENIAN",
    "GEORGIAN": "GEORGIAN",
    "HEBREW": "HEBREW",
    "ARABIC": "ARABIC",
    "DEVANAGARI": "DEVANAGARI",
    "BENGALI": "BENGALI",
    "TAMIL": "TAMIL",
    "TELUGU": "TELUGU",
    "THAI": "THAI",
    "CJK": "HAN",
    "IDEOGRAPHIC": "HAN",
    "HIRAGANA": "KANA",
    "KATAKANA": "KANA",
    "KATAKANA-HIRAGANA": "KANA",
    "BOPOMOFO": "BOPOMOFO",
    "HANGUL": "HANGUL",
}
# What people write together without a look-alike between the parts.
_TOGETHER = (
    frozenset({"LATIN", "HAN", "KANA"}),
    frozenset({"LATIN", "HAN", "BOPOMOFO"}),
    frozenset({"LATIN", "HAN", "HANGUL"}),
)
_LIKE_LATIN = frozenset("АВЕЅІЈКМНОРСТУХаеіјорсухѕһҺӏӀѵѴүҮԁԛԝԌΑΒΕΖΗΙΚΜΝΟΡΤΥΧαικνορυχ")

# fmt: off
RESERVED_IDS = frozenset(
    {
        "mall", "admin", "administrator", "api", "www", "paymesh", "system", "root", "test",
        "tests", "live", "sandbox", "operator", "operators", "console", "gateway", "merchant",
        "merchants", "member", "members", "service", "services", "internal", "public",
        "anonymous", "support", "help", "billing", "security", "status", "mail", "docs", "static",
        "assets", "login", "logout", "sign-up", "signup", "checkout", "pay", "payment",
        "payments", "order", "orders", "refund", "refunds", "webhook", "webhooks", "key", "keys",
        "session", "sessions", "settings", "null", "none", "undefined", "default", "all", "any",
        "me", "self", "current", "unknown",
    }
)
# fmt: on


def parse_name(text: str, *, field: str = "name") -> str:
    """A name as it is stored: composed, without blanks around it.

    Raises:
        InvalidArgument: it is empty, has a sign that cannot be seen or is not in use, or mixes
            letters that look alike.
    """
    name = unicodedata.normalize("NFC", text).strip()
    if not any(unicodedata.category(character)[0] in "LN" for character in name):
        raise InvalidArgument.of(field, "must have a letter or a digit")
    scripts, marks = set(), 0
    for character in name:
        kind = unicodedata.category(character)[0]
        marks = marks + 1 if kind == "M" else 0
        script = _script(character, kind)
        if script is None or marks > _MARKS_MAX:
            raise InvalidArgument.of(field, "has a character that names cannot have")
        scripts.add(script)
    scripts.discard("")
    if len(scripts) > 1 and not any(scripts <= allowed for allowed in _TOGETHER):
        raise InvalidArgument.of(field, "mixes letters of several scripts")
    letters = [character for character in name if unicodedata.category(character)[0] == "L"]
    if letters and all(letter in _LIKE_LATIN for letter in letters):
        raise InvalidArgument.of(field, "has letters that look like others")
    return name


def is_reserved(merchant_id: str) -> bool:
    """Whether no merchant may have this id: it is ours, or a test sibling's."""
    return merchant_id in RESERVED_IDS or merchant_id.endswith((TEST_SUFFIX, "_rpc"))


def _script(character: str, kind: str) -> str | None:
    """The script of a letter, "" for what goes with any, None for what names cannot have."""
    if character in _SIGNS or character in "0123456789":
        return ""
    if kind == "M":
        return (
            "" if unicodedata.name(character, "").startswith("COMBINING") else _by_name(character)
        )
    # A letter that is another one in disguise (full width, mathematical, in a circle) is refused.
    if kind != "L" or unicodedata.normalize("NFKC", character) != character:
        return None
    return _by_name(character)


def _by_name(character: str) -> str | None:
    return _SCRIPTS.get(unicodedata.name(character, "?").split(" ")[0])
