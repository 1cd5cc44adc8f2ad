"""Mail to people. It is a row of the outbox, written in the transaction of what it is about."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from sqlalchemy.ext.asyncio import AsyncConnection

from merchant_rpc.domain.errors import MailUnavailable
from merchant_rpc.store.mail import forget_content
from mesh import outbox
from mesh.call import current_trace_id
from mesh.clock import Clock
from mesh.ids import Ids
from mesh.logs import get_logger
from mesh.outbox import Message
from mesh.relay import Settlement

DESTINATION = "mail"
log = get_logger()


class Template(StrEnum):
    """Which text a mail has; the value is the path of its page below `public_url`, "" for a mail
    without a link.
    """

    SIGN_UP = "console/confirm"
    ACCOUNT_EXISTS = "console/login"
    INVITATION = "console/invitation"
    PASSWORD_RESET = "console/reset-password"  # noqa: S105  a path
    OPERATOR = "console/operator"


class Mail:
    """Writes mail. `is_available`: something delivers it."""

    def __init__(self, *, clock: Clock, ids: Ids, public_url: str, is_available: bool) -> None:
        self._clock = clock
        self._ids = ids
        self._public_url = public_url.rstrip("/")
        self._is_available = is_available

    def check(self) -> None:
        """Raises MailUnavailable where nothing delivers mail. Call it before anything is
        written.
        """
        if not self._is_available:
            raise MailUnavailable

    def link(self, template: Template, token: str = "") -> str:
        """The address of a page, with the token behind `#`: browsers send that part to no server
        and into no log.
        """
        return f"{self._public_url}/{template}" + (f"#token={token}" if token else "")

    async def send(
        self,
        tx: AsyncConnection,
        template: Template,
        *,
        address: str,
        token: str = "",
        values: Mapping[str, str] | None = None,
    ) -> None:
        """Writes a mail.

        Args:
            token: of a one-time link; "" without one.
            values: for the text, e.g. the name of the merchant.
        """
        now = self._clock.now()
        await outbox.put(
            tx,
            Message(
                event_id=self._ids.new("MAIL"),
                destination=DESTINATION,
                tag=template.name,
                aggregate_id="",
                payload={
                    "template": template.name,
                    "address": address,
                    "link": self.link(template, token),
                    **(values or {}),
                },
                trace_id=current_trace_id(),
                due_at=now,
                created_at=now,
            ),
        )


class LoggedMail:
    """Delivers mail into the log, for development: whoever reads it may follow the link."""

    @property
    def name(self) -> str:
        """Value of `destination` in the outbox."""
        return DESTINATION

    async def send(self, message: Message) -> Settlement | None:
        """Logs one mail; what is kept of it afterwards has no link."""
        log.info("mail", **{"template": message.tag, **message.payload})

        async def settle(tx: AsyncConnection) -> None:
            await forget_content(tx, event_id=message.event_id)

        return settle
