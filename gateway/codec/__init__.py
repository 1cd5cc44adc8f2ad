"""The JSON dialect of the gateway, compiled once per message descriptor: snake_case out, every
spelling of the contract in, number literals digit for digit, nothing unknown, nothing twice.
`google.protobuf.json_format` is the oracle of its tests wherever the two dialects agree."""

from gateway.codec.decoder import Decoders, Numbers
from gateway.codec.dialect import FieldError, UnsupportedField
from gateway.codec.encoder import Encoders
from gateway.codec.reader import NumberLiteral, read_json

__all__ = [
    "Decoders",
    "Encoders",
    "FieldError",
    "NumberLiteral",
    "Numbers",
    "UnsupportedField",
    "read_json",
]
