"""Which route answers a request."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from artstore_http.problems import MethodNotAllowed, NoRoute
from artstore_http.routes import ROUTES, Operation, Route


@dataclass(frozen=True, slots=True)
class Match:
    """The route that answers, its operation, and what the path holds."""

    route: Route
    operation: Operation
    path: dict[str, str]


@cache
def _table() -> tuple[
    dict[str, dict[str, tuple[Route, Operation]]], list[tuple[re.Pattern[str], dict[str, Any]]]
]:
    plain: dict[str, dict[str, tuple[Route, Operation]]] = {}
    for route in ROUTES:
        methods = plain.setdefault(route.path, {})
        methods[route.method] = (route, route.load())
        if route.method == "GET":
            methods["HEAD"] = methods["GET"]
    patterns = [
        (re.compile(re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path)), methods)
        for path, methods in plain.items()
        if "{" in path
    ]
    return plain, patterns


def match(method: str, path: str) -> Match:
    """The route of a request. Raises `NoRoute`, `MethodNotAllowed`."""
    plain, patterns = _table()
    methods, held = plain.get(path), dict[str, str]()
    if methods is None or "{" in path:  # a template is no path of a file
        for pattern, candidate in patterns:
            found = pattern.fullmatch(path)
            if found:
                methods, held = candidate, found.groupdict()
                break
    if methods is None:
        raise NoRoute
    if method not in methods:
        raise MethodNotAllowed(methods)
    route, operation = methods[method]
    return Match(route, operation, held)
