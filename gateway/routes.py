"""Routes of paths to their handlers. Literal segments beat variables, a `:verb` beats a plain
variable, and percent-encoding is taken off a variable's value only after its segment was found, so
that an encoded slash never splits one. A path is resolved first and its HTTP verb afterwards: a
known path with another verb is 405, never some other path's variable."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar
from urllib.parse import unquote_to_bytes

Target = TypeVar("Target")

_VARIABLE: Final = re.compile(r"\{([a-z][a-z0-9_]*(?:\.[a-z][a-z0-9_]*)*)\}")
_DOT_SEGMENT: Final = re.compile(rb"/(?:\.|%2[eE]){1,2}(?:/|$)")
_LITERAL: Final = re.compile(r"[A-Za-z0-9._~-]+")


class TemplateInvalid(ValueError):
    """A path template that is not understood, or that answers the same requests as another."""


@dataclass(frozen=True, slots=True)
class PathTemplate:
    """A path of google.api.http: `/api/v1/orders/{order_id}:cancel`."""

    text: str
    segments: tuple[str | None, ...]  # literals; None for a variable
    variables: tuple[tuple[str, ...], ...]  # field path of each variable, in order
    verb: str  # what stands after the colon of the last segment, or ""

    @classmethod
    def parse(cls, text: str) -> PathTemplate:
        """Reads a template.

        Raises:
            TemplateInvalid: wildcards, `{name=pattern}`, empty segments.
        """
        if text == "/":
            return cls("/", ("",), (), "")
        if not text.startswith("/"):
            raise TemplateInvalid(f"{text}: a path starts with /")
        path, colon, verb = (
            text.rpartition(":") if ":" in text.rsplit("/", 1)[1] else (text, "", "")
        )
        if colon and not _LITERAL.fullmatch(verb):
            raise TemplateInvalid(f"{text}: {verb!r} is not a verb")
        segments: list[str | None] = []
        variables: list[tuple[str, ...]] = []
        for part in path[1:].split("/"):
            variable = _VARIABLE.fullmatch(part)
            if variable:
                segments.append(None)
                variables.append(tuple(variable[1].split(".")))
            elif _LITERAL.fullmatch(part):
                segments.append(part)
            else:
                raise TemplateInvalid(f"{text}: {part!r} is neither a literal nor a {{field}}")
        return cls(text, tuple(segments), tuple(variables), verb)


@dataclass(slots=True)
class Leaf(Generic[Target]):
    """One shape of path and its handlers by HTTP verb."""

    targets: dict[str, Target] = field(default_factory=dict)

    def allow(self) -> str:
        """The value of the header Allow."""
        verbs = {*self.targets, "OPTIONS"} | ({"HEAD"} if "GET" in self.targets else set())
        return ", ".join(sorted(verbs))


@dataclass(frozen=True, slots=True)
class Match(Generic[Target]):
    """A known path and the raw values of its variables, still percent-encoded."""

    leaf: Leaf[Target]
    values: tuple[bytes, ...]


@dataclass(slots=True)
class _Node(Generic[Target]):
    literals: dict[bytes, _Node[Target]] = field(default_factory=dict)
    variable: _Node[Target] | None = None
    # by verb after the colon; b"" without
    leaves: dict[bytes, Leaf[Target]] = field(default_factory=dict)


class Router(Generic[Target]):
    """Every route of the gateway."""

    def __init__(self) -> None:
        self._root: _Node[Target] = _Node()
        # paths without variables: one dictionary look-up
        self._fixed: dict[bytes, Match[Target]] = {}

    def add(self, method: str, template: PathTemplate, target: Target) -> None:
        """Adds a route.

        Raises:
            TemplateInvalid: when the same verb on the same shape of path is there.
        """
        node = self._root
        for segment in template.segments:
            if segment is None:
                if node.variable is None:
                    node.variable = _Node()
                node = node.variable
            else:
                node = node.literals.setdefault(segment.encode(), _Node())
        leaf = node.leaves.setdefault(template.verb.encode(), Leaf())
        if method in leaf.targets:
            raise TemplateInvalid(f"{method} {template.text}: another route answers it")
        leaf.targets[method] = target
        if not template.variables:
            self._fixed[template.text.encode()] = Match(leaf, ())

    def match(self, raw_path: bytes) -> Match[Target] | None:
        """The leaf of a raw path (percent-encoded, without query), or None. A path with dot
        segments is unknown, and they are not resolved: a proxy in front that resolves them,
        and decides by what it found, must not see another path than the gateway.
        """
        fixed = self._fixed.get(raw_path)
        if fixed is not None:
            return fixed
        if _DOT_SEGMENT.search(raw_path):
            return None
        return _walk(self._root, raw_path.split(b"/"), 1, ()) if raw_path.startswith(b"/") else None

    def __iter__(self) -> Iterator[Target]:
        waiting = [self._root]
        while waiting:
            node = waiting.pop()
            waiting += node.literals.values()
            if node.variable is not None:
                waiting.append(node.variable)
            for leaf in node.leaves.values():
                yield from leaf.targets.values()


def _walk(
    node: _Node[Target], segments: list[bytes], position: int, values: tuple[bytes, ...]
) -> Match[Target] | None:
    """The most literal way to read the rest of a path."""
    segment = segments[position]
    if position + 1 == len(segments):
        return _last(node, segment, values)
    literal = node.literals.get(segment)
    if literal is not None:
        match = _walk(literal, segments, position + 1, values)
        if match is not None:
            return match
    if node.variable is not None and segment:
        return _walk(node.variable, segments, position + 1, (*values, segment))
    return None


def _last(node: _Node[Target], segment: bytes, values: tuple[bytes, ...]) -> Match[Target] | None:
    stem, _, verb = segment.rpartition(b":")
    # `a:` has no verb: it is no more than a value
    readings = ((segment, b""), (stem, verb)) if verb else ((segment, b""),)
    for text, after in readings:
        literal = node.literals.get(text)
        if literal is not None and after in literal.leaves:
            return Match(literal.leaves[after], values)
    if node.variable is not None:
        for text, after in reversed(readings):
            if text and after in node.variable.leaves:
                return Match(node.variable.leaves[after], (*values, text))
    return None


def decode_value(raw: bytes) -> str:
    """The text of a variable's value.

    Raises:
        UnicodeDecodeError: when it is not UTF-8.
    """
    return (unquote_to_bytes(raw) if b"%" in raw else raw).decode("utf-8")
