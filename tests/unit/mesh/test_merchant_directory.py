"""What services know of merchants, and what they make of their states."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from paymesh.merchant.v1 import merchant_pb2

from mesh.errors import UpstreamUnavailable
from mesh.merchant_directory import MerchantDirectory, merchant_status_of
from mesh.merchant_status import MerchantStatus

M = merchant_pb2


class Channel:
    """A channel to a merchant_rpc that a test answers for."""

    def __init__(self) -> None:
        self.answer: M.GetMerchantSettingsResponse | None = None
        self.asked: list[str] = []

    def unary_unary(self, method: str, **_: Any) -> Callable[..., Any]:
        async def call(request: Any) -> Any:
            assert method.endswith("/GetMerchantSettings")
            self.asked.append(request.merchant_id)
            if self.answer is None:
                raise UpstreamUnavailable("merchant_rpc is away")
            return self.answer

        return call if method.endswith("/GetMerchantSettings") else lambda *_: None


@pytest.fixture
def channel() -> Channel:
    return Channel()


@pytest.fixture
def directory(channel: Channel) -> MerchantDirectory[tuple[str, str]]:
    """Terms are a name and where it came from."""
    return MerchantDirectory(
        channel,
        terms_of=lambda answer, defaults: (answer.name, f"not {defaults[1]}"),
        defaults=lambda merchant_id: (merchant_id, "the environment"),
    )


async def test_an_answer_is_remembered_and_read_with_the_defaults(
    channel: Channel, directory: MerchantDirectory[tuple[str, str]]
) -> None:
    channel.answer = M.GetMerchantSettingsResponse(is_known=True, name="Acme")
    assert directory.known("acme") == ("acme", "the environment")
    for _ in range(2):
        assert await directory.of("acme") == ("Acme", "not the environment")
    assert directory.known("acme") == ("Acme", "not the environment")
    assert channel.asked == ["acme"]


async def test_a_merchant_that_nobody_knows_has_the_defaults(
    channel: Channel, directory: MerchantDirectory[tuple[str, str]]
) -> None:
    channel.answer = M.GetMerchantSettingsResponse(name="?", state=M.MERCHANT_STATE_CLOSED)
    assert await directory.of("mall") == ("mall", "the environment")


async def test_what_was_never_answered_is_refused_and_not_remembered(
    channel: Channel, directory: MerchantDirectory[tuple[str, str]]
) -> None:
    for _ in range(2):
        with pytest.raises(UpstreamUnavailable):
            await directory.of("acme")
    assert channel.asked == ["acme", "acme"]


@pytest.mark.parametrize(
    ("state", "is_test", "status"),
    [
        (M.MERCHANT_STATE_LIVE, False, MerchantStatus.OPEN),
        (M.MERCHANT_STATE_TEST_ONLY, True, MerchantStatus.OPEN),
        (M.MERCHANT_STATE_TEST_ONLY, False, MerchantStatus.NOT_LIVE),
        (M.MERCHANT_STATE_PENDING_EMAIL, True, MerchantStatus.NOT_LIVE),
        (M.MERCHANT_STATE_SUSPENDED, True, MerchantStatus.SUSPENDED),
        (M.MERCHANT_STATE_CLOSED, False, MerchantStatus.SUSPENDED),
        (M.MERCHANT_STATE_UNSPECIFIED, False, MerchantStatus.NOT_LIVE),
    ],
)
def test_only_a_live_merchant_and_a_test_sibling_sell(
    state: M.MerchantState.ValueType, is_test: bool, status: MerchantStatus
) -> None:
    assert merchant_status_of(M.GetMerchantSettingsResponse(state=state, is_test=is_test)) is status
