"""Refusals of Alipay's gateway."""

from __future__ import annotations

from typing import Final

MESSAGES: Final = {
    "10000": "Success",
    "10003": "order success pay inprocess",
    "20000": "Service Currently Unavailable",
    "40001": "Missing Required Arguments",
    "40002": "Invalid Arguments",
    "40004": "Business Failed",
    "40005": "Call Limited",
    "40006": "Insufficient Permissions",
}


class Refused(Exception):
    """An answer other than success.

    Attributes:
        code: one of MESSAGES. sub_code: such as `ACQ.TRADE_NOT_EXIST`.
    """

    def __init__(self, code: str, sub_code: str, sub_msg: str) -> None:
        super().__init__(f"{code} {sub_code}: {sub_msg}")
        self.code = code
        self.sub_code = sub_code
        self.sub_msg = sub_msg

    def shown(self) -> dict[str, str]:
        """The fields of the answer."""
        return {
            "code": self.code,
            "msg": MESSAGES[self.code],
            "sub_code": self.sub_code,
            "sub_msg": self.sub_msg,
        }


def business(sub_code: str, sub_msg: str) -> Refused:
    """A refusal by the rules of trades: 40004 and a code of the acquiring product."""
    return Refused("40004", f"ACQ.{sub_code}", sub_msg)


def missing(parameter: str) -> Refused:
    """A common parameter is missing."""
    return Refused("40001", f"isv.missing-{parameter.replace('_', '-')}", f"缺少{parameter}参数")


def invalid(parameter: str, why: str) -> Refused:
    """A common parameter is wrong."""
    return Refused("40002", f"isv.invalid-{parameter.replace('_', '-')}", why)


def system_error() -> Refused:
    """What Alipay says when it does not know itself."""
    return business("SYSTEM_ERROR", "系统繁忙")


def unavailable() -> Refused:
    """The gateway cannot serve now; nobody knows what was done."""
    return Refused("20000", "isp.unknow-error", "系统繁忙")
