"""The table of routes: each operation, who may call it, what it takes and what it gives. OpenAPI is made from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel

from artstore.spi import FILES_DELETE, FILES_READ, FILES_WRITE, STORAGE_READ, STORAGE_WRITE
from artstore_http import docs, downloads, elements, files, maintenance, models, prometheus, searches, uploads
from artstore_http.call import Call
from artstore_http.message import Receiver, Response

Operation = Callable[[Call], Response | Receiver]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method on one path. Without a `scope` no token is needed. `codes`: the problems that OpenAPI lists."""

    method: str
    path: str
    operation: Operation
    summary: str
    scope: str | None = None
    parameters: dict[str, str] = field(default_factory=dict)
    takes: Literal["", "upload", "bytes", "patch", "transition", "reconcile"] = ""
    gives: type[BaseModel] | Literal["bytes", "nothing", "openapi", "page", "text"]
    success: int = 200
    also: tuple[int, ...] = ()
    """Other statuses that are no problem."""
    codes: tuple[str, ...] = ()


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
    "q": "words in name, description and tags, regardless of case and accents; every one must occur",
    "filename": "the original name, exactly",
    "uploaded_by": "the uploader's name, exactly",
    "content_type": "exactly",
    "tag": "repeatable: all must match",
    "sha256": "of the data, in hex",
    "min_size": "bytes",
    "max_size": "bytes",
    "uploaded_after": "RFC 3339 time or date, strictly later",
    "uploaded_before": "RFC 3339 time or date, strictly earlier",
    "updated_after": "RFC 3339 time or date, strictly later",
    "updated_before": "RFC 3339 time or date, strictly earlier",
    "sort": "uploaded_at, updated_at, original_filename or size; a leading - descends; default -uploaded_at",
    "limit": "1 to 1000, default 100",
    "cursor": "next_cursor of the page before",
}
_FILE = "/api/v1/files/{file_id}"


def _upload(path: str) -> Route:
    return Route(
        method="POST",
        path=path,
        operation=uploads.upload,
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
        operation=searches.search,
        summary="Find files",
        scope=FILES_READ,
        parameters=_SEARCH,
        gives=models.FilePage,
        codes=("unknown-parameter", "invalid-field", "invalid-cursor", "unavailable"),
    ),
    Route(
        method="PUT",
        path=_FILE,
        operation=uploads.put,
        also=(200,),
        summary="Upload a file under an id of your own: a retry is safe",
        scope=FILES_WRITE,
        parameters=_FILENAME,
        takes="bytes",
        gives=models.FileJson,
        success=201,
        codes=(*_UPLOAD_CODES, "precondition-failed"),
    ),
    Route(
        method="GET",
        path=_FILE,
        operation=files.show,
        also=(304,),
        summary="What is known of a file",
        scope=FILES_READ,
        gives=models.FileJson,
        codes=("not-found", "precondition-failed", "damaged"),
    ),
    Route(
        method="PATCH",
        path=_FILE,
        operation=files.change,
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
        operation=files.delete,
        summary="Delete a file",
        scope=FILES_DELETE,
        gives="nothing",
        success=204,
        codes=("not-found", "mode-not-allowed", "precondition-failed"),
    ),
    Route(
        method="GET",
        path=f"{_FILE}/download",
        operation=downloads.download,
        also=(206, 304, 307),
        summary="The bytes of a file, whole or in ranges",
        scope=FILES_READ,
        parameters={"disposition": "attachment (default), or inline where that is safe"},
        gives="bytes",
        codes=("not-found", "mode-not-allowed", "precondition-failed", "invalid-range", "damaged"),
    ),
    Route(
        method="GET", path="/", operation=elements.root, summary="Name, version and links", gives=models.Root
    ),
    Route(
        method="GET",
        path="/api/v1/info",
        operation=elements.info,
        summary="This element",
        gives=models.Info,
    ),
    Route(
        method="GET",
        path="/api/v1/capacity",
        operation=elements.capacity,
        summary="Capacity and free space",
        scope=STORAGE_READ,
        gives=models.Capacity,
        codes=("unavailable",),
    ),
    Route(
        method="GET",
        path="/api/v1/plugins",
        operation=elements.plugins,
        summary="The providers of each role, chosen and available",
        scope=STORAGE_READ,
        gives=models.PluginPage,
    ),
    Route(
        method="POST",
        path="/api/v1/mode/transition",
        operation=elements.transition,
        summary="Change the mode of the element",
        scope=STORAGE_WRITE,
        takes="transition",
        gives=models.Transition,
        codes=("malformed-request", "conflict", "unsupported-media-type", "invalid-field"),
    ),
    Route(
        method="GET",
        path="/api/v1/transactions",
        operation=elements.transactions,
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
        method="POST",
        path="/api/v1/maintenance/reconcile",
        operation=maintenance.reconcile,
        summary="Compare files, sidecars and index, and mend what can be mended",
        scope=STORAGE_WRITE,
        takes="reconcile",
        gives=models.JobJson,
        success=202,
        codes=("malformed-request", "conflict", "unsupported-media-type", "invalid-field"),
    ),
    Route(
        method="POST",
        path="/api/v1/maintenance/rebuild",
        operation=maintenance.rebuild,
        summary="Rebuild the index from the sidecars, while readers are served",
        scope=STORAGE_WRITE,
        gives=models.JobJson,
        success=202,
        codes=("conflict",),
    ),
    Route(
        method="GET",
        path="/api/v1/maintenance/jobs",
        operation=maintenance.jobs,
        summary="The latest jobs, newest first",
        scope=STORAGE_READ,
        parameters={"limit": "1 to 1000, default 100", "cursor": "next_cursor of the page before"},
        gives=models.JobPage,
        codes=("unknown-parameter", "invalid-field", "invalid-cursor"),
    ),
    Route(
        method="GET",
        path="/api/v1/maintenance/jobs/{job_id}",
        operation=maintenance.job,
        summary="The progress of a job, and what it found and did",
        scope=STORAGE_READ,
        gives=models.JobJson,
        codes=("not-found", "invalid-field"),
    ),
    Route(
        method="GET",
        path="/health/live",
        operation=elements.live,
        summary="The process answers",
        gives=models.Alive,
    ),
    Route(
        method="GET",
        path="/health/ready",
        operation=elements.ready,
        also=(503,),
        summary="The element can serve",
        gives=models.Ready,
    ),
    Route(
        method="GET",
        path="/openapi.json",
        operation=elements.openapi,
        summary="This contract, for programs",
        gives="openapi",
    ),
    Route(method="GET", path="/docs", operation=docs.page, summary="This contract, for people", gives="page"),
    Route(
        method="GET",
        path="/docs/{asset}",
        operation=docs.asset,
        summary="The files of that page",
        gives="text",
        codes=("not-found",),
    ),
    Route(
        method="GET", path="/metrics", operation=prometheus.metrics, summary="For Prometheus", gives="text"
    ),
)
