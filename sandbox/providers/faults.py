"""Makes a provider misbehave on demand: answers that get lost, are cut at any byte, come late, say
nonsense. A fault applies to requests whose method and path match it, so many times.

A cut needs the connection itself. `CuttableConnection` is uvicorn's protocol class and hands it to
the application in the scope; without it (an application called directly) a cut raises.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPStatus
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

CONTROL_PREFIX: Final = "/_sim/"
NONSENSE: Final = b"<html><body>It works!</body></html>"
UNKNOWN_WORD: Final = "BRAND_NEW_WORD"
_CONNECTION = "sandbox.connection"
_WORK_SECONDS = "sandbox.work_seconds"


class FaultKind(StrEnum):
    """What goes wrong. "Done" means that the request was carried out."""

    LOST_ANSWER = "lost_answer"  # done, then the connection is cut before the first byte
    DROP = "drop"  # cut, nothing done
    CUT_AT = "cut_at"  # done, cut after so many bytes of the raw answer
    STATUS = "status"  # answers this status, nothing done
    STATUS_AFTER = "status_after"  # done, answers this status
    NONSENSE = "nonsense"  # done, 200 with a page of HTML
    EMPTY = "empty"  # done, the status with an empty body
    WRONG_WORD = "wrong_word"  # done, a field of the JSON answer holds an unknown word
    DELAY = "delay"  # waits, then does it
    SLOW_WORK = "slow_work"  # is at work on it for so many seconds, see `work`
    SLOW_BODY = "slow_body"  # done, the body comes byte by byte over so many seconds


_NEEDS: Final = {
    FaultKind.CUT_AT: "bytes",
    FaultKind.STATUS: "status",
    FaultKind.STATUS_AFTER: "status",
    FaultKind.WRONG_WORD: "field",
    FaultKind.DELAY: "seconds",
    FaultKind.SLOW_WORK: "seconds",
    FaultKind.SLOW_BODY: "seconds",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault.

    Attributes:
        path: a prefix. contains: text that the query or the body of the request must contain, for
            providers that have one path for everything.
        skip: how many matching requests pass first.
        byte_count: of the raw answer, head included; JSON calls it "bytes".
        field: a path such as "a.status"; numbers are places in lists.
    """

    kind: FaultKind
    path: str
    method: str = ""
    contains: str = ""
    times: int = 1
    skip: int = 0
    byte_count: int = 0
    status: int = 500
    field: str = ""
    value: Any = UNKNOWN_WORD
    seconds: float = 0.0

    @classmethod
    def parse(cls, sent: Any) -> Fault:
        """Reads a fault as `POST /_sim/faults` gets it.

        Raises:
            ValueError: it is none; says why.
        """
        if not isinstance(sent, dict) or not {"kind", "path"} <= sent.keys():
            raise ValueError("a fault has a kind and a path")
        given = {"byte_count" if name == "bytes" else name: sent[name] for name in sent}
        if unknown := given.keys() - set(cls.__slots__):
            raise ValueError(f"unknown: {', '.join(sorted(unknown))}")
        kind = FaultKind(sent["kind"])
        if kind in _NEEDS and _NEEDS[kind] not in sent:
            raise ValueError(f"{kind} needs {_NEEDS[kind]}")
        for name in ("times", "skip", "byte_count", "status"):
            if not isinstance(given.get(name, 0), int) or given.get(name, 0) < 0:
                raise ValueError(f"{name}: expected a count")
        return cls(**{**given, "kind": kind})

    def matches(self, method: str, path: str, text: bytes) -> bool:
        """True when a request is meant; `text` is its query and body."""
        return (
            path.startswith(self.path)
            and self.method.upper() in {"", method}
            and self.contains.encode() in text
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A whole answer. Header names are lower case."""

    status: int
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def with_body(self, body: bytes, *, status: int | None = None) -> Answer:
        """The answer with another body, and its length."""
        kept = tuple(pair for pair in self.headers if pair[0] != b"content-length")
        length = (b"content-length", str(len(body)).encode())
        return Answer(status=status or self.status, headers=(*kept, length), body=body)

    def raw(self) -> bytes:
        """The bytes on the wire."""
        status = HTTPStatus(self.status)
        lines = [f"HTTP/1.1 {status.value} {status.phrase}".encode()]
        lines += [name + b": " + value for name, value in self.headers]
        return b"\r\n".join(lines) + b"\r\n\r\n" + self.body


def json_answer(status: int, body: Any) -> Answer:
    """An answer in JSON."""
    headers = ((b"content-type", b"application/json"),)
    return Answer(status=status, headers=headers, body=b"").with_body(json.dumps(body).encode())


class Faults:
    """The faults in force."""

    def __init__(self) -> None:
        self._faults: list[Fault] = []
        self._skips: list[int] = []
        self._times: list[int] = []
        self.answered: list[dict[str, Any]] = []

    def add(self, fault: Fault) -> None:
        """Puts a fault in force, after those that are."""
        self._faults.append(fault)
        self._skips.append(fault.skip)
        self._times.append(fault.times)

    def clear(self) -> None:
        """Ends all misbehaviour."""
        self._faults, self._skips, self._times, self.answered = [], [], [], []

    def __iter__(self) -> Iterator[tuple[Fault, int]]:
        """The faults and how often each still applies."""
        return zip(self._faults, self._times, strict=True)

    def take(self, method: str, path: str, text: bytes) -> Fault | None:
        """The first fault that applies to a request; it is used up by one."""
        for place, fault in enumerate(self._faults):
            if not self._times[place] or not fault.matches(method, path, text):
                continue
            if self._skips[place]:
                self._skips[place] -= 1
                continue
            self._times[place] -= 1
            return fault
        return None


async def work(scope: Scope) -> None:
    """Called by a provider after it has claimed an idempotency key and before it does the work:
    waits as long as the fault `slow_work` says, so that the same key can be met in flight.
    """
    if seconds := scope.get("state", {}).get(_WORK_SECONDS):
        await asyncio.sleep(seconds)


class CuttableConnection(HttpToolsProtocol):
    """uvicorn's connection, which hands itself to the application."""

    def on_message_begin(self) -> None:
        """Begins a request."""
        super().on_message_begin()
        self.scope["state"][_CONNECTION] = self.transport


class FaultyApp:
    """An application that misbehaves by `faults`; requests below /_sim/ never do."""

    def __init__(
        self,
        app: ASGIApp,
        faults: Faults,
        *,
        error_answer: Callable[[int], Answer],
        resign: Callable[[Answer], Answer],
        on_error: Callable[[Scope, bytes, Answer], None],
    ) -> None:
        """
        Args:
            error_answer: the provider's answer of this status.
            resign: signs an answer whose body was changed, for providers that sign answers.
            on_error: learns that a request (its body) was answered so by a fault, for providers
                that keep answers under an idempotency key, errors too.
        """
        self._app = app
        self._faults = faults
        self._error_answer = error_answer
        self._resign = resign
        self._on_error = on_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves a request."""
        if scope["type"] != "http" or scope["path"].startswith(CONTROL_PREFIX):
            await self._app(scope, receive, send)
            return
        body = await _read(receive)
        fault = self._faults.take(scope["method"], scope["path"], scope["query_string"] + body)
        replay = _Replay(body, receive)
        if fault is None:
            await self._app(scope, replay, send)
            return
        kind = fault.kind
        if kind is FaultKind.DROP:
            await _cut(scope, receive, b"")
        elif kind is FaultKind.STATUS:
            answer = self._error_answer(fault.status)
            self._on_error(scope, body, answer)
            await _send(answer, send)
        elif kind is FaultKind.DELAY:
            await asyncio.sleep(fault.seconds)
            await self._app(scope, replay, send)
        elif kind is FaultKind.SLOW_WORK:
            scope.setdefault("state", {})[_WORK_SECONDS] = fault.seconds
            await self._app(scope, replay, send)
        else:
            answer = await self._done(scope, replay)
            if kind is FaultKind.STATUS_AFTER:
                answer = self._error_answer(fault.status)
                self._on_error(scope, body, answer)
                await _send(answer, send)
            else:
                await self._spoil(fault, answer, scope, receive, send)

    async def _done(self, scope: Scope, replay: _Replay) -> Answer:
        """Carries a request out."""
        messages: list[Message] = []

        async def keep(message: Message) -> None:
            messages.append(message)

        await self._app(scope, replay, keep)
        body = b"".join(message.get("body", b"") for message in messages[1:])
        start = messages[0]
        answer = Answer(status=start["status"], headers=tuple(start["headers"]), body=body)
        self._faults.answered.append(
            {"path": scope["path"], "status": answer.status, "raw_bytes": len(answer.raw())}
        )
        return answer

    async def _spoil(
        self, fault: Fault, answer: Answer, scope: Scope, receive: Receive, send: Send
    ) -> None:
        match fault.kind:
            case FaultKind.LOST_ANSWER:
                await _cut(scope, receive, b"")
            case FaultKind.CUT_AT:
                await _cut(scope, receive, answer.raw()[: fault.byte_count])
            case FaultKind.NONSENSE:
                headers = ((b"content-type", b"text/html"),)
                await _send(Answer(status=200, headers=headers, body=b"").with_body(NONSENSE), send)
            case FaultKind.EMPTY:
                await _send(answer.with_body(b""), send)
            case FaultKind.WRONG_WORD:
                changed = answer.with_body(_with_word(answer.body, fault.field, fault.value))
                await _send(self._resign(changed), send)
            case _:
                await _send(answer, send, seconds=fault.seconds)


class _Replay:
    """Gives a body that was read to the application as if it came now."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


async def _read(receive: Receive) -> bytes:
    pieces: list[bytes] = []
    while True:
        message = await receive()
        pieces.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(pieces)


async def _send(answer: Answer, send: Send, *, seconds: float = 0.0) -> None:
    headers = list(answer.headers)
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    if seconds and answer.body:
        for place in range(len(answer.body) - 1):
            piece = answer.body[place : place + 1]
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(seconds / len(answer.body))
        await send({"type": "http.response.body", "body": answer.body[-1:]})
        return
    await send({"type": "http.response.body", "body": answer.body})


async def _cut(scope: Scope, receive: Receive, sent: bytes) -> None:
    """Sends these bytes and closes the connection.

    Raises:
        RuntimeError: the application was called without a connection.
    """
    transport = scope["state"].get(_CONNECTION) if "state" in scope else None
    if transport is None:
        raise RuntimeError("a cut needs a connection: run the simulator on a socket")
    if sent:
        transport.write(sent)
    transport.close()
    # uvicorn would answer 500 for a request without an answer, until it knows that nobody listens
    while (await receive())["type"] != "http.disconnect":
        pass


def _with_word(body: bytes, field: str, value: Any) -> bytes:
    """The JSON body with another value at a path such as "a.b"; numbers are places in lists."""
    whole = json.loads(body)
    *way, last = field.split(".")
    inner = whole
    for step in way:
        inner = inner[int(step)] if isinstance(inner, list) else inner[step]
    if isinstance(inner, list):
        inner[int(last)] = value
    else:
        inner[last] = value
    return json.dumps(whole, ensure_ascii=False).encode()
