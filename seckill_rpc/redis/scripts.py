"""The six scripts of lua/ and how to run them. A script is atomic for other clients, and may run
twice: a repetition gets the same answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import resources
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import NoScriptError

Execute = Callable[..., Awaitable[Any]]


class ScriptName(StrEnum):
    """File names in lua/."""

    ADMIT = "admit"
    FINISH = "finish"
    GIVE_BACK = "giveback"
    LOAD = "load"
    DRAW = "draw"
    SWEEP = "sweep"


@dataclass(frozen=True, slots=True)
class _Script:
    text: str
    sha: str


class Scripts:
    """Runs the scripts on one Redis, whose client must decode answers (`open_admission_redis`).

    Args:
        execute: how to send a command, e.g. `PipelinedConnection.execute`; None: the client's way.
        texts: other texts than those of lua/, for tests that take guards away.
    """

    def __init__(
        self,
        redis: Redis,
        texts: dict[ScriptName, str] | None = None,
        *,
        execute: Execute | None = None,
    ) -> None:
        self.redis = redis
        self._execute: Execute = execute or redis.execute_command
        texts = {name: script_text(name) for name in ScriptName} | (texts or {})
        self._scripts = {
            name: _Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())
            for name, text in texts.items()
        }

    async def run(self, name: ScriptName, keys: Sequence[str], args: Sequence[str | int]) -> Any:
        """Runs a script; sends its text when Redis does not know it (any more).

        Raises:
            RedisError: it is unknown whether it ran, unless Redis itself answered with an error.
                Want of memory leaves nothing half done: Redis looks at it before the first write of
                a script, and not again.
        """
        script = self._scripts[name]
        try:
            return await self._execute("EVALSHA", script.sha, len(keys), *keys, *args)
        except NoScriptError:
            return await self._execute("EVAL", script.text, len(keys), *keys, *args)


def script_text(name: ScriptName) -> str:
    """The text of a script as it is shipped."""
    return resources.files("seckill_rpc").joinpath("lua", f"{name}.lua").read_text(encoding="utf-8")
