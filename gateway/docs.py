"""Pages for people: / says what this is, /docs is Swagger UI from the files of an installed
package. No internet, no inline script, and a content policy that lets the page load nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import msgspec

from gateway.responses import JSON, Headers
from gateway.static import StaticRoute, downloads_limit

# the distribution swagger-ui-py carries Swagger UI 5, the first that renders OpenAPI 3.1
_PACKAGE: Final = "swagger_ui"
_ASSETS: Final = {
    "swagger-ui.css": b"text/css; charset=utf-8",
    "swagger-ui-bundle.js": b"text/javascript; charset=utf-8",
    "favicon-32x32.png": b"image/png",
}
_HTML: Final = b"text/html; charset=utf-8"
_HOME: Final = b"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>paymesh</title>
<link rel="icon" type="image/png" href="/docs/favicon-32x32.png">
<style>body{font:16px/1.5 system-ui,sans-serif;max-width:42rem;margin:4rem auto;padding:0 1rem}code{background:#eee;padding:0 .2em}</style>
</head>
<body>
<h1>paymesh</h1>
<p>Payments, orders and flash sales of an online shop, over HTTP and JSON. This is the API for programs; there is no shop to see here.</p>
<ul>
<li><a href="/docs">/docs</a>: every operation, to read and to try</li>
<li><a href="/openapi.json">/openapi.json</a>: the same for machines (OpenAPI 3.1)</li>
<li><a href="/api/v1/products">/api/v1/products</a>: what is on sale, without a token</li>
<li><a href="/readyz">/readyz</a>: which services can be reached</li>
</ul>
<p>Everything else takes a token: <code>Authorization: Bearer &hellip;</code>. It comes from the shop's identity provider; a mesh for development
makes one with <code>paymesh token --sub alice</code>.</p>
</body>
</html>
"""
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
# Collapsed, because all operations unfolded are 64 screens; the token stays over a reload, in the
# storage of this origin.
_START: Final = b"""window.ui = SwaggerUIBundle({
  url: "/openapi.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null,
  docExpansion: "none", filter: true, persistAuthorization: true, defaultModelsExpandDepth: -1, displayRequestDuration: true,
});
"""
# Swagger UI sets styles on elements and draws its icons from data: URLs.
_CONTENT_POLICY: Final = (
    b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' "
    b"data:; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_POLICY: Final[Headers] = [
    (b"content-security-policy", _CONTENT_POLICY),
    (b"referrer-policy", b"no-referrer"),
    (b"x-frame-options", b"DENY"),
]


def docs_routes(document: Mapping[str, object]) -> Iterator[StaticRoute]:
    """/, /docs with everything that it loads, and the OpenAPI document.

    Raises:
        OSError: the package is not installed, or carries other files.
    """
    page = partial(StaticRoute, limit=downloads_limit())
    yield page("/", _HOME, content_type=_HTML, headers=_POLICY)
    yield page("/docs", _INDEX, content_type=_HTML, headers=_POLICY)
    yield page("/docs/start.js", _START, content_type=b"text/javascript; charset=utf-8")
    folder = _assets_folder()
    for name, content_type in _ASSETS.items():
        yield page(f"/docs/{name}", (folder / name).read_bytes(), content_type=content_type)
    yield page("/openapi.json", msgspec.json.encode(document) + b"\n", content_type=JSON)


def _assets_folder() -> Path:
    spec = find_spec(_PACKAGE)  # located, not imported: only its files are of use
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError("swagger-ui-py is not installed")
    return Path(next(iter(spec.submodule_search_locations))) / "static"
