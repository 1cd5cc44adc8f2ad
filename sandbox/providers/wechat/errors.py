"""Refusals of WeChat Pay's APIv3: a status, a code and a message, without a signature."""

from __future__ import annotations

from typing import Any, Final

_STATUSES: Final = {
    "PARAM_ERROR": 400,
    "INVALID_REQUEST": 400,
    "APPID_MCHID_NOT_MATCH": 400,
    "ORDER_CLOSED": 400,
    "NO_STATEMENT_EXIST": 400,
    "STATEMENT_CREATING": 400,
    "SIGN_ERROR": 401,
    "NO_AUTH": 403,
    "OUT_TRADE_NO_USED": 403,
    "RULE_LIMIT": 403,
    "TRADE_ERROR": 403,
    "NOT_ENOUGH": 403,
    "USER_ACCOUNT_ABNORMAL": 403,
    "ORDER_NOT_EXIST": 404,
    "RESOURCE_NOT_EXISTS": 404,
    "FREQUENCY_LIMITED": 429,
    "SYSTEM_ERROR": 500,
    "SERVICE_UNAVAILABLE": 503,
}


class Refused(Exception):
    """An answer other than success.

    Attributes:
        code: one of WeChat Pay's codes. field: the field that is wrong, or "".
    """

    def __init__(self, code: str, message: str, *, field: str = "") -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.field = field

    @property
    def status(self) -> int:
        """The HTTP status that goes with the code."""
        return _STATUSES[self.code]

    def shown(self) -> dict[str, Any]:
        """The body of the answer."""
        body: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.field:
            body["detail"] = {
                "field": self.field,
                "value": "",
                "issue": self.message,
                "location": "body",
            }
        return body


def code_of(status: int) -> str:
    """A code that goes with a status, for answers that a fault makes."""
    return next((code for code, known in _STATUSES.items() if known == status), "SYSTEM_ERROR")


def wrong(field: str, message: str = "参数错误") -> Refused:
    """A field that is missing or wrong."""
    return Refused("PARAM_ERROR", f"{message}: {field}", field=field)
