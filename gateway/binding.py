"""Builds the request message of an HTTP request from its path, headers, query and body, as the
contract binds them. What the contract does not name is refused by name, and so is a field that is
given in two places.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

from google.protobuf.descriptor import Descriptor, FieldDescriptor

from gateway.codec import Decoders, FieldError, UnsupportedField, read_json
from gateway.codec.dialect import HTTP_BODY, field_policy, longest, spellings
from gateway.errors import MalformedBody
from gateway.routes import decode_value
from gateway.schema import HttpRule, Method, body_type, find_field, message_class
from mesh.errors import InvalidArgument

QUERY_PARAMETERS_MAX: Final = 100
_QUERY_DEPTH_MAX: Final = 4  # levels of nested messages whose fields a query string may name

Path = tuple[str, ...]
Arguments = dict[str, Any]
_FromText = Callable[[str], object]
_FromBody = Callable[[bytes, bytes], Arguments]


class Binder:
    """Builds the request messages of one HTTP rule."""

    def __init__(self, method: Method, rule: HttpRule, decoders: Decoders) -> None:
        """Raises UnsupportedField or LookupError for a rule that does not bind; the lint of the
        schema finds that first.
        """
        request = method.input_type
        self._make = message_class(request)
        self._variables = [
            (path, _text_reader(request, path, decoders)) for path in rule.template.variables
        ]
        self._headers = [
            (
                binding.header.encode(),
                tuple(binding.field.split(".")),
                _text_reader(request, tuple(binding.field.split(".")), decoders),
            )
            for binding in method.policy.http.headers
        ]
        self.header_names = tuple(name for name, _, _ in self._headers)
        self._all_headers = method.policy.http.all_headers
        self.wants_all_headers = bool(self._all_headers)
        self._taken: dict[str, str] = {
            ".".join(path): "is part of the path" for path in rule.template.variables
        }
        self._taken |= {
            binding.field: f"is taken from the header {binding.header}"
            for binding in method.policy.http.headers
        }
        if method.policy.http.all_headers:
            self._taken[method.policy.http.all_headers] = "is filled from the headers"
        self._query = (
            {}
            if rule.body == "*"
            else dict(_query_parameters(request, decoders, skip={*self._taken, rule.body}))
        )
        body = body_type(request, rule.body)
        self.is_raw = body is not None and body.full_name == HTTP_BODY
        self.has_body = bool(rule.body)
        self._from_body = _body_reader(request, rule.body, decoders, raw=self.is_raw)

    def bind(
        self,
        *,
        values: tuple[bytes, ...],
        query: bytes,
        headers: Mapping[bytes, bytes],
        body: bytes,
        content_type: bytes,
        all_headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """The serialized request message.

        Args:
            values: raw values of the path's variables, in order.
            query: raw query string.
            headers: those of `header_names` that the request has, each once.
            body: of the request; empty when the rule has none.
            content_type: of the body; used for raw bodies only.
            all_headers: those for the map that takes every header, when there is one.

        Raises:
            MalformedBody, InvalidArgument: naming the field.
        """
        arguments = self._from_body(body, content_type)
        for (path, read), raw in zip(self._variables, values, strict=True):
            _place(arguments, path, _value(path, read, raw), "the path")
        for header, path, read in self._headers:
            text = headers.get(header)
            if text is not None:
                _place(
                    arguments,
                    path,
                    _value(path, read, text, encoded=False),
                    f"the header {header.decode()}",
                )
        if self._all_headers:
            arguments[self._all_headers] = dict(all_headers or {})
        if query:
            self._bind_query(arguments, query)
        try:
            message: bytes = self._make(**arguments).SerializeToString()
        except UnicodeEncodeError:
            raise MalformedBody.of("", "has text that is not Unicode") from None
        return message

    def _bind_query(self, arguments: Arguments, query: bytes) -> None:
        try:
            pairs = parse_qsl(
                query.decode("ascii"),
                keep_blank_values=True,
                errors="strict",
                max_num_fields=QUERY_PARAMETERS_MAX,
            )
        except UnicodeError:
            raise InvalidArgument.of("query", "is not percent-encoded UTF-8") from None
        except ValueError:
            raise InvalidArgument.of(
                "query", f"has more than {QUERY_PARAMETERS_MAX} parameters"
            ) from None
        seen: set[Path] = set()
        for name, text in pairs:
            parameter = self._query.get(name)
            if parameter is None:
                raise InvalidArgument.of(
                    FieldError("", name).field,
                    self._taken.get(name, "is not a query parameter of this path"),
                )
            path, read, most = parameter
            try:
                value = read(text)
            except FieldError as mismatch:
                raise InvalidArgument.of(name, mismatch.problem) from None
            if most:
                values = _holder(arguments, path).setdefault(path[-1], [])
                values.append(value)
                if len(values) > most:
                    raise InvalidArgument.of(name, f"must have at most {most} items")
            elif path in seen:
                raise InvalidArgument.of(name, "is given twice")
            else:
                _holder(arguments, path)[path[-1]] = value
            seen.add(path)


def _text_reader(request: Descriptor, path: Path, decoders: Decoders) -> _FromText:
    field = find_field(request, path)
    if field is None:
        raise LookupError(".".join(path))
    return decoders.text_of(field)


def _query_parameters(
    message: Descriptor, decoders: Decoders, *, skip: set[str], prefix: str = "", path: Path = ()
) -> Iterator[tuple[str, tuple[Path, _FromText, int]]]:
    """Every name that a query string may have, with the field that it means, and for a list how
    many items it may have (else 0).
    """
    for field in message.fields:
        here = (*path, field.name)
        if ".".join(here) in skip or field_policy(field).sensitive:
            continue
        for spelling in spellings(field):
            name = prefix + spelling
            try:
                yield (
                    name,
                    (
                        here,
                        decoders.text_of(field),
                        (longest(field) or QUERY_PARAMETERS_MAX) if field.is_repeated else 0,
                    ),
                )
            except UnsupportedField:
                if (
                    _is_plain_message(field)
                    and field.message_type is not None
                    and len(here) < _QUERY_DEPTH_MAX
                ):
                    yield from _query_parameters(
                        field.message_type, decoders, skip=skip, prefix=f"{name}.", path=here
                    )


def _is_plain_message(field: FieldDescriptor) -> bool:
    return (
        field.message_type is not None
        and not field.is_repeated
        and not field.message_type.full_name.startswith("google.")
    )


def _body_reader(request: Descriptor, body: str, decoders: Decoders, *, raw: bool) -> _FromBody:
    if not body:
        return lambda _body, _content_type: {}
    if raw:
        return _raw_reader("" if body == "*" else body)
    # no body at all is the empty message: many commands say everything in their path
    if body == "*":
        decode = decoders.of(request)
        return lambda text, _content_type: _from_json(text, decode) if text else {}
    name = body
    convert = decoders.value_of(request.fields_by_name[name])
    return lambda text, _content_type: {name: _from_json(text, convert)} if text else {}


def _raw_reader(name: str) -> _FromBody:
    def read(body: bytes, content_type: bytes) -> Arguments:
        content = {"content_type": content_type.decode("latin-1"), "data": body}
        return {name: content} if name else content

    return read


def _from_json(text: bytes, convert: Callable[[Any], Any]) -> Any:
    if text.isspace():
        raise MalformedBody.of("", "is blank")
    try:
        value = read_json(text)
        if value is None:
            raise MalformedBody.of("", "must not be null")
        return convert(value)
    except FieldError as mismatch:
        raise MalformedBody.of(mismatch.field, mismatch.problem) from None


def _value(path: Path, read: _FromText, raw: bytes, *, encoded: bool = True) -> object:
    name = ".".join(path)
    try:
        return read(decode_value(raw) if encoded else raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise InvalidArgument.of(name, "is not valid UTF-8") from None
    except FieldError as mismatch:
        raise InvalidArgument.of(name, mismatch.problem) from None


def _place(arguments: Arguments, path: Path, value: object, source: str) -> None:
    """Sets a field that the path or a header names; the body may repeat it, and must not contradict
    it.
    """
    holder = _holder(arguments, path)
    if holder.setdefault(path[-1], value) != value:
        raise InvalidArgument.of(".".join(path), f"differs from {source}")


def _holder(arguments: Arguments, path: Path) -> Arguments:
    """The arguments of the message that holds the last field of a path."""
    holder = arguments
    for name in path[:-1]:
        holder = holder.setdefault(name, {})
    return holder
