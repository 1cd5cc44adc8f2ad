"""The OpenAPI 3.1 document, made from the descriptors alone: paths from google.api.http, texts from
comments, rules from buf.validate, errors from the error enums, examples from field options. It
describes what the gateway does because both read the same annotations."""

from gateway.openapi.document import build_document

__all__ = ["build_document"]
