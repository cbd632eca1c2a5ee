"""Finds the route that answers a request."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from artstore_http.problems import MethodNotAllowed, NoRoute
from artstore_http.routes import ROUTES, Route


@dataclass(frozen=True, slots=True)
class Match:
    """The route that answers, and the values of the variables in its path."""

    route: Route
    path: dict[str, str]


@cache
def _table() -> tuple[dict[str, dict[str, Route]], list[tuple[re.Pattern[str], dict[str, Route]]]]:
    plain: dict[str, dict[str, Route]] = {}
    for route in ROUTES:
        methods = plain.setdefault(route.path, {})
        methods[route.method] = route
        if route.method == "GET":
            methods["HEAD"] = methods["GET"]
    patterns = [
        (re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path)), methods)
        for path, methods in plain.items()
        if "{" in path
    ]
    return plain, patterns


def match(method: str, path: str) -> Match:
    """Return the route of a request. Raises `NoRoute`, `MethodNotAllowed`."""
    plain, patterns = _table()
    methods, held = plain.get(path), dict[str, str]()
    if methods is None or "{" in path:  # the template itself is not a path that anybody may ask for
        for pattern, candidate in patterns:
            found = pattern.fullmatch(path)
            if found:
                methods, held = candidate, found.groupdict()
                break
    if methods is None:
        raise NoRoute
    if method not in methods:
        raise MethodNotAllowed(methods)
    return Match(methods[method], held)
