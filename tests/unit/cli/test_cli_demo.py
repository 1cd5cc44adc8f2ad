from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result

from paymesh_cli import paymesh
from paymesh_cli.demo_client import forms_of
from paymesh_cli.supervisor.installation import Installation
from tests.support.fakes import FakeClock
from tests.support.sandbox_server import cashier_url, checkout, running_sandbox

PAGE = """<form method="post" action="/c/x/pay"><button class="pay" type="submit">Pay ¥ 100.00</button></form>
<form method="post" action="/c/x/fail"><button>Fail</button></form><button>Outside</button>"""


@pytest.fixture
def gateway_url() -> Iterator[str]:
    """A gateway that refuses everything."""

    class Refusing(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(503)
            self.end_headers()
            self.wfile.write(b'{"code":"B0002","message":"database away","data":null}')

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def run(installation: Installation, *arguments: str) -> Result:
    return CliRunner().invoke(paymesh, ["demo", "--var-dir", str(installation.var_dir), *arguments])


def test_without_a_running_mesh_the_way_to_one_is_told(installation: Installation) -> None:
    result = run(installation)
    assert result.exit_code == 1
    assert "make run" in result.output


def test_a_gateway_that_is_away_is_named(installation: Installation, free_port: int) -> None:
    result = run(
        installation,
        "--gateway",
        f"http://127.0.0.1:{free_port}",
        "--grpc",
        f"127.0.0.1:{free_port}",
    )
    assert result.exit_code == 1
    assert f"http://127.0.0.1:{free_port}" in result.output
    assert "Traceback" not in result.output


def test_the_step_that_failed_is_named_with_what_came_instead(
    installation: Installation, gateway_url: str
) -> None:
    result = run(installation, "--gateway", gateway_url, "--grpc", "127.0.0.1:1")
    assert result.exit_code == 1
    assert "POST /api/v1/products: expected HTTP 201, got 503" in result.output
    assert "database away" in result.output


def test_the_buttons_of_a_page_are_found_with_their_forms() -> None:
    assert forms_of(PAGE) == {"Pay": ("POST", "/c/x/pay"), "Fail": ("POST", "/c/x/fail")}


async def test_the_demo_finds_the_button_of_the_cashier_page_as_it_is(tmp_path: Path) -> None:
    """It sends no Accept-Language, so the page is in English whatever the machine speaks."""
    clock = FakeClock()
    async with (
        running_sandbox(tmp_path, clock=clock) as running,
        httpx.AsyncClient(trust_env=False) as browser,
    ):
        channel = running.channel()
        url = cashier_url(await checkout(channel, clock, description="Pay <button>Pay"))
        page = await browser.get(url)
        await channel.aclose()
    assert "accept-language" not in page.request.headers
    assert forms_of(page.text)["Pay"] == ("POST", f"{page.url.path}/pay")
