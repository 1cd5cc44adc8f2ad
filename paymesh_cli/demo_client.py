"""HTTP calls that are shown while they are made: method, path, short body, status, answer."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from html.parser import HTMLParser
from typing import Any

import httpx
from rich.console import Console
from rich.markup import escape

_POLL_SECONDS = 0.1
_SHOWN_CHARACTERS = 400
_HEADER_CHARACTERS = 40
_NOT_YET = 503


class DemoFailed(Exception):
    """A step did not do what it should; the message says which and what came instead."""


class Conversation:
    """Calls a gateway as one after another caller and prints what is said."""

    def __init__(self, client: httpx.Client, console: Console) -> None:
        self._client = client
        self._console = console

    def heading(self, text: str) -> None:
        """Starts a chapter."""
        self._console.print(f"\n[bold]{escape(text)}[/]")

    def note(self, text: str) -> None:
        """Says something between calls."""
        self._console.print(f"  {escape(text)}", soft_wrap=True)

    def call(
        self,
        method: str,
        path: str,
        *,
        token: str = "",
        expect: int | tuple[int, ...],
        body: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """Makes one call and returns the `data` of its answer. `token`: a user token or an API key,
        "" for none.

        Raises:
            DemoFailed: a status not in `expect`, or no envelope. httpx.HTTPError: no answer.
        """
        answer, data = self._call(method, path, token=token, body=body, headers=headers or {})
        self._show(method, path, body=body, headers=headers or {}, answer=answer)
        wanted = (expect,) if isinstance(expect, int) else expect
        if answer.status_code not in wanted or data is None:
            raise DemoFailed(
                f"{method} {path}: expected HTTP {' or '.join(map(str, wanted))}, got "
                f"{answer.status_code}: {answer.text[:_SHOWN_CHARACTERS]}"
            )
        return data

    def poll(
        self,
        path: str,
        *,
        token: str,
        state: str,
        timeout_seconds: float,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """GETs a path until its `data` is in a state; shows the last call only. HTTP 503 means "not
        yet".

        Raises:
            DemoFailed: not within `timeout_seconds`, or an error. httpx.HTTPError: no answer.
        """
        deadline = time.monotonic() + timeout_seconds
        while True:
            answer, data = self._call("GET", path, token=token, body=None, headers=headers or {})
            if data is not None and data.get("state") == state:
                self._show("GET", path, body=None, headers=headers or {}, answer=answer)
                return data
            if (
                answer.status_code >= 400 and answer.status_code != _NOT_YET
            ) or time.monotonic() > deadline:
                self._show("GET", path, body=None, headers=headers or {}, answer=answer)
                raise DemoFailed(f"GET {path}: not {state} within {timeout_seconds:g} s")
            time.sleep(_POLL_SECONDS)

    def page(self, method: str, url: str) -> httpx.Response:
        """Asks for a page as a browser does, following redirects.

        Raises:
            DemoFailed: an error page. httpx.HTTPError: no answer.
        """
        answer = self._client.request(method, url, follow_redirects=True)
        kind = answer.headers.get("content-type", "")
        self._console.print(
            f"  [cyan]{method}[/] {escape(url)}\n    [green]{answer.status_code}[/] {escape(kind)}",
            soft_wrap=True,
        )
        if answer.status_code != 200:
            raise DemoFailed(f"{method} {url}: HTTP {answer.status_code}")
        return answer

    def _call(
        self,
        method: str,
        path: str,
        *,
        token: str = "",
        body: Mapping[str, Any] | None,
        headers: Mapping[str, str],
    ) -> tuple[httpx.Response, dict[str, Any] | None]:
        authorization = {"authorization": f"Bearer {token}"} if token else {}
        answer = self._client.request(method, path, json=body, headers={**authorization, **headers})
        try:
            envelope = answer.json()
        except ValueError:
            return answer, None
        data = (
            envelope.get("data")
            if isinstance(envelope, dict) and envelope.get("code") == "00000"
            else None
        )
        return answer, data if isinstance(data, dict) else None

    def _show(
        self,
        method: str,
        path: str,
        *,
        body: Mapping[str, Any] | None,
        headers: Mapping[str, str],
        answer: httpx.Response,
    ) -> None:
        said = "".join(
            f"  [dim]{escape(name)}: {_short(value, _HEADER_CHARACTERS)}[/]"
            for name, value in headers.items()
        )
        self._console.print(f"  [cyan]{method}[/] {escape(path)}{said}", soft_wrap=True)
        if body is not None:
            self._console.print(f"    {_short(json.dumps(body))}", soft_wrap=True)
        colour = "green" if answer.is_success else "red"
        replayed = (
            "  [dim]Idempotent-Replayed: true[/]"
            if answer.headers.get("idempotent-replayed") == "true"
            else ""
        )
        self._console.print(
            f"    [{colour}]{answer.status_code}[/] {_short(answer.text)}{replayed}", soft_wrap=True
        )


def _short(text: str, characters: int = _SHOWN_CHARACTERS) -> str:
    return escape(text if len(text) <= characters else text[:characters] + " …")


def forms_of(page: str) -> dict[str, tuple[str, str]]:
    """The forms of a page by the first word of their button: (method, action)."""
    parser = _Forms()
    parser.feed(page)
    return parser.found


class _Forms(HTMLParser):
    """Collects the forms of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, tuple[str, str]] = {}
        self._form: tuple[str, str] | None = None
        self._is_button = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """A form or a button begins."""
        if tag == "form":
            facts = dict(attrs)
            self._form = ((facts.get("method") or "get").upper(), facts.get("action") or "")
        self._is_button = tag == "button"

    def handle_endtag(self, tag: str) -> None:
        """A form or a button ends."""
        if tag == "form":
            self._form = None
        self._is_button = False

    def handle_data(self, data: str) -> None:
        """The text of a button."""
        if self._is_button and self._form is not None and data.strip():
            self.found[data.split(maxsplit=1)[0]] = self._form
