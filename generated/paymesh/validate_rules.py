"""Registers buf/validate/validate.proto, which generated modules import, where nobody else has."""

from pathlib import Path

from google.protobuf import descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2  # noqa: F401  its imports go first
from google.protobuf import descriptor_pool as _pool

_NAME = "buf/validate/validate.proto"

try:
    DESCRIPTOR = _pool.Default().FindFileByName(_NAME)
except KeyError:
    DESCRIPTOR = _pool.Default().AddSerializedFile(Path(__file__).with_name("validate_rules.binpb").read_bytes())
