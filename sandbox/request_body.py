"""Reads the body of a request, with a limit on the time that it takes."""

from __future__ import annotations

import asyncio

from starlette.exceptions import HTTPException
from starlette.requests import Request

_BODY_SECONDS_MAX = 5.0  # uvicorn has no limit for a slow body


async def read_body(request: Request) -> bytes:
    """The whole body.

    Raises:
        HTTPException: 408, it did not arrive in time; 413, it is larger than the application takes.
    """
    try:
        async with asyncio.timeout(_BODY_SECONDS_MAX):
            return await request.body()
    except TimeoutError:
        raise HTTPException(408, "the body did not arrive in time") from None
