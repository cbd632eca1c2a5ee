"""The page that shows the OpenAPI document. It loads nothing from other hosts."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from artstore_http.call import Call
from artstore_http.message import Response
from artstore_http.problems import NoRoute

_ASSETS = {
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "start.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
}
# Scripts and styles come only from these files; the page calls only this element, and no frame may show it.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


def page(call: Call) -> Response:
    """GET /docs"""
    return _answer("page.html", "text/html; charset=utf-8")


def asset(call: Call) -> Response:
    """GET /docs/{asset}"""
    name = call.path["asset"]
    if name not in _ASSETS:
        raise NoRoute
    return _answer(name, _ASSETS[name])


def _answer(name: str, content_type: str) -> Response:
    headers = [
        ("Content-Type", content_type),
        ("Content-Security-Policy", _POLICY),
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cache-Control", "public, max-age=3600" if name in _ASSETS else "no-cache"),
    ]
    return Response(200, headers, _content(name))


@cache
def _content(name: str) -> bytes:
    return (files("artstore_http.swagger_ui") / name).read_bytes()
