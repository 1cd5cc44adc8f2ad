"""Bare integers where a merchant writes an amount. Some write major units and some write cents, and
a program cannot know: it asks, or the merchant has decided once which ones they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from gateway.codec.dialect import FieldError, field_policy, spellings
from gateway.codec.reader import NumberLiteral
from mesh.errors import InvalidArgument
from mesh.money import DIGITS_MAX, Money, currency_exponent

_CURRENCY: Final = "currency"  # name of the field beside an amount, or in the message around it


class BareInteger(FieldError):
    """An amount is an integer and not text, so that it has two readings.

    Attributes:
        number: the integer, not negative and with DIGITS_MAX digits at most.
        minor_field: the field of minor units beside the amount.
    """

    def __init__(self, number: int, field: str, minor_field: str) -> None:
        super().__init__(
            f'{number} could be in major or in minor units: send "{field}" as text or '
            f'"{minor_field}":{number}'
        )
        self.number = number
        self.minor_field = minor_field
        self._field = field
        self._has_currency = False

    def inside_of(
        self, tree: Mapping[str, object], currencies: Iterable[str], key: str
    ) -> FieldError:
        """The same problem, seen from the message around it, which may have the currency."""
        for name in currencies:
            self._read_in(tree.get(name))
        return self.inside(key)

    def put_into(self, arguments: dict[str, Any], key: str) -> None:
        """Takes the integer for minor units.

        Raises:
            FieldError: they are given already.
        """
        if self.minor_field in arguments:
            raise FieldError(f"is given twice, as another spelling of {self.minor_field}", key)
        arguments[self.minor_field] = self.number

    def _read_in(self, currency: object) -> None:
        """Says what the readings are in a currency; the first known one counts, which is the
        nearest to the amount.
        """
        if self._has_currency or not isinstance(currency, str):
            return
        try:
            exponent = currency_exponent(currency)
        except InvalidArgument:
            return  # the service refuses it
        self._has_currency = True
        cents = Money(self.number, currency).format()
        ways = f'send "{self._field}":"{cents}" or "{self.minor_field}":{self.number}'
        if exponent and self.number:
            major = f"{self.number}.{'0' * exponent}"
            self.problem = f"{self.number} could be {major} or {cents} {currency}: {ways}"
        else:
            self.problem = f"a bare integer could be major or minor units: {ways}"


def amount_reader(field: FieldDescriptor) -> Callable[[object], object]:
    """Reads the amount of a merchant: text as it is. Raises BareInteger for an integer, FieldError
    for anything else.
    """
    name, minor_field = field.name, field_policy(field).minor_units_field

    def read(value: object) -> object:
        if isinstance(value, str):
            return value
        if type(value) is int:
            if value < 0:
                raise FieldError("must not be negative")
            if value >= 10**DIGITS_MAX:
                raise FieldError(f"more than {DIGITS_MAX} digits")
            raise BareInteger(value, name, minor_field)
        if isinstance(value, NumberLiteral):
            raise FieldError('expected a decimal string in major units such as "99.99"')
        raise FieldError("must be a string")

    return read


def currency_names(message: Descriptor) -> tuple[str, ...]:
    """The spellings of a message's currency; none when it has no currency."""
    field = message.fields_by_name.get(_CURRENCY)
    return () if field is None else spellings(field)
