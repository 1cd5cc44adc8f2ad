"""buf.validate from the protovalidate wheel: adds its descriptor to the default pool, where generated modules look for it."""

from google.protobuf import descriptor_pool as _pool
from google.protobuf import descriptor_pb2, duration_pb2, field_mask_pb2, timestamp_pb2  # noqa: F401  its imports go first
from protovalidate._gen.buf.validate.validate_pb import _DESC as _desc

DESCRIPTOR = _pool.Default().AddSerializedFile(bytes(_desc.proto.to_binary()))
