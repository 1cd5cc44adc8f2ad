"""The channels of an installation, by the name of their account."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from payment_rpc.channels import Channel
from payment_rpc.domain.errors import ChannelNotSupported, ChannelUnavailable

# Opens the channel of a merchant's account; None when there is no such account.
Load = Callable[[str], Awaitable[Channel | None]]


class Channels:
    """Channels that the process was configured with, and those of merchants' accounts."""

    def __init__(
        self,
        fixed: Mapping[str, Channel],
        load: Load | None = None,
        load_addressed: Load | None = None,
    ) -> None:
        """`load` opens the channel of an account, `load_addressed` that of the account to whose
        address a stranger sent something; None: there are no accounts.
        """
        self._fixed = fixed
        self._load = load
        self._load_addressed = load_addressed

    async def get(self, name: str) -> Channel:
        """The channel of an account, whatever its state: attempts that were begun there end there.

        Raises:
            ChannelNotSupported: there is none.
        """
        channel = self._fixed.get(name)
        if channel is None and self._load is not None:
            channel = await self._load(name)
        if channel is None:
            raise ChannelNotSupported(
                f"channel: there is no channel {name!r}", fields={"channel": "unknown"}
            )
        return channel

    async def get_or_refusal(self, name: str) -> Channel | ChannelUnavailable:
        """The channel of an account; or why it cannot be opened, for whoever refuses only a request
        that has no answer yet.
        """
        try:
            return await self.get(name)
        except (ChannelNotSupported, ChannelUnavailable) as problem:
            return ChannelUnavailable(problem.message)

    async def addressed(self, name: str) -> Channel:
        """The channel whose messages come to an address that names it, or names its provider. What
        is written down is the channel's own name.

        Raises:
            ChannelNotSupported: there is none. Unavailable: too many ask for accounts that are not
                known here.
        """
        if name not in self._fixed and self._load_addressed is not None:
            channel = await self._load_addressed(name)
            if channel is not None:
                return channel
        return await self.get(name)
