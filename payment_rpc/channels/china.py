"""Times and amounts as providers of mainland China write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, time
from zoneinfo import ZoneInfo

from mesh.money import Money
from payment_rpc.domain.statement import ChannelDay, first_plausible

CHINA = ZoneInfo("Asia/Shanghai")
CHINA_DAY = ChannelDay(time_zone=CHINA, cut_off=time(0))

_MOMENT = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2} [0-9]{2}:[0-9]{2}:[0-9]{2}")
# what Alipay takes at most is 100000000.00
_YUAN = re.compile(r"(?P<minus>-?)(?P<whole>[0-9]{1,12})(?:\.(?P<fraction>[0-9]{1,8}))?")


def china_text(moment: datetime) -> str:
    """`yyyy-MM-dd HH:mm:ss` in China time; parts of a second are dropped."""
    return moment.astimezone(CHINA).strftime("%Y-%m-%d %H:%M:%S")


def china_moment(text: str) -> datetime | None:
    """The moment in such a text, in UTC; None when it is none, or no time of our age."""
    if _MOMENT.fullmatch(text) is None:
        return None
    try:
        told = datetime.fromisoformat(text).replace(tzinfo=CHINA)
        return first_plausible(told.astimezone(UTC))
    except (ValueError, OverflowError):  # no such day; a year in which the zone ends
        return None


def yuan(text: str, *, round_half_up: bool = False) -> Money | None:
    """An amount such as "99.9", "-0.60" or "0.05940"; None when it is none, or has parts of a fen
    that may not be rounded.
    """
    found = _YUAN.fullmatch(text)
    if found is None:
        return None
    fraction = (found["fraction"] or "").ljust(2, "0")
    minor, rest = int(found["whole"] + fraction[:2]), fraction[2:].rstrip("0")
    if rest:
        if not round_half_up:
            return None
        minor += rest[0] >= "5"
    return Money(-minor if found["minus"] else minor, "CNY")
