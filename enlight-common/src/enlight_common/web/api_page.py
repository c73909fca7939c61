"""`/docs`: a page to browse the API with, all of it served from this machine."""

from __future__ import annotations

from importlib import resources

from flask import Flask, Response, send_from_directory

from enlight_common.errors import NotFound

# The page runs our two scripts and nothing else; Swagger UI sets style attributes.
_PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_ASSETS = {"swagger-ui.css": "css", "swagger-ui-bundle.js": "js"}
_START = "SwaggerUIBundle({url: 'openapi.json', dom_id: '#page', deepLinking: true, validatorUrl: null});\n"
_PAGE = """<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>API</title><link rel="stylesheet" href="docs/swagger-ui.css"></head>
<body><div id="page"></div><script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script></body>
</html>
"""


def install(app: Flask) -> None:
    """Serve Swagger UI for the `/openapi.json` of `app`; its files come out of an installed package."""
    app.add_url_rule("/docs", "docs", _page)
    app.add_url_rule("/docs/<asset>", "docs_asset", _asset)


def _page() -> Response:
    headers = {"Content-Security-Policy": _PAGE_POLICY, "X-Content-Type-Options": "nosniff"}
    return Response(_PAGE, content_type="text/html; charset=utf-8", headers=headers)


def _asset(asset: str) -> Response:
    if asset == "start.js":
        return Response(_START, content_type="text/javascript; charset=utf-8")
    if asset not in _ASSETS:
        raise NotFound("there is no such file")
    folder = resources.files("flask_openapi3_swagger") / "templates" / "swagger" / _ASSETS[asset]
    return send_from_directory(str(folder), asset, max_age=86_400)
