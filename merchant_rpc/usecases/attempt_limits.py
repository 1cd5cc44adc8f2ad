"""How often strangers may make us send mail and compute hashes. Counted in each process: replicas
together let through as many times more."""

from __future__ import annotations

from merchant_rpc.domain.errors import LoginDelayed
from mesh.clock import Clock
from mesh.limits import network_of
from mesh.rate_limit import RateLimiter

_HOUR_SECONDS = 3600
MAILS_PER_HOUR = 5  # from one network, and to one address
LINKS_PER_HOUR = 30  # that one network shows


class AttemptLimits:
    """Takes attempts one by one."""

    def __init__(self, clock: Clock) -> None:
        def now() -> float:
            return clock.now().timestamp()

        self._mails = RateLimiter(
            per_second=MAILS_PER_HOUR / _HOUR_SECONDS, burst=MAILS_PER_HOUR, now=now
        )
        self._links = RateLimiter(
            per_second=LINKS_PER_HOUR / _HOUR_SECONDS, burst=LINKS_PER_HOUR, now=now
        )

    def take_sign_up(self, *, client_address: str, email: str) -> None:
        """One mail that a stranger asks for. Raises LoginDelayed when there were too many."""
        _take(self._mails, f"network {network_of(client_address)}")
        self.take_mail(email=email)

    def take_mail(self, *, email: str) -> None:
        """One mail to an address, whoever asks for it. Raises LoginDelayed when there were too
        many: nobody's mailbox is filled by us.
        """
        _take(self._mails, f"mail {email}")

    def take_link(self, *, client_address: str, token_digest: str) -> None:
        """One look at the token of a link. Raises LoginDelayed when there were too many from this
        network, or with this token.
        """
        _take(self._links, f"network {network_of(client_address)}")
        _take(self._mails, f"link {token_digest}")


def _take(limiter: RateLimiter, key: str) -> None:
    if wait_seconds := limiter.take(key):
        raise LoginDelayed(retry_after_seconds=wait_seconds)
