"""Examples of answers. A field's own example counts, then that of a field of the same name
elsewhere in the contract, then what its name and type say; so that a reader sees a
payment and not `"string"`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor

from gateway.codec.dialect import (
    DURATION,
    HTTP_BODY,
    INT64,
    TIMESTAMP,
    enum_prefix,
    field_policy,
    map_entry,
)

_DEPTH_MAX: Final = 5
_ULID: Final = "01JD0000000000000000000000"
_AMOUNTS: Final = re.compile(
    r".*(?:amount|price|balance|balance_after|refundable|refundable_after|fee_returned|fee)"
)
# What the contract cannot say of its answers, because examples stand beside fields that are asked
# for.
_NAMED: Final = {
    "payment_id": f"PAY{_ULID}",
    "paid_payment_id": f"PAY{_ULID}",
    "transaction_id": f"PAY{_ULID}",
    "refund_id": f"RF{_ULID}",
    "activity_id": f"ACT{_ULID}",
    "request_id": f"RRQ{_ULID}",
    "merchant_id": "mall",
    "user_id": "alice",
    "brand": "VISA",
    "last_four": "1111",
    "operator": "clerk",
    "time_zone": "Asia/Shanghai",
    "currency": "CNY",
    "unit_price": "99.99",
    "conversion": "0.4200",
    "captured": "99.99",
    "refunded": "0.00",
    "refund_reserved": "0.00",
    "channel_trade_no": f"SBX{_ULID}",
    "channel_refund_no": f"SBR{_ULID}",
    "message": "",
    "remark": "",
    "value": "https://pay.example/cashier/1",
    "tracking_number": "SF1234567890",
    "discount_amount": "0.00",
    "reason": "",
    "trace_id": "4bf92f3577b34da6a3ce929d0e0e4736",
    "next_page_token": "",
    "problem": "",
    "error": "",
    "failure": "",
}
_NUMBERS: Final = {"expiration_year": 2030, "expiration_month": 12}
_USUAL: Final = ("SUCCESS", "SUCCEEDED", "PAID", "COMPLETED", "OPEN")  # states of what went well
_ABSENT: Final = frozenset({"failure", "next_action"})  # messages that are null then
_MOMENT: Final = "2026-11-29T08:00:00Z"


class Examples:
    """Example trees of the messages of a contract."""

    def __init__(self, messages: Iterable[Descriptor]) -> None:
        """Takes every message whose fields may have examples that others share."""
        self._shared: dict[str, object] = {}
        for message in messages:
            for field in message.fields:
                declared = field_policy(field).example
                if declared and field.type == FieldDescriptor.TYPE_STRING:
                    self._shared.setdefault(field.name, json.loads(declared))

    def of(self, message: Descriptor, depth: int = 0) -> dict[str, object]:
        """An answer with every field."""
        return {field.name: self.value(field, depth) for field in message.fields}

    def value(self, field: FieldDescriptor, depth: int = 0) -> object:
        """The value of one field, as it goes out."""
        entry = map_entry(field)
        if entry is not None:
            return {"name": self._single(entry[1], depth)}
        declared = field_policy(field).example
        single: Any = (
            json.loads(declared)
            if declared and field.message_type is None
            else self._single(field, depth)
        )
        if not field.is_repeated or isinstance(single, list):
            return single
        return [] if single is None else [single]

    def _single(self, field: FieldDescriptor, depth: int) -> object:
        if field.message_type is not None:
            return (
                None
                if field.name in _ABSENT and field.has_presence
                else self._message(field.message_type, depth)
            )
        if field.enum_type is not None:
            return _enum(field.enum_type)
        match field.type:
            case FieldDescriptor.TYPE_BOOL:
                return True
            case FieldDescriptor.TYPE_BYTES:
                return ""
            case FieldDescriptor.TYPE_STRING:
                return self._text(field.name)
            case _:
                number = _NUMBERS.get(field.name, 1)
                return str(number) if field.type in INT64 else number

    def _message(self, message: Descriptor, depth: int) -> object:
        if message.full_name == TIMESTAMP:
            return _MOMENT
        if message.full_name == DURATION:
            return "1s"
        return (
            None
            if depth >= _DEPTH_MAX or message.full_name == HTTP_BODY
            else self.of(message, depth + 1)
        )

    def _text(self, name: str) -> object:
        if name in _NAMED:
            return _NAMED[name]
        if name in self._shared:
            return self._shared[name]
        if _AMOUNTS.fullmatch(name):
            return "100.00"
        return (
            f"{name.upper().removesuffix('_ID')[:3]}{_ULID}"
            if name.endswith("_id")
            else name.replace("_", " ")
        )


def _enum(enum: EnumDescriptor) -> str:
    """What a thing is that went well, else the first value that means something."""
    prefix = enum_prefix(enum)
    names = [value.name.removeprefix(prefix) for value in enum.values]
    return next((name for name in _USUAL if name in names), names[min(1, len(names) - 1)])
