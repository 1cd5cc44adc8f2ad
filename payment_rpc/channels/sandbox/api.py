"""HTTP calls to the sandbox."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date

from mesh.outbound.connections import ANSWER_BYTES_MAX, Connections, Lost, NotSent
from payment_rpc.channels.sandbox.answers import OK, error_code
from payment_rpc.domain.errors import ChannelUnavailable

_STATEMENT_BYTES_MAX = 64 * 1024 * 1024  # of a day; a line has about 150
_PAGE = 500
_PAGE_BYTES_MAX = 4 * 1024 * 1024


class SandboxApi:
    """Sends requests to the sandbox and reads pages of its lists."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def aclose(self) -> None:
        """Closes the connections."""
        await self._connections.aclose()

    async def exchange(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None,
        *,
        timeout_seconds: float,
        answer_bytes_max: int = ANSWER_BYTES_MAX,
    ) -> tuple[int, bytes]:
        """Sends one request. Returns status code and body of the answer.

        Raises:
            NotSent: no byte of the request left. Lost: it may have arrived.
        """
        answer = await self._connections.exchange(
            method,
            path,
            body=None if body is None else json.dumps(body).encode(),
            timeout_seconds=timeout_seconds,
            answer_bytes_max=answer_bytes_max,
        )
        return answer.status_code, answer.body

    async def page(self, path: str, *, after: str, timeout_seconds: float) -> bytes:
        """Reads one page of a list.

        Raises:
            ChannelUnavailable: no answer, or a refusal.
        """
        try:
            status_code, content = await self.exchange(
                "GET",
                f"{path}?limit={_PAGE}&after={after or 0}",
                None,
                timeout_seconds=timeout_seconds,
                answer_bytes_max=_PAGE_BYTES_MAX,
            )
        except (NotSent, Lost) as error:
            raise ChannelUnavailable(f"no list: {error}") from None
        if status_code != OK:
            raise ChannelUnavailable(
                f"no list: answered {status_code} {error_code(content)}".rstrip()
            )
        return content

    async def statement(self, date: date, *, timeout_seconds: float) -> bytes:
        """Reads the channel's file of a day.

        Raises:
            ChannelUnavailable: no answer, or a refusal.
        """
        try:
            status_code, content = await self.exchange(
                "GET",
                f"/v1/statements/{date.isoformat()}",
                None,
                timeout_seconds=timeout_seconds,
                answer_bytes_max=_STATEMENT_BYTES_MAX,
            )
        except (NotSent, Lost) as error:
            raise ChannelUnavailable(f"no statement: {error}") from None
        if status_code == OK:
            return content
        code = error_code(content)
        raise ChannelUnavailable(
            "the channel's day is not over"
            if code == "not_ready"
            else f"no statement: answered {status_code} {code}".rstrip()
        )
