"""Whose clock is wrong follows from what several others say, and good tokens are not called bad
where it is ours.
"""

from __future__ import annotations

import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from jwt.algorithms import OKPAlgorithm
from structlog.testing import capture_logs

from mesh.auth import CallerTokens, UserTokens, read_jwks
from mesh.clock_skew import ClockSkewed, ClockWatch
from mesh.errors import TokenExpired, TokenInvalid, Unavailable
from tests.support.fakes import EPOCH, FakeClock, FakeIds

KEY = Ed25519PrivateKey.generate()
SIBLINGS = {name: Ed25519PrivateKey.generate() for name in ("order_rpc", "seckill_rpc")}


class Process:
    """A payment_rpc whose clock differs from that of everybody else."""

    def __init__(self, error_seconds: float) -> None:
        self.right, self.own = FakeClock(), FakeClock()
        self.own.advance(error_seconds)
        self.watch = ClockWatch(now=self._monotonic)
        keys = read_jwks(
            json.dumps(
                {
                    "keys": [
                        {
                            **json.loads(OKPAlgorithm.to_jwk(KEY.public_key())),
                            "kid": "1",
                            "alg": "EdDSA",
                        }
                    ]
                }
            ).encode()
        )
        self.users = UserTokens(
            keys, clock=self.own, issuer="paymesh", watch=self.watch, monotonic=self._monotonic
        )
        self.callers = CallerTokens(
            "payment_rpc",
            clock=self.own,
            ids=FakeIds(),
            watch=self.watch,
            monotonic=self._monotonic,
            public_keys={name: key.public_key() for name, key in SIBLINGS.items()},
        )

    def _monotonic(self) -> float:
        return (self.right.now() - EPOCH).total_seconds()

    def called_by(self, sibling: str) -> Any:
        tokens = CallerTokens(
            sibling, clock=self.right, ids=FakeIds(), private_key=SIBLINGS[sibling]
        )
        return self.callers.verify(tokens.sign("payment_rpc"))

    def user(self, *, age_seconds: int = 0, lifetime_seconds: int = 300) -> Any:
        issued = int(self.right.now().timestamp()) - age_seconds
        claims = {
            "iss": "paymesh",
            "aud": "paymesh",
            "iat": issued,
            "exp": issued + lifetime_seconds,
            "sub": "alice",
            "roles": ["user"],
            "merchant_id": "mall",
        }
        return self.users.verify(
            jwt.encode(claims, KEY, algorithm="EdDSA", headers={"typ": "at+jwt", "kid": "1"})
        )


@pytest.mark.parametrize("error", [-119, 0, 119, 319])
def test_siblings_are_believed_while_clocks_differ_by_two_minutes(error: int) -> None:
    assert Process(error).called_by("order_rpc").service == "order_rpc"


@pytest.mark.parametrize("error", [-600, -121, 420, 600])
def test_a_sibling_that_cannot_be_believed_for_the_clocks_hears_that_nothing_was_done(
    error: int,
) -> None:
    with pytest.raises(ClockSkewed) as refused, capture_logs() as logs:
        Process(error).called_by("order_rpc")
    assert isinstance(refused.value, Unavailable)
    [line] = logs
    assert (line["event"], line["alert"], line["peer"], line["looks_wrong"]) == (
        "clock_skew",
        True,
        "order_rpc",
        "ours or that of order_rpc",
    )
    # a token may be 200 s old, so of a fast clock of ours less is proven
    assert abs(line["seconds"] + error) <= 200


def test_a_difference_is_logged_once_a_minute_and_sibling() -> None:
    process = Process(-600)
    with capture_logs() as logs:
        for _ in range(4):
            for sibling in SIBLINGS:
                with pytest.raises(ClockSkewed):
                    process.called_by(sibling)
            process.right.advance(20)
            process.own.advance(20)
    assert [line["peer"] for line in logs] == ["order_rpc", "seckill_rpc"] * 2


def test_two_that_agree_against_us_say_that_our_clock_is_wrong_and_one_that_agrees_with_us_that_the_others_is() -> (
    None
):
    watch = ClockWatch(now=lambda: 0.0)
    with capture_logs() as logs:
        watch.heard("order_rpc", 600)
        assert watch.our_error_seconds() == 0
        watch.heard("the database", 598)
        assert watch.our_error_seconds() == 598
    assert [line["looks_wrong"] for line in logs] == ["ours or that of order_rpc", "ours"]
    watch = ClockWatch(now=lambda: 0.0)
    with capture_logs() as logs:
        watch.heard("the database", 0.5)
        watch.heard("order_rpc", -600)
    assert watch.our_error_seconds() == 0
    assert [line["looks_wrong"] for line in logs] == ["order_rpc"]


def test_opinions_that_contradict_each_other_or_are_outvoted_or_old_prove_nothing() -> None:
    now = [0.0]
    watch = ClockWatch(now=lambda: now[0])
    watch.heard("a", 600)
    watch.heard("b", -600)
    assert watch.our_error_seconds() == 0
    watch.heard("b", 600)
    assert watch.our_error_seconds() == 600
    for name in "cde":
        watch.heard(name, 0)
    assert watch.our_error_seconds() == 0
    now[0] = 301
    watch.heard("a", 600)
    assert watch.our_error_seconds() == 0


@pytest.mark.parametrize("error", [-600, 600])
def test_a_process_whose_clock_is_wrong_does_not_call_good_tokens_of_users_bad(error: int) -> None:
    process = Process(error)
    with pytest.raises((TokenInvalid, TokenExpired)):  # nobody told us yet
        process.user()
    for sibling in SIBLINGS:
        with pytest.raises(ClockSkewed):
            process.called_by(sibling)
    with pytest.raises(ClockSkewed):
        process.user()
    assert (
        process.user(age_seconds=700, lifetime_seconds=3600).subject == "alice"
    )  # what does not depend on the difference


def test_a_token_that_is_bad_by_every_clock_stays_bad_where_ours_is_wrong() -> None:
    process = Process(-600)
    for sibling in SIBLINGS:
        with pytest.raises(ClockSkewed):
            process.called_by(sibling)
    with pytest.raises(TokenInvalid, match="not yet"):
        process.user(age_seconds=-700)
    process = Process(600)
    for sibling in SIBLINGS:
        with pytest.raises(ClockSkewed):
            process.called_by(sibling)
    with pytest.raises(TokenExpired):
        process.user(age_seconds=4000)
