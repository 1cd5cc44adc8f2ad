"""The cashier page as buyers see it: whom they pay and what for, the methods, each outcome, both
languages, hostile texts and buttons that are pressed more than once.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from payment_rpc.channels.sandbox.channel import SandboxChannel
from payment_rpc.domain.facts import ChannelStatus
from tests.support.fakes import FakeClock
from tests.support.sandbox_server import (
    API_KEY,
    PATIENCE,
    PRICE,
    Receiver,
    RunningSandbox,
    cashier_url,
    checkout,
    running_sandbox,
)


async def test_a_checkout_waits_for_a_person_who_pays(
    channel: SandboxChannel, person: httpx.AsyncClient, clock: FakeClock
) -> None:
    opened = await checkout(channel, clock)
    assert (opened.status, opened.amount, opened.reason, opened.occurred_at) == (
        ChannelStatus.PENDING,
        PRICE,
        "",
        None,
    )
    assert await checkout(channel, clock) == opened
    assert await channel.query("ATT1", timeout_seconds=PATIENCE) == opened

    page = await person.get(cashier_url(opened))
    assert page.status_code == 200
    for text in (
        "paymesh mall",
        "CN¥99.99</p>",
        "<dt>Order</dt><dd><bdi>ORD1</bdi></dd>",
        ">Pay CN¥99.99</button>",
        ">Fail this payment</button>",
    ):
        assert text in page.text
    assert "<script" not in page.text

    clock.advance(7)
    paid = await person.post(f"{page.url}/pay")
    # back on the page, so that reloading presses nothing
    assert str(paid.url) == cashier_url(opened)
    assert "Paid. Thank you." in paid.text
    assert '<a href="http://shop.test/done"' in paid.text
    assert "<form" not in paid.text
    fact = await channel.query("ATT1", timeout_seconds=PATIENCE)
    assert (fact.status, fact.amount, fact.trade_no, fact.occurred_at) == (
        ChannelStatus.CAPTURED,
        PRICE,
        opened.trade_no,
        clock.now(),
    )
    assert fact.next_action is None


async def test_a_person_who_fails_declines_and_cannot_pay_afterwards(
    channel: SandboxChannel, person: httpx.AsyncClient, clock: FakeClock
) -> None:
    url = cashier_url(await checkout(channel, clock))
    assert "The payment failed" in (await person.post(f"{url}/fail")).text
    assert "The payment failed" in (await person.post(f"{url}/pay")).text
    fact = await channel.query("ATT1", timeout_seconds=PATIENCE)
    assert (fact.status, fact.reason) == (ChannelStatus.DECLINED, "CARD_DECLINED")


async def test_an_expired_page_says_so_and_takes_no_money(
    channel: SandboxChannel, person: httpx.AsyncClient, clock: FakeClock
) -> None:
    url = cashier_url(await checkout(channel, clock, lives_seconds=60))
    clock.advance(59)
    assert "<form" in (await person.get(url)).text
    clock.advance(1)
    assert "has expired" in (await person.post(f"{url}/pay")).text
    fact = await channel.query("ATT1", timeout_seconds=PATIENCE)
    assert (fact.status, fact.reason) == (ChannelStatus.CLOSED, "PAYMENT_CLOSED")


async def test_the_cashier_page_escapes_what_came_from_outside(
    channel: SandboxChannel, person: httpx.AsyncClient, clock: FakeClock
) -> None:
    evil = "<script>alert(1)</script>\"'$title {amount}"
    url = cashier_url(
        await checkout(
            channel, clock, subject=evil, return_url="http://shop.test/?a=1&b='\"><script>"
        )
    )
    for page in (await person.get(url), await person.post(f"{url}/pay")):
        assert "<script" not in page.text
        assert "&lt;script&gt;alert(1)&lt;/script&gt;&quot;&#x27;$title {amount}" in page.text
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe-inline" not in policy
        assert page.headers["cache-control"] == "no-store"
        assert page.headers["referrer-policy"] == "no-referrer"


async def test_the_policy_allows_exactly_the_style_of_the_page(
    channel: SandboxChannel, person: httpx.AsyncClient, clock: FakeClock
) -> None:
    page = await person.get(cashier_url(await checkout(channel, clock)))
    styles = re.findall(r"<style>(.*?)</style>", page.text, re.DOTALL)
    assert [
        f"'sha256-{base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()}'"
        for style in styles
    ] == [re.search(r"style-src ([^;]+);", page.headers["content-security-policy"])[1]]  # type: ignore[index]


@pytest.mark.parametrize(
    "return_url",
    ["javascript:alert(1)", "data:text/html,x", "//evil.test", "http://a b", "ftp://x"],
)
async def test_a_return_url_is_a_web_address_or_nothing_is_opened(
    channel: SandboxChannel, clock: FakeClock, return_url: str
) -> None:
    assert (await checkout(channel, clock, return_url=return_url)).status is ChannelStatus.NOT_SENT
    assert (await channel.query("ATT1", timeout_seconds=PATIENCE)).status is ChannelStatus.NOT_FOUND


@pytest.mark.parametrize(
    "texts", [{"merchant_name": "m" * 101}, {"description": "d" * 501}, {"merchant_name": 1}]
)
async def test_a_name_or_description_that_is_too_long_opens_nothing(
    channel: SandboxChannel, clock: FakeClock, texts: dict[str, Any]
) -> None:
    assert (await checkout(channel, clock, **texts)).status is ChannelStatus.NOT_SENT
    assert (await channel.query("ATT1", timeout_seconds=PATIENCE)).status is ChannelStatus.NOT_FOUND


async def test_the_cashier_page_says_who_is_paid_and_what_for(
    channel: SandboxChannel, person: httpx.AsyncClient, clock: FakeClock
) -> None:
    opened = await checkout(
        channel, clock, merchant_name="北京 Lamps & Co", description="Two lamps, one <small>"
    )
    page = (await person.get(cashier_url(opened))).text
    assert "北京 Lamps &amp; Co" in page
    assert "Two lamps, one &lt;small&gt;" in page
    assert "paymesh mall" not in page


async def test_an_address_that_was_never_given_out_shows_no_payment(
    running: RunningSandbox, person: httpx.AsyncClient
) -> None:
    for answer in (
        await person.get(f"{running.base_url}/cashier/guess"),
        await person.post(f"{running.base_url}/cashier/guess/pay"),
    ):
        assert answer.status_code == 404
        assert "There is no such payment" in answer.text


# Methods and buttons


async def test_a_buyer_chooses_a_method_and_is_told_which_he_used(
    channel: SandboxChannel, person: httpx.AsyncClient, clock: FakeClock
) -> None:
    url = cashier_url(await checkout(channel, clock))
    page = (await person.get(url)).text
    assert re.findall(r'name="method" value="(\w+)"( checked)?', page) == [
        ("card", " checked"),
        ("wallet", ""),
        ("bank_transfer", ""),
    ]
    paid = await person.post(f"{url}/pay", data={"method": "wallet"})
    assert "<dt>Paid with</dt><dd>Mobile wallet</dd>" in paid.text


@pytest.mark.parametrize(
    "form",
    [
        b"method=cash",
        b"method=card%00",
        b"method=CARD",
        b"method=card&method=x",
        b"\xff",
        b"&a=1" * 20,
    ],
)
async def test_a_method_that_there_is_not_pays_nothing_and_shows_the_page_again(
    channel: SandboxChannel, person: httpx.AsyncClient, clock: FakeClock, form: bytes
) -> None:
    url = cashier_url(await checkout(channel, clock))
    page = await person.post(f"{url}/pay", content=form)
    assert (page.status_code, str(page.url)) == (200, url)
    assert "Pay CN¥99.99</button>" in page.text
    assert (await channel.query("ATT1", timeout_seconds=PATIENCE)).status is ChannelStatus.PENDING


async def test_twenty_clicks_at_once_pay_once(
    tmp_path: Path, receiver: Receiver, clock: FakeClock
) -> None:
    async with (
        running_sandbox(tmp_path, clock=clock, callback_url=receiver.url) as running,
        httpx.AsyncClient(trust_env=False, follow_redirects=True, timeout=PATIENCE) as person,
    ):
        channel = running.channel()
        url = cashier_url(await checkout(channel, clock))
        buttons = [
            person.post(f"{url}/pay", data={"method": "card" if number % 2 else "wallet"})
            for number in range(20)
        ]
        pages = await asyncio.gather(*buttons, person.get(url), person.get(url))
        assert all("Paid. Thank you." in page.text for page in pages[:20])
        assert "Paid. Thank you." in (await person.post(f"{url}/fail")).text
        await running.sandbox.run_once()
        assert [json.loads(body)["status"] for body in receiver.bodies()] == ["CAPTURED"]
        assert len((await running.listed())["transactions"]) == 1
        await channel.aclose()


@pytest.mark.parametrize("button", ["pay", "fail"])
async def test_opening_the_address_of_a_button_shows_the_page_and_presses_nothing(
    channel: SandboxChannel, person: httpx.AsyncClient, clock: FakeClock, button: str
) -> None:
    url = cashier_url(await checkout(channel, clock))
    page = await person.get(f"{url}/{button}?lang=zh")
    assert str(page.url) == f"{url}?lang=zh"
    assert '<html lang="zh-CN">' in page.text
    assert (await channel.query("ATT1", timeout_seconds=PATIENCE)).status is ChannelStatus.PENDING


async def test_a_payment_that_the_shop_closed_says_so_and_has_no_buttons(
    channel: SandboxChannel, person: httpx.AsyncClient, clock: FakeClock
) -> None:
    url = cashier_url(await checkout(channel, clock))
    await channel.close("ATT1", timeout_seconds=PATIENCE)
    page = await person.post(f"{url}/pay")
    assert "This payment was cancelled. No money moved." in page.text
    assert "<form" not in page.text
    assert (await channel.query("ATT1", timeout_seconds=PATIENCE)).status is ChannelStatus.CLOSED


# Languages and time


@pytest.mark.parametrize(
    ("accepted", "query", "tag", "button"),
    [
        ("", "", "en", ">Pay CN¥99.99<"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "", "zh-CN", ">支付 ¥99.99<"),
        ("en-GB,zh;q=0.5", "", "en", ">Pay CN¥99.99<"),
        ("en", "?lang=zh", "zh-CN", ">支付 ¥99.99<"),
        ("zh", "?lang=en", "en", ">Pay CN¥99.99<"),
        ("zh", "?lang=de", "zh-CN", ">支付 ¥99.99<"),
        ("", "?lang=%22%3E%3Cscript%3E", "en", ">Pay CN¥99.99<"),
    ],
)
async def test_the_page_speaks_the_language_of_the_browser_or_the_chosen_one(
    channel: SandboxChannel,
    person: httpx.AsyncClient,
    clock: FakeClock,
    *,
    accepted: str,
    query: str,
    tag: str,
    button: str,
) -> None:
    url = cashier_url(await checkout(channel, clock))
    page = await person.get(f"{url}{query}", headers={"accept-language": accepted})
    assert f'<html lang="{tag}">' in page.text
    assert button in page.text
    assert "<script" not in page.text


async def test_the_language_that_was_chosen_by_link_stays_after_paying(
    channel: SandboxChannel, person: httpx.AsyncClient, clock: FakeClock
) -> None:
    url = cashier_url(await checkout(channel, clock))
    english = await person.get(url, headers={"accept-language": "en"})
    link = re.search(r'<a href="([^"]+)" hreflang="zh-CN" lang="zh-CN">中文</a>', english.text)
    assert link is not None
    chinese = await person.get(english.url.join(link[1]), headers={"accept-language": "en"})
    action = re.search(r'action="([^"]+/pay[^"]*)"', chinese.text)
    assert action is not None
    paid = await person.post(chinese.url.join(action[1]), headers={"accept-language": "en"})
    assert "支付成功" in paid.text
    assert '<a href="?lang=en" hreflang="en" lang="en">English</a>' in paid.text


async def test_the_page_says_how_much_time_is_left_and_reloads_when_it_is_over(
    channel: SandboxChannel, person: httpx.AsyncClient, clock: FakeClock
) -> None:
    url = cashier_url(await checkout(channel, clock, lives_seconds=7260))
    for passed, left, seconds in (
        (0, "2 h 1 min", 7261),
        (3660, "1 h 0 min", 3601),
        (1, "59 min", 3600),
        (3539, "1 min", 61),
        (1, "less than 1 min", 60),
    ):
        clock.advance(passed)
        page = (await person.get(url)).text
        assert f"<dt>Time left</dt><dd>{left}<small>" in page
        assert f'<meta http-equiv="refresh" content="{seconds}">' in page
    clock.advance(60)
    page = (await person.get(url)).text
    assert "has expired" in page
    assert "Time left" not in page


# Texts of merchants


HOSTILE = {
    "markup": "</h1><script>alert(1)</script><img src=x onerror=alert(1)>\"'&",
    "templates": "$title ${body} {amount} {0} %s %(x)s",
    "one long word": "W" * 100,
    "turned around": "\u202egro.live\u202d \u2066\u2067\u2068 \u2069\u2069",
    "Arabic": "متجر المصابيح (1) <b>",
    "marks upon marks": "Z" + "\u0310\u0323" * 40,
    "lines": "a\r\n\tb\x00\x1b[31m\u2028c\u2029d\x85e",
    "invisible": "\u200b\ufeff\u2060\u00ad",
    "entities": "&lt;b&gt; &#x3c; &amp",
    "emoji": "👩‍🔧" * 12,
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_a_hostile_text_of_a_merchant_is_shown_as_text_in_its_place(
    channel: SandboxChannel, person: httpx.AsyncClient, clock: FakeClock, name: str
) -> None:
    plain = await checkout(channel, clock, "ATT1", merchant_name="m", description="d")
    evil = await checkout(
        channel,
        clock,
        "ATT2",
        subject=f"Order {HOSTILE[name]}",
        merchant_name=HOSTILE[name],
        description=(HOSTILE[name] * 6)[:500],
    )
    for button in ("", "/pay"):
        shown = []
        for opened in (plain, evil):
            url = cashier_url(opened)
            answer = await (person.post(f"{url}/pay") if button else person.get(url))
            assert answer.status_code == 200
            shown.append(answer.text)
        # the same tags in the same order, whatever the texts say; invisible ones leave no row
        tags = [
            re.findall(r"<[^>]*>", re.sub(r"SBX\d+|/cashier/[\w-]+", "", page)) for page in shown
        ]
        if name != "invisible":
            assert tags[0] == tags[1]
        assert not set(shown[1]) & set(
            "\u202a\u202b\u202d\u202e\u2066\u2067\u2068\u2069\u200b\x00\x1b"
        )


async def test_a_merchant_whose_name_cannot_be_seen_is_not_shown_without_a_name(
    channel: SandboxChannel, person: httpx.AsyncClient, clock: FakeClock
) -> None:
    url = cashier_url(
        await checkout(channel, clock, merchant_name="\u200b \u202e", description="\u2060")
    )
    page = (await person.get(url)).text
    assert "<h1><bdi>paymesh mall</bdi></h1>" in page
    assert 'class="about"' not in page


async def test_a_text_that_is_no_unicode_opens_nothing(running: RunningSandbox) -> None:
    body = (
        b'{"attempt_id":"ATT1","amount":"1.00","currency":"CNY","subject":"x",'
        b'"expires_at":"2026-11-20T13:00:00Z","merchant_name":"\\ud800"}'
    )
    async with httpx.AsyncClient(trust_env=False) as client:
        answer = await client.post(
            f"{running.base_url}/v1/checkouts",
            content=body,
            headers={"authorization": f"Bearer {API_KEY}"},
        )
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request")
    assert (await running.listed())["transactions"] == []


async def test_every_answer_to_a_browser_is_private_and_cannot_be_framed(
    channel: SandboxChannel, running: RunningSandbox, clock: FakeClock
) -> None:
    url = cashier_url(await checkout(channel, clock))
    async with httpx.AsyncClient(trust_env=False) as browser:
        answers = [
            await browser.get(url),
            await browser.get(f"{url}/pay"),
            await browser.post(f"{url}/pay"),
            await browser.get(url),
            await browser.get(f"{running.base_url}/cashier/guess"),
        ]
    assert [answer.status_code for answer in answers] == [200, 303, 303, 200, 404]
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "form-action 'self'" in policy
        assert answer.headers["x-frame-options"] == "DENY"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["x-content-type-options"] == "nosniff"
