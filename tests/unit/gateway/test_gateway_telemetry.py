"""The request log: it costs a line when nobody reads it any more, and never a request or memory."""

from __future__ import annotations

import io
import json
from collections.abc import Callable

import pytest

from gateway.request import Request
from gateway.telemetry import Telemetry
from tests.support.fakes import FakeClock


def request() -> Request:
    return Request(
        {
            "type": "http",
            "method": "GET",
            "raw_path": b"/x",
            "query_string": b"",
            "client": ("10.1.2.3", 5),
            "headers": [],
        }
    )


class Dead(io.StringIO):
    """A stream whose reader is gone."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error

    def write(self, _text: str) -> int:
        raise self.error


class DeadAtFlush(io.StringIO):
    def flush(self) -> None:
        raise BrokenPipeError


def closed() -> io.StringIO:
    stream = io.StringIO()
    stream.close()
    return stream


@pytest.mark.parametrize(
    "make",
    [lambda: Dead(BrokenPipeError()), lambda: Dead(OSError(28, "no space")), DeadAtFlush, closed],
    ids=["pipe", "disk", "flush", "closed"],
)
async def test_a_dead_log_refuses_no_request_and_keeps_no_line(
    make: Callable[[], io.StringIO],
) -> None:
    telemetry = Telemetry(clock=FakeClock(), stream=make())
    for _ in range(1000):
        telemetry.running += 1
        telemetry.ended(request(), route="/x", status=200, refusal="", seconds=0.1)
        assert len(telemetry._lines._waiting) < 200
    telemetry.flush()
    assert telemetry._lines._waiting == []
    assert telemetry.running == 0


async def test_lines_after_a_full_disk_are_written_again() -> None:
    stream = Dead(OSError(28, "no space"))
    telemetry = Telemetry(clock=FakeClock(), stream=stream)
    telemetry.ended(request(), route="/lost", status=200, refusal="", seconds=0.1)
    telemetry.flush()
    telemetry._lines._stream = io.StringIO()
    telemetry.ended(request(), route="/kept", status=200, refusal="", seconds=0.1)
    telemetry.flush()
    assert [
        json.loads(line)["route"] for line in telemetry._lines._stream.getvalue().splitlines()
    ] == ["/kept"]


@pytest.mark.parametrize(
    ("log_level", "told"),
    [("DEBUG", ["/healthz", "/readyz", "/x"]), ("INFO", ["/x"]), ("WARNING", [])],
)
async def test_questions_of_probes_are_told_at_debug_alone(log_level: str, told: list[str]) -> None:
    stream = io.StringIO()
    telemetry = Telemetry(clock=FakeClock(), stream=stream, log_level=log_level)
    for route in ("/healthz", "/readyz", "/x"):
        telemetry.ended(request(), route=route, status=200, refusal="", seconds=0.1)
    telemetry.flush()
    assert [json.loads(line)["route"] for line in stream.getvalue().splitlines()] == told
