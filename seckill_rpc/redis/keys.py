"""The keys of an activity in Redis. The contract keeps `#`, `+` and `/` out of the ids of buyers
and requests, so no two things share a name.
"""

from __future__ import annotations

from dataclasses import dataclass

from mesh.policies import DEFAULT_MERCHANT
from seckill_rpc.domain.activity import Activity

GROUP = "orders"  # the consumer group of every admission queue
WAKEUPS = "seckill:{*}:wakeups"
NOTICES = "seckill:notices"  # pub/sub channel: ids of activities to which something happened
_VIEW = "seckill:result:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """The keys of one activity. The braces in the names put all keys but the views into one slot of
    a cluster.
    """

    activity_id: str
    merchant_id: str
    sku_id: str

    @property
    def meta(self) -> str:
        """Hash: epoch, rev, run, state, mode, stock, out, start, end, limit; `hold` during a
        rebuild, `since` its end in milliseconds, `drawn` once a draw has begun."""
        return self._key("meta")

    @property
    def users(self) -> str:
        """Hash: `<user>` units held or queued, `<user>+` units held, `<user>#<request>` "0<order>"
        queued or "1<order>" live.
        """
        return self._key("users")

    @property
    def queue(self) -> str:
        """Stream, the admission queue: o order, u user, r request, e epoch; one entry is one order
        of one unit.
        """
        return self._key("q")

    @property
    def entries(self) -> str:
        """Hash of a draw: `<user>` "<order> <request>"."""
        return self._key("entries")

    @property
    def wakeups(self) -> str:
        """Pub/sub channel: lines `<user> <view> <order>`; empty when the first click enters an
        empty queue.
        """
        return self._key("wakeups")

    @property
    def rebuilder(self) -> str:
        """Which rebuild owns the activity; see `redis.lease`."""
        return self._key("rebuilder")

    def building(self, epoch: int) -> str:
        """The users of an epoch that is being built; two rebuilds never share it."""
        return self._key(f"users:{epoch}")

    def view(self, user_id: str) -> str:
        """The view of a buyer, `seckill:result:{userId}:{skuId}`. For other merchants their id and
        a `/` come before the buyer. No buyer id has a `/`, so buyers of two merchants never
        share a view.
        """
        return f"{self._view_prefix}{user_id}{self._view_suffix}"

    @property
    def view_affixes(self) -> tuple[str, str]:
        """What stands before and after the buyer in `view`, for scripts that find buyers
        themselves.
        """
        return self._view_prefix, self._view_suffix

    @property
    def views(self) -> str:
        """Pattern of all views of the product. It may match other merchants' too: check with
        `user_of`.
        """
        return f"{self._view_prefix}*{self._view_suffix}"

    def user_of(self, view: str) -> str | None:
        """The buyer of a view; None when it is not one of this merchant and product."""
        user = view.removeprefix(self._view_prefix).removesuffix(self._view_suffix)
        return user if user and "/" not in user and view == self.view(user) else None

    @property
    def _view_prefix(self) -> str:
        return _VIEW if self.merchant_id == DEFAULT_MERCHANT else f"{_VIEW}{self.merchant_id}/"

    @property
    def _view_suffix(self) -> str:
        return f":{self.sku_id}"

    def _key(self, name: str) -> str:
        return f"seckill:{{{self.activity_id}}}:{name}"


def keys_of(activity: Activity) -> Keys:
    """The keys of an activity."""
    return Keys(
        activity_id=activity.activity_id, merchant_id=activity.merchant_id, sku_id=activity.sku_id
    )


def activity_of(channel: str) -> str:
    """The activity of a channel that matches `WAKEUPS`."""
    return channel.partition("{")[2].rpartition("}")[0]
