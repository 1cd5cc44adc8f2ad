"""MySQL and MariaDB compare our strings with PAD SPACE: 'a' and 'a ' are one key there, and two on
SQLite. No collation without padding is known to both, so no key may end with a space: each column
of a key has an origin here, and each origin is
shown to refuse one."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from enum import Enum
from typing import Any

import paymesh
import pytest
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from sqlalchemy import String, Table, UniqueConstraint
from sqlalchemy.sql.schema import ColumnCollectionConstraint

import merchant_rpc.tables
import order_rpc.tables
import payment_rpc.tables
import seckill_rpc.tables
from gateway.schema import load_schema
from mesh import requests
from mesh.claims import MERCHANT_ID, ClaimNames, read_claims, subject_of
from mesh.clock import SystemClock
from mesh.errors import TokenInvalid
from mesh.ids import UlidIds
from mesh.key_files import _NAME
from mesh.validation import violations_of

TABLES = [
    table
    for module in (
        payment_rpc.tables,
        order_rpc.tables,
        seckill_rpc.tables,
        merchant_rpc.tables,
    )
    for table in module.metadata.sorted_tables
]
METHODS = load_schema().methods
for _module in pkgutil.walk_packages(paymesh.__path__, "paymesh."):
    if _module.name.endswith("_pb2"):
        importlib.import_module(_module.name)


class Origin(Enum):
    """Where the values of a column come from."""

    CALLER = "a field of a request, or an id of ours that callers repeat: refused by the rules of the contract"
    TOKEN = "tenant and subject of a token, or the name of a service"
    HEADER = "the header Idempotency-Key"
    OURS = "an id or a digest that we make, a name out of our code, or a text put together of such"
    CHANNEL = "a number of a channel: for people who look for it, never the key of anything"


O = Origin
ORIGINS = {
    "account": O.OURS,
    "account_id": O.CALLER,
    "activity_id": O.CALLER,
    "aggregate_id": O.OURS,
    "attempt_id": O.OURS,
    "attention_key": O.OURS,
    "automatic_of": O.OURS,
    "business_key": O.OURS,
    "callback_id": O.OURS,
    "caller": O.TOKEN,
    "channel": O.CALLER,
    "channel_ref": O.CHANNEL,
    "channel_refund_no": O.CHANNEL,
    "channel_trade_no": O.CHANNEL,
    "client_request_id": O.CALLER,
    "code_digest": O.OURS,
    "consumer": O.OURS,
    "currency": O.CALLER,
    "customer_digest": O.OURS,
    "dedupe_key": O.OURS,
    "destination": O.OURS,
    "digest": O.OURS,
    "difference_id": O.CALLER,
    "difference_key": O.OURS,
    "email_digest": O.OURS,
    "entity": O.OURS,
    "entry_id": O.OURS,
    "event_id": O.CALLER,
    "figure": O.OURS,
    "idempotency_key": O.HEADER,
    "import_id": O.CALLER,
    "key_id": O.CALLER,
    "kind": O.OURS,
    "live_request": O.OURS,
    "log": O.OURS,
    "member_id": O.CALLER,
    "merchant_id": O.CALLER,
    "method": O.OURS,
    "oidc_sub": O.TOKEN,
    "op_id": O.CALLER,
    "order_id": O.CALLER,
    "order_no": O.CALLER,
    "payment_id": O.CALLER,
    "provider": O.CALLER,
    "refund_id": O.CALLER,
    "request_id": O.CALLER,
    "resource_id": O.OURS,
    "result": O.OURS,
    "session_id": O.CALLER,
    "sku_id": O.CALLER,
    "state": O.OURS,
    "subject": O.OURS,
    "target": O.OURS,
    "token_digest": O.OURS,
    "user_id": O.CALLER,
}
# Fields of requests that may end with a space. None of them goes into a key.
FREE = {
    "reason",
    "remark",
    "name",
    "product_name",
    "customer_name",
    "customer_email",
    "email",  # its digest is a key: of the address without spaces around it
    "description",
    "recipient",
    "phone",
    "region",
    "city",
    "street",
    "postal_code",
    "carrier",
    "credentials",
    "label",
    "password",  # only its hash is kept
    "credit_card_number",
    "credit_card_cvv",
    "timestamp",
    "signature",
}


def keys(table: Table) -> Iterator[tuple[str, bool]]:
    """The string columns of keys and indexes, and whether the key is unique."""
    unique: list[ColumnCollectionConstraint] = [
        table.primary_key,
        *(rule for rule in table.constraints if isinstance(rule, UniqueConstraint)),
    ]
    for columns, is_unique in [
        *((list(rule.columns), True) for rule in unique),
        *((list(index.columns), bool(index.unique)) for index in table.indexes),
    ]:
        yield from (
            (column.name, is_unique) for column in columns if isinstance(column.type, String)
        )


def texts(
    message: Any, above: tuple[FieldDescriptor, ...] = ()
) -> Iterator[tuple[FieldDescriptor, ...]]:
    """The paths of a message's string fields; what maps hold is a note, never a key."""
    for field in message.fields:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            continue
        if field.type == FieldDescriptor.TYPE_STRING:
            yield (*above, field)
        elif field.message_type is None or field.message_type.GetOptions().map_entry:
            continue  # a map is never a key: keys and values of one are a merchant's own notes
        elif field.message_type.full_name.startswith("paymesh."):
            yield from texts(field.message_type, (*above, field))


def put(message: Message, path: tuple[FieldDescriptor, ...], text: str) -> None:
    """Writes a text into a field, and one element into each list on the way."""
    first, rest = path[0], path[1:]
    if rest:
        inner = getattr(message, first.name)
        put(inner.add() if first.is_repeated else inner, rest, text)
    elif first.is_repeated:
        getattr(message, first.name).append(text)
    else:
        setattr(message, first.name, text)


def is_refused(message: Message, path: tuple[FieldDescriptor, ...]) -> bool:
    """Whether the rules of the contract name that very field."""
    broken = [
        [element.field_name for element in proto.field.elements]
        for proto in (violation.proto for violation in violations_of(message))
        if proto.field is not None
    ]  # None: a rule of several fields
    return [field.name for field in path] in broken


def test_every_column_of_every_key_has_an_origin() -> None:
    assert {name for table in TABLES for name, _ in keys(table)} == set(ORIGINS)


def test_numbers_of_channels_are_no_keys() -> None:
    assert [
        (table.name, name)
        for table in TABLES
        for name, is_unique in keys(table)
        if is_unique and ORIGINS[name] is O.CHANNEL
    ] == []


@pytest.mark.parametrize("path", sorted(method.policy.path for method in METHODS))
def test_no_field_of_a_request_that_may_end_with_a_space_goes_into_a_key(path: str) -> None:
    [method] = [method for method in METHODS if method.policy.path == path]
    request = message_factory.GetMessageClass(
        descriptor_pool.Default().FindMessageTypeByName(method.input_type.full_name)
    )
    taken = set()
    for field in texts(request.DESCRIPTOR):
        for text in ("a ", "A ", "1 ", "PAY1 ", "2026-11-20 "):
            message = request()
            put(message, field, text)
            if not is_refused(message, field):
                taken.add(field[-1].name)
    assert taken <= FREE | {name for name, origin in ORIGINS.items() if origin is O.CHANNEL}
    assert FREE.isdisjoint(ORIGINS)


def test_every_key_that_callers_name_is_a_field_of_some_request() -> None:
    named = {field[-1].name for method in METHODS for field in texts(method.input_type)}
    assert {name for name, origin in ORIGINS.items() if origin is O.CALLER} <= named


def test_who_somebody_is_never_ends_with_a_space() -> None:
    with pytest.raises(TokenInvalid):
        read_claims(b'{"iss": "i", "aud": "paymesh", "iat": 1, "exp": 2, "sub": "alice "}')
    with pytest.raises(TokenInvalid):
        ClaimNames().merchant_of({"merchant_id": "mall "}, frozenset())
    assert [pattern.fullmatch("mall ") for pattern in (MERCHANT_ID, _NAME)] == [None, None]
    assert subject_of("alice ") == "enc:alice.20"


def test_an_idempotency_key_has_no_spaces() -> None:
    assert requests._KEY.fullmatch("key ") is None


def test_ids_of_ours_have_no_spaces() -> None:
    assert re.fullmatch(r"[0-9A-Z]+", UlidIds(SystemClock()).new("PAY"))
