"""Calls by web pages of other origins (CORS, as the Fetch standard defines it)."""

from __future__ import annotations

from collections.abc import Collection

from artstore_http import matching
from artstore_http.message import Headers, Request, Response
from artstore_http.problems import MethodNotAllowed

_MAX_AGE = "600"
"""Seconds for which a browser may remember the answer to a preflight request."""
_REQUEST_FIELDS = ", ".join(
    (
        "Authorization",
        "Content-Digest",
        "Content-Type",
        "If-Match",
        "If-Modified-Since",
        "If-None-Match",
        "If-Range",
        "If-Unmodified-Since",
        "Range",
        "Repr-Digest",
        "X-Request-ID",
    )
)
_ANSWER_FIELDS = ", ".join(
    (
        "Accept-Ranges",
        "Allow",
        "Content-Disposition",
        "Content-Range",
        "ETag",
        "Link",
        "Location",
        "Repr-Digest",
        "Retry-After",
        "WWW-Authenticate",
        "X-Request-ID",
    )
)


def answer_preflight(request: Request, origins: Collection[str]) -> Response | None:
    """Return the answer to a preflight request of an allowed origin, or None for any other request.

    Raises `NoRoute`. A preflight request carries no token, so none is asked for.
    """
    if request.method != "OPTIONS" or request.header("access-control-request-method") is None:
        return None
    if request.header("origin") not in origins:
        return None
    try:
        matching.match("OPTIONS", request.path)
    except MethodNotAllowed as e:
        return Response(
            204,
            [
                ("Access-Control-Allow-Methods", e.allow),
                ("Access-Control-Allow-Headers", _REQUEST_FIELDS),
                ("Access-Control-Max-Age", _MAX_AGE),
            ],
        )
    return None


def cors_headers(request: Request, origins: Collection[str]) -> Headers:
    """Return the fields by which a browser lets a page of an allowed origin read an answer."""
    if not origins:
        return []
    headers = [("Vary", "Origin")]
    origin = request.header("origin")
    if origin is not None and origin in origins:
        headers += [
            ("Access-Control-Allow-Origin", origin),
            ("Access-Control-Expose-Headers", _ANSWER_FIELDS),
        ]
    return headers
