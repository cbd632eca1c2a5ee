"""The table of routes: what is there, who may, and what goes in and comes out. OpenAPI is made from it."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Literal

from pydantic import BaseModel

from artstore.spi import FILES_DELETE, FILES_READ, FILES_WRITE, STORAGE_READ, STORAGE_WRITE
from artstore_http import models
from artstore_http.call import Call
from artstore_http.message import Receiver, Response
from artstore_http.problems import MethodNotAllowed, NoRoute

Operation = Callable[[Call], Response | Receiver]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method on one path. `scope` None: for anybody. `codes`: the problems worth telling of."""

    method: str
    path: str
    operation: str
    """`module.function` in this package: the operation, once it is called for."""
    summary: str
    scope: str | None = None
    parameters: dict[str, str] = field(default_factory=dict)
    takes: Literal["", "upload", "bytes", "patch", "transition"] = ""
    gives: type[BaseModel] | Literal["bytes", "nothing", "openapi"]
    success: int = 200
    codes: tuple[str, ...] = ()
    instant: bool = False
    """It touches nothing that could make it wait."""

    def load(self) -> Operation:
        """The function behind it."""
        module, _, name = self.operation.partition(".")
        function: Operation = getattr(importlib.import_module(f"artstore_http.{module}"), name)
        return function


_FILENAME = {"filename": "the original name; needed unless the body is a form"}
_UPLOAD_CODES = (
    "malformed-request",
    "conflict",
    "mode-not-allowed",
    "length-required",
    "file-too-large",
    "unsupported-media-type",
    "invalid-field",
    "digest-mismatch",
    "storage-full",
)
_SEARCH = {
    "q": "words in name, description and tags, regardless of case; every one must occur",
    "filename": "the original name, exactly",
    "uploaded_by": "the uploader's name, exactly",
    "content_type": "exactly",
    "tag": "repeatable: all must match",
    "sha256": "of the data, in hex",
    "min_size": "bytes",
    "max_size": "bytes",
    "uploaded_after": "RFC 3339 time or date, strictly later",
    "uploaded_before": "RFC 3339 time or date, strictly earlier",
    "sort": "uploaded_at, original_filename or size; a leading - descends; default -uploaded_at",
    "limit": "1 to 1000, default 100",
    "cursor": "next_cursor of the page before",
}
_FILE = "/api/v1/files/{file_id}"


def _upload(path: str) -> Route:
    return Route(
        method="POST",
        path=path,
        operation="uploads.upload",
        summary="Upload a file, as a form or as the plain body",
        scope=FILES_WRITE,
        parameters=_FILENAME,
        takes="upload",
        gives=models.FileJson,
        success=201,
        codes=_UPLOAD_CODES,
    )


ROUTES: tuple[Route, ...] = (
    _upload("/api/v1/files"),
    _upload("/api/v1/files/upload"),
    Route(
        method="GET",
        path="/api/v1/files",
        operation="searches.search",
        summary="Find files",
        scope=FILES_READ,
        parameters=_SEARCH,
        gives=models.FilePage,
        codes=("unknown-parameter", "invalid-field", "invalid-cursor", "unavailable"),
    ),
    Route(
        method="PUT",
        path=_FILE,
        operation="uploads.put",
        summary="Upload a file under an id of your own: a retry is safe",
        scope=FILES_WRITE,
        parameters=_FILENAME,
        takes="bytes",
        gives=models.FileJson,
        success=201,
        codes=_UPLOAD_CODES,
    ),
    Route(
        method="GET",
        path=_FILE,
        operation="files.look",
        summary="What is known of a file",
        scope=FILES_READ,
        gives=models.FileJson,
        codes=("not-found", "precondition-failed", "damaged"),
    ),
    Route(
        method="PATCH",
        path=_FILE,
        operation="files.change",
        summary="Change description, tags or metadata (merge-patch, RFC 7396)",
        scope=FILES_WRITE,
        takes="patch",
        gives=models.FileJson,
        codes=(
            "malformed-request",
            "not-found",
            "mode-not-allowed",
            "precondition-failed",
            "file-too-large",
            "unsupported-media-type",
            "invalid-field",
        ),
    ),
    Route(
        method="DELETE",
        path=_FILE,
        operation="files.delete",
        summary="Delete a file",
        scope=FILES_DELETE,
        gives="nothing",
        success=204,
        codes=("not-found", "mode-not-allowed", "precondition-failed"),
    ),
    Route(
        method="GET",
        path=f"{_FILE}/download",
        operation="downloads.download",
        summary="The bytes of a file, whole or in ranges",
        scope=FILES_READ,
        parameters={"disposition": "attachment (default), or inline where that is safe"},
        gives="bytes",
        codes=("not-found", "mode-not-allowed", "precondition-failed", "invalid-range", "damaged"),
    ),
    Route(method="GET", path="/", operation="elements.root", summary="Who we are", gives=models.Root),
    Route(
        method="GET",
        path="/api/v1/info",
        operation="elements.info",
        summary="This element",
        gives=models.Info,
    ),
    Route(
        method="GET",
        path="/api/v1/capacity",
        operation="elements.capacity",
        summary="How much room there is",
        scope=STORAGE_READ,
        gives=models.Capacity,
        codes=("unavailable",),
    ),
    Route(
        method="GET",
        path="/api/v1/plugins",
        operation="elements.plugins",
        summary="What fills each role, and what else could",
        scope=STORAGE_READ,
        gives=models.PluginPage,
    ),
    Route(
        method="POST",
        path="/api/v1/mode/transition",
        operation="elements.transition",
        summary="Change the mode of the element",
        scope=STORAGE_WRITE,
        takes="transition",
        gives=models.Transition,
        codes=("malformed-request", "conflict", "unsupported-media-type", "invalid-field"),
    ),
    Route(
        method="GET",
        path="/api/v1/transactions",
        operation="elements.transactions",
        summary="The write-ahead log, newest first",
        scope=STORAGE_READ,
        parameters={
            "status": "pending, committed, rolled_back or failed",
            "limit": "1 to 1000, default 100",
            "cursor": "next_cursor of the page before",
        },
        gives=models.TransactionPage,
        codes=("unknown-parameter", "invalid-field", "invalid-cursor"),
    ),
    Route(
        method="GET",
        path="/health/live",
        operation="elements.live",
        summary="The process answers",
        gives=models.Alive,
        instant=True,
    ),
    Route(
        method="GET",
        path="/health/ready",
        operation="elements.ready",
        summary="The element can do its work",
        gives=models.Ready,
    ),
    Route(
        method="GET",
        path="/openapi.json",
        operation="elements.openapi",
        summary="This contract, for programs",
        gives="openapi",
    ),
)


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
