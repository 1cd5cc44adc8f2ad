"""What a method says that it may be refused with, against what it is refused with.

While this watches, every refusal that leaves a use case of an RPC, a method of a server or a door
of the gateway in this process is looked up in the list that the OpenAPI document shows. One that
the list lacks fails the test that brought it about, whatever that test is about."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import json
import pkgutil
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from google.rpc import error_details_pb2, status_pb2

from gateway.app import Gateway
from gateway.handlers import RouteHandler
from gateway.openapi.refusals import refusals_of
from gateway.schema import Method, load_schema
from mesh import pipeline, refusals
from mesh.errors import MeshError, RemoteError, UpstreamUnavailable
from mesh.refusals import Refusals
from mesh.wire_errors import COMMON

SERVICES = ("payment_rpc", "order_rpc", "seckill_rpc", "merchant_rpc")
SCHEMA = load_schema()
Reason = tuple[str, str]  # domain, reason

# Every method of the contract by its path of gRPC, and what it lists.
METHODS: dict[str, Method] = {method.policy.path: method for method in SCHEMA.methods}
LISTED: dict[str, frozenset[Reason]] = {
    path: frozenset(
        (spec.domain, spec.reason)
        for rule in (None, *method.rules)
        for spec in refusals_of(method, SCHEMA.errors, rule=rule)
    )
    for path, method in METHODS.items()
}
# What refused which method and stands in no list of it; emptied after each test.
unlisted: set[tuple[str, Reason]] = set()


def note(paths: frozenset[str], reason: Reason) -> None:
    """A refusal of something that serves these methods. Internal errors say nothing, and methods of
    tests list nothing.
    """
    ours = paths & LISTED.keys()
    if ours and not any(reason in LISTED[path] for path in ours):
        unlisted.update((path, reason) for path in ours)


# A method of a server


def reason_of(status: status_pb2.Status) -> Reason:
    """The reason that a status carries."""
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details)
    return info.domain, info.reason


def watch_servers(patch: pytest.MonkeyPatch) -> None:
    """What leaves the pipeline around our own servicers; those of tests refuse as a test needs
    it.
    """
    init = pipeline._Method.__init__

    def watched(self: Any, *args: Any) -> None:
        init(self, *args)
        if self._behaviour.__module__.startswith(SERVICES):
            self._refusals = _WatchedRefusals(self._refusals, self._path)

    patch.setattr(pipeline._Method, "__init__", watched)


class _WatchedRefusals:
    def __init__(self, refusals: Refusals, path: str) -> None:
        self._refusals = refusals
        self._path = path

    def status_of(self, *args: Any) -> Any:
        code, status = self._refusals.status_of(*args)
        if status is not None:
            note(frozenset({self._path}), reason_of(status))
        return code, status


# A use case of an RPC


def use_cases() -> dict[tuple[type, str], frozenset[str]]:
    """The methods of use cases that RPCs call, with the paths of those RPCs: an RPC of a servicer
    says `self._things.do(...)`, and what `things` is stands in the servicer's `__init__`."""
    found: defaultdict[tuple[type, str], set[str]] = defaultdict(set)
    for servicer, service in servicers():
        init: Any = vars(servicer)["__init__"]
        kinds = inspect.get_annotations(init, eval_str=True)
        for rpc in ast.walk(ast.parse(inspect.getsource(servicer))):
            if isinstance(rpc, ast.AsyncFunctionDef) and f"/{service}/{rpc.name}" in METHODS:
                for node in ast.walk(rpc):
                    match node:
                        case ast.Attribute(
                            value=ast.Attribute(value=ast.Name(id="self"), attr=thing), attr=name
                        ):
                            kind = kinds.get(thing.removeprefix("_"))
                            if inspect.isclass(kind) and ".usecases." in kind.__module__:
                                found[kind, name].add(f"/{service}/{rpc.name}")
    return {key: frozenset(paths) for key, paths in found.items()}


def servicers() -> Iterator[tuple[type, str]]:
    """Every servicer with the full name of its service: its base class `XServicer` stands in the
    generated module of the file that has `X`.
    """
    for package in SERVICES:
        folder = importlib.import_module(f"{package}.servicer")
        for found in pkgutil.iter_modules(folder.__path__, f"{folder.__name__}."):
            module = importlib.import_module(found.name)
            for _, servicer in inspect.getmembers(module, inspect.isclass):
                base = servicer.__mro__[1]
                if servicer.__module__ == module.__name__ and base.__module__.endswith("_pb2_grpc"):
                    yield (
                        servicer,
                        f"{base.__module__.rpartition('.')[0]}.{base.__name__.removesuffix('Servicer')}",
                    )


def leaving(error: MeshError, package: str) -> Reason:
    """The reason under which an error of a use case leaves its server."""
    if isinstance(error, RemoteError) and not isinstance(error, UpstreamUnavailable):
        return (
            (COMMON, "INTERNAL")
            if error.grpc_code in refusals._REFUSES_US
            else (error.domain, error.reason)
        )
    spec = SCHEMA.errors.find(package, error.reason)
    return (COMMON, "INTERNAL") if spec is None else (spec.domain, spec.reason)


def watched_use_case(method: Callable[..., Any], paths: frozenset[str]) -> Callable[..., Any]:
    """The same method, whose refusals are looked at on their way out."""
    package = METHODS[min(paths)].policy.package

    @contextmanager
    def watch() -> Iterator[None]:
        try:
            yield
        except MeshError as error:
            note(paths, leaving(error, package))
            raise

    if inspect.isasyncgenfunction(method):

        @functools.wraps(method)
        async def stream(*args: Any, **options: Any) -> AsyncIterator[Any]:
            with watch():
                async for item in method(*args, **options):
                    yield item

        return stream

    @functools.wraps(method)
    async def call(*args: Any, **options: Any) -> Any:
        with watch():
            return await method(*args, **options)

    return call


def watch_use_cases(patch: pytest.MonkeyPatch) -> None:
    """What leaves the use cases of RPCs, whoever calls them."""
    for (kind, name), paths in use_cases().items():
        method = inspect.getattr_static(kind, name)
        if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
            patch.setattr(kind, name, watched_use_case(method, paths))


# A door of the gateway


def watch_doors(patch: pytest.MonkeyPatch) -> None:
    """What a door refuses by itself, against the list of that address. What servers refuse is
    looked at where they do.
    """
    refuse = Gateway._error_response

    def watched(self: Any, error: MeshError, request: Any, target: Any) -> Any:
        if (
            isinstance(target, RouteHandler)
            and target._path in METHODS
            and not isinstance(error, RemoteError)
        ):
            method = METHODS[target._path]
            verb = "GET" if request.method == "HEAD" else request.method
            spec = self.error_renderer._spec(error, target.package)
            for rule in method.rules:
                if (rule.verb, rule.template.text) == (verb, target.route) and spec not in set(
                    refusals_of(method, SCHEMA.errors, rule=rule)
                ):
                    unlisted.add((f"{verb} {target.route}", (spec.domain, spec.reason)))
        return refuse(self, error, request, target)

    patch.setattr(Gateway, "_error_response", watched)


# A process, by its log

# By what logs write; a caller who gave up was answered with nothing.
_NAMES: dict[str, frozenset[str]] = {
    **{
        path: frozenset({"CANCELLED", *(name for _, name in listed)})
        for path, listed in LISTED.items()
    },
    **{
        f"{rule.verb} {rule.template.text}": frozenset(
            spec.reason for spec in refusals_of(method, SCHEMA.errors, rule=rule)
        )
        for method in SCHEMA.methods
        for rule in method.rules
    },
}


def unlisted_in(log: Iterable[str]) -> set[tuple[str, str]]:
    """Methods and addresses, and the reasons that our processes' own logs say they were refused
    with and that no list of them has.
    """
    found = set()
    for line in log:
        refused = ('{"event":"call"' in line and '"reason":"' in line) or (
            '{"event":"request"' in line and '"refusal":""' not in line
        )
        # a crash may have cut the last one
        if refused and line.startswith("{") and line.rstrip().endswith("}"):
            entry = json.loads(line)
            place = (
                entry["method"] if entry["event"] == "call" else f"{entry['verb']} {entry['route']}"
            )
            reason = entry["reason"] if entry["event"] == "call" else entry["refusal"]
            if place in _NAMES and reason not in _NAMES[place]:
                found.add((place, reason))
    return found


@contextmanager
def watching() -> Iterator[None]:
    """Everything above, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        watch_servers(patch)
        watch_use_cases(patch)
        watch_doors(patch)
        yield
