"""Crash points strike where, when and how they are told to, and only in tests."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator

import pytest

from mesh import failpoints
from mesh.failpoints import FailpointRaised, failpoint
from tests.support.processes import Processes
from tests.support.sources import failpoints as points_of_the_product
from tools.processes import ROOT

POINTS = points_of_the_product()


@pytest.fixture(autouse=True)
def disarmed() -> Iterator[None]:
    yield
    failpoints.arm("", environment="test")


@pytest.mark.parametrize("environment", ["development", "production", "", "TEST"])
def test_points_are_refused_outside_of_tests(environment: str) -> None:
    with pytest.raises(ValueError, match="only for environment=test"):
        failpoints.arm(f"{POINTS[0]}=kill", environment=environment)
    for point in POINTS:
        failpoint(point)


def test_no_points_are_fine_everywhere() -> None:
    failpoints.arm("", environment="production")
    failpoints.arm(" ; ", environment="production")


@pytest.mark.parametrize(
    "wrong",
    [
        "payment charge=kill",
        f"{POINTS[0]}=explode",
        POINTS[0],
        f"{POINTS[0]}=",
        f"{POINTS[0]}=kill:often",
        "=kill",
    ],
)
def test_what_is_no_point_or_action_is_refused_and_arms_nothing(wrong: str) -> None:
    with pytest.raises(ValueError, match=r"unknown failpoint|invalid literal"):
        failpoints.arm(wrong, environment="test")
    for point in POINTS:
        failpoint(point)


def test_a_point_strikes_at_its_hit_and_once() -> None:
    failpoints.arm(f"{POINTS[0]}=raise:3; {POINTS[1]}=raise", environment="test")
    failpoint(POINTS[0])
    failpoint(POINTS[0])
    with pytest.raises(FailpointRaised):
        failpoint(POINTS[0])
    failpoint(POINTS[0])
    with pytest.raises(FailpointRaised):
        failpoint(POINTS[1])
    failpoint(POINTS[2])


def test_arming_again_forgets_what_was_armed() -> None:
    failpoints.arm(f"{POINTS[0]}=raise", environment="test")
    failpoints.arm(f"{POINTS[1]}=raise", environment="test")
    failpoint(POINTS[0])


@pytest.mark.parametrize(("action", "number"), [("kill", -9), ("term", -15)])
def test_a_process_dies_at_its_point(processes: Processes, action: str, number: int) -> None:
    code = (
        f"from mesh import failpoints; failpoints.arm('{POINTS[0]}={action}:2', "
        f"environment='test'); failpoints.failpoint('{POINTS[0]}'); "
        f"print('alive', flush=True); failpoints.failpoint('{POINTS[0]}'); import time; "
        f"time.sleep(30)"
    )
    process = processes.command(sys.executable, "-c", code)
    assert process.wait() == number
    assert "alive" in process.log_text()


def test_every_point_that_a_test_arms_is_in_the_product() -> None:
    armed = re.compile(r"([a-z_]+\.[a-z_]+\.[a-z_]+)=(?:kill|term|raise)")
    found = {
        point
        for path in (ROOT / "tests").rglob("*.py")
        for point in armed.findall(path.read_text())
    }
    assert found
    assert found - set(POINTS) == set()
