"""The attempts of one call to a sibling service: on which replica, and when on another one.

A call that may have had its effect is repeated only when the contract says that a repetition does
no harm, and within a budget. A call that reached no handler may always go elsewhere.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any, Final, TypeVar

from google.protobuf.descriptor_pool import DescriptorPool
from grpc.aio import AioRpcError

from mesh.call import mark_effects
from mesh.errors import MeshError, RemoteError, UpstreamUnavailable
from mesh.metrics import CALLED
from mesh.policies import Idempotency, policy_of
from mesh.replicas import Replica, Replicas
from mesh.retries import RetryBudget, is_healthy_answer, is_retryable
from mesh.wire_errors import from_rpc_error, never_sent

CALL_SECONDS_MIN: Final = 0.002  # with less a call would only make work that nobody waits for
ATTEMPTS_MAX = 3
# doubled for the third attempt; only when there is no other replica
BACKOFF_SECONDS = 0.05

CANCELLED = 1  # as gRPC numbers it

T = TypeVar("T")
Headers = list[tuple[str, str | bytes]]
Trailing = tuple[tuple[str, str | bytes], ...]


class OutgoingMethod:
    """What the contract says of a method that we call, and what we count of it."""

    __slots__ = ("effects", "keyed", "metrics", "path", "repeatable", "timeout_seconds")

    def __init__(self, target: str, path: str, pool: DescriptorPool) -> None:
        """Raises PolicyInvalid or KeyError for a method that the contract does not describe."""
        service, _, name = path.strip("/").rpartition("/")
        policy = policy_of(pool.FindServiceByName(service).methods_by_name[name])
        self.path = path
        self.timeout_seconds = policy.timeout_seconds
        self.repeatable = policy.repeatable
        self.effects = policy.side_effects
        # a key makes a call repeatable only where the server looks at it
        self.keyed = policy.idempotency is not Idempotency.NONE
        self.metrics = CALLED.of(target, f"{service}/{name}")


@dataclass(slots=True, eq=False)
class Outgoing:
    """One call that is about to be sent. `deadline` is a moment of the monotonic clock."""

    method: OutgoingMethod
    request: bytes
    headers: Headers
    deadline: float
    repeatable: bool


class _NeverSent(UpstreamUnavailable):
    """A connection broke between the choice of a replica and the call: any call may go
    elsewhere.
    """


class Attempts:
    """Sends calls to the replicas of one service."""

    def __init__(self, replicas: Replicas, rng: random.Random) -> None:
        self._replicas = replicas
        self._rng = rng
        self._budget = RetryBudget()

    async def unary(self, call: Outgoing, *, want_trailing: bool) -> tuple[bytes, Trailing]:
        """The answer, and the trailing metadata when it is wanted.

        Raises:
            RemoteError: the last attempt failed.
        """

        async def once(replica: Replica) -> tuple[bytes, Trailing]:
            return await self._unary_once(replica, call, want_trailing=want_trailing)

        return await self._repeated(call, once)

    async def stream(self, call: Outgoing) -> tuple[bytes | None, AsyncGenerator[bytes]]:
        """The first answer of a stream, None when it has none, and the rest. Nothing is repeated
        after the first answer.

        Raises:
            RemoteError: the last attempt failed.
        """

        async def once(replica: Replica) -> tuple[bytes | None, AsyncGenerator[bytes]]:
            answers = self._stream_once(replica, call)
            return await anext(answers, None), answers

        return await self._repeated(call, once)

    async def _repeated(self, call: Outgoing, once: Callable[[Replica], Awaitable[T]]) -> T:
        self._budget.called()
        tried: list[Replica] = []
        while True:
            replica = await self._replicas.pick(call.deadline, tried)
            if replica in tried:  # there is no other
                pause = self._rng.uniform(0, BACKOFF_SECONDS * 2 ** (len(tried) - 1))
                await asyncio.sleep(min(pause, max(0.0, call.deadline - monotonic())))
            if call.method.effects:
                mark_effects()
            try:
                return await once(replica)
            except RemoteError as error:
                if not self._may_be_repeated(error, call, attempts=len(tried) + 1):
                    raise
                tried.append(replica)
                call.method.metrics.retried += 1

    def _may_be_repeated(self, error: RemoteError, call: Outgoing, *, attempts: int) -> bool:
        if attempts >= ATTEMPTS_MAX:
            return False
        unserved = isinstance(error, _NeverSent) or error.is_unserved
        if not unserved and not (call.repeatable and is_retryable(error) and self._budget.take()):
            return False
        return call.deadline - monotonic() >= CALL_SECONDS_MIN

    async def _unary_once(
        self, replica: Replica, call: Outgoing, *, want_trailing: bool
    ) -> tuple[bytes, Trailing]:
        path = call.method.path
        callable_ = replica.calls.get(path)
        if callable_ is None:
            callable_ = replica.calls[path] = replica.channel.unary_unary(path)
        started, rpc = self._begin(replica, call, callable_)
        healthy: bool | None = None
        try:
            answer = await rpc
            trailing = tuple(await rpc.trailing_metadata()) if want_trailing else ()
            healthy = True
        except AioRpcError as problem:
            error, healthy = _translated(problem)
            raise error from problem
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            # the channel was closed under the call
            raise UpstreamUnavailable(grpc_code=CANCELLED) from None
        else:
            return answer, trailing
        finally:
            replica.abandonable.discard(rpc)
            self._end(replica, started, healthy=healthy)

    async def _stream_once(self, replica: Replica, call: Outgoing) -> AsyncGenerator[bytes]:
        """One attempt. A replica is busy with it until it has taken it: an open stream without
        messages does not mean that the replica hangs.
        """
        started, rpc = self._begin(replica, call, replica.channel.unary_stream(call.method.path))
        busy = True
        healthy: bool | None = None
        try:
            await rpc.initial_metadata()
            replica.abandonable.discard(rpc)
            if not rpc.done():
                busy = False
                self._end(replica, started, healthy=True)
            async for answer in rpc:
                yield answer
            healthy = True
        except AioRpcError as problem:
            error, healthy = _translated(problem)
            raise error from problem
        except asyncio.CancelledError:
            if _is_cancelled():
                raise
            # the channel was closed under the call
            raise UpstreamUnavailable(grpc_code=CANCELLED) from None
        finally:
            rpc.cancel()
            replica.abandonable.discard(rpc)
            if busy:
                self._end(replica, started, healthy=healthy)

    def _begin(self, replica: Replica, call: Outgoing, callable_: Any) -> tuple[float, Any]:
        started = monotonic()
        replica.begin(started)
        self._replicas.watch_calls()
        rpc = callable_(call.request, timeout=call.deadline - started, metadata=call.headers)
        if call.repeatable:
            replica.abandonable.add(rpc)
        return started, rpc

    def _end(self, replica: Replica, started: float, *, healthy: bool | None) -> None:
        """`healthy` is None when the attempt says nothing of its replica."""
        ended = monotonic()
        replica.end(ended)
        self._replicas.ended(replica, ended - started, healthy=healthy)


def _translated(problem: AioRpcError) -> tuple[MeshError, bool]:
    """The error of ours, and whether it shows a replica that works."""
    error = _NeverSent() if never_sent(problem) else from_rpc_error(problem)
    return error, is_healthy_answer(error, problem)


def _is_cancelled() -> bool:
    """Whether somebody cancels the task of the caller."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
