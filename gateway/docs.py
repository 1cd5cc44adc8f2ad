"""Swagger UI at /docs from the files of an installed package: no internet, no inline script, and a policy that lets the page load nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from gateway.answers import Answer, Headers
from gateway.pages import Page

_PACKAGE: Final = "swagger_ui"  # the distribution swagger-ui-py carries Swagger UI 5, the first that renders OpenAPI 3.1
_ASSETS: Final = {
    "swagger-ui.css": b"text/css; charset=utf-8",
    "swagger-ui-bundle.js": b"text/javascript; charset=utf-8",
    "favicon-32x32.png": b"image/png",
}
_INDEX: Final = b"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>paymesh API</title>
<link rel="stylesheet" href="/docs/swagger-ui.css">
<link rel="icon" type="image/png" href="/docs/favicon-32x32.png">
</head>
<body>
<div id="swagger-ui"></div>
<script src="/docs/swagger-ui-bundle.js"></script>
<script src="/docs/start.js"></script>
</body>
</html>
"""
_START: Final = b"""window.ui = SwaggerUIBundle({url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null});
"""
# Swagger UI sets styles on elements and draws its icons from data: URLs.
_CONTENT_POLICY: Final = (b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; "
                          b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
_POLICY: Final[Headers] = [(b"content-security-policy", _CONTENT_POLICY), (b"referrer-policy", b"no-referrer"), (b"x-frame-options", b"DENY")]
_KEEP: Final = b"public, max-age=3600"


def docs_pages() -> Iterator[Page]:
    """/docs and everything that it loads.

    Raises:
        OSError: the package is not installed, or carries other files.
    """
    yield Page("/docs", lambda _request: Answer(200, _INDEX, content_type=b"text/html; charset=utf-8", headers=[*_POLICY]))
    yield _static("/docs/start.js", _START, b"text/javascript; charset=utf-8")
    folder = _assets_folder()
    for name, content_type in _ASSETS.items():
        yield _static(f"/docs/{name}", (folder / name).read_bytes(), content_type)


def _static(route: str, body: bytes, content_type: bytes) -> Page:
    return Page(route, lambda _request: Answer(200, body, content_type=content_type, keep=_KEEP))


def _assets_folder() -> Path:
    spec = find_spec(_PACKAGE)  # located, not imported: only its files are of use
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("swagger-ui-py is not installed")
    return Path(next(iter(spec.submodule_search_locations))) / "static"
