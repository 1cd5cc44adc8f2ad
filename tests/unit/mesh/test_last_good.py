"""LastGood: an answer is asked for once while it is fresh, and stands while nobody answers."""

from __future__ import annotations

import asyncio

import pytest

from mesh.call import calling, current_call
from mesh.errors import UpstreamUnavailable
from mesh.last_good import LastGood


class Neighbour:
    """What a test wants the neighbour to say, and how often it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, str] = {}
        self.asked: list[str] = []
        self.away = False
        self.gate: asyncio.Event | None = None
        self.moment = 0.0
        self.kept = LastGood(self.load, fresh_seconds=5, entries_max=2, now=lambda: self.moment)

    async def load(self, key: str) -> str:
        self.asked.append(key)
        assert current_call() is None  # nobody's deadline
        if self.gate is not None:
            await self.gate.wait()
        if self.away:
            raise UpstreamUnavailable("away")
        return self.answers.get(key, f"{key} {len(self.asked)}")


@pytest.fixture
def neighbour() -> Neighbour:
    return Neighbour()


async def test_a_fresh_answer_is_not_asked_for_again(neighbour: Neighbour) -> None:
    first = await neighbour.kept.get("mall")
    neighbour.moment = 4.9
    assert await neighbour.kept.get("mall") == first
    assert neighbour.asked == ["mall"]
    neighbour.moment = 5
    assert await neighbour.kept.get("mall") != first


async def test_many_who_want_one_key_share_one_question(neighbour: Neighbour) -> None:
    with calling(timeout_seconds=1):
        answers = await asyncio.gather(*(neighbour.kept.get("mall") for _ in range(50)))
    assert (set(answers), neighbour.asked) == ({"mall 1"}, ["mall"])


async def test_who_goes_away_takes_the_answer_from_nobody(neighbour: Neighbour) -> None:
    neighbour.gate = asyncio.Event()
    first = asyncio.create_task(neighbour.kept.get("mall"))
    second = asyncio.create_task(neighbour.kept.get("mall"))
    await asyncio.sleep(0)
    first.cancel()
    neighbour.gate.set()
    assert await second == "mall 1"


async def test_the_last_good_answer_outlives_the_neighbour(neighbour: Neighbour) -> None:
    good = await neighbour.kept.get("mall")
    neighbour.away, neighbour.moment = True, 1_000_000.0
    assert await neighbour.kept.get("mall") == good
    assert await neighbour.kept.get("mall") == good
    assert neighbour.asked == ["mall", "mall"]  # one try in fresh_seconds
    neighbour.away, neighbour.moment = False, 1_000_006.0
    assert await neighbour.kept.get("mall") != good


async def test_without_an_answer_ever_the_failure_is_passed_on_and_not_kept(
    neighbour: Neighbour,
) -> None:
    neighbour.away = True
    with pytest.raises(UpstreamUnavailable):
        await neighbour.kept.get("mall")
    assert neighbour.kept.known("mall") is None
    neighbour.away = False
    assert await neighbour.kept.get("mall") == neighbour.kept.known("mall")


async def test_the_number_of_answers_is_bounded(neighbour: Neighbour) -> None:
    for key in ("a", "b", "a", "c"):
        await neighbour.kept.get(key)
    assert [key for key in "abc" if neighbour.kept.known(key)] == ["a", "c"]


async def test_a_forgotten_key_is_asked_for_again_and_an_older_question_is_not_believed(
    neighbour: Neighbour,
) -> None:
    assert await neighbour.kept.get("mall") == "mall 1"
    neighbour.kept.forget("mall")
    neighbour.gate = asyncio.Event()
    older = asyncio.create_task(neighbour.kept.get("mall"))
    await asyncio.sleep(0.01)
    neighbour.kept.forget("mall")
    neighbour.gate.set()
    assert await older == "mall 2"
    assert neighbour.kept.known("mall") is None
    assert await neighbour.kept.get("mall") == "mall 3"
    neighbour.kept.forget("nobody")
