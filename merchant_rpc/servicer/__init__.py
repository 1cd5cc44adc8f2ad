"""gRPC in and out: a message becomes one call of a use case, its result a message."""
