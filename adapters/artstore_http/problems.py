"""Errors on the wire: `application/problem+json` (RFC 9457). No other module knows statuses."""

from __future__ import annotations

import json
from collections.abc import Iterable

from artstore.errors import (
    ArtstoreError,
    InvalidField,
    MalformedRequest,
    NotFound,
    Refused,
    StorageFull,
    Unauthorized,
    Unavailable,
)
from artstore_http.concealment import conceal_places

TYPE = "https://artstore.dev/problems/"

PROBLEMS: dict[str, tuple[int, str]] = {
    "malformed-request": (400, "The request cannot be understood"),
    "refused": (400, "The request was refused"),
    "unknown-parameter": (400, "There is no such parameter"),
    "invalid-cursor": (400, "The cursor is not one of ours"),
    "unauthorized": (401, "Who calls is not known"),
    "forbidden": (403, "The caller lacks the scope"),
    "not-found": (404, "There is no such thing here"),
    "method-not-allowed": (405, "The method is not allowed here"),
    "timeout": (408, "The request came too slowly"),
    "conflict": (409, "It contradicts what is there"),
    "mode-not-allowed": (409, "The mode of the element does not allow it"),
    "length-required": (411, "The length must be announced"),
    "precondition-failed": (412, "The file is not what it was taken for"),
    "file-too-large": (413, "The body is too large"),
    "uri-too-long": (414, "The address is too long"),
    "unsupported-media-type": (415, "The body is of a kind that is not accepted here"),
    "invalid-range": (416, "The range lies beyond the end"),
    "invalid-field": (422, "A field holds what it must not hold"),
    "digest-mismatch": (422, "The bytes are not those announced"),
    "header-fields-too-large": (431, "The header fields are too large"),
    "internal": (500, "Something broke on our side"),
    "damaged": (500, "What is stored contradicts itself"),
    "unavailable": (503, "A part does not answer"),
    "storage-full": (507, "There is no room left"),
}
"""Every `code` there is: its status and title. Stable."""

_OF_THE_INSIDE = ("refused", "damaged", "unavailable", "storage-full")
"""Codes whose details come from plugins, with what a driver or the system has said."""
_HIDDEN = "The error was logged under this request_id."


class NoToken(Unauthorized):
    """No token came: the challenge then names no error (RFC 6750, 3.1)."""

    def __init__(self, detail: str = "Send a token: Authorization: Bearer TOKEN.") -> None:
        super().__init__(detail)


class NoRoute(NotFound):
    """Nothing lives at that path."""

    def __init__(self, detail: str = "Nothing lives at this path; see /openapi.json.") -> None:
        super().__init__(detail)


class MethodNotAllowed(Refused):
    """The path is there, the method is not; `allow` lists those that are."""

    code = "method-not-allowed"

    def __init__(self, allow: Iterable[str]) -> None:
        self.allow = ", ".join(sorted(allow))
        super().__init__(f"This path answers to {self.allow}.")


class UnknownParameter(Refused):
    """A query parameter that the operation does not know."""

    code = "unknown-parameter"


class InvalidCursor(Refused):
    """A cursor that we did not make, or made for another search."""

    code = "invalid-cursor"

    def __init__(self, detail: str = "The cursor is not one that this element made.") -> None:
        super().__init__(detail)


class BadFraming(MalformedRequest):
    """Where this request ends, or whom it is for, can be read in two ways: the connection ends with it."""


class RequestTimeout(Refused):
    """The body stalled."""

    code = "timeout"


class LengthRequired(Refused):
    """Without a length or a digest a cut body cannot be told from a whole one."""

    code = "length-required"


class UriTooLong(Refused):
    """The request target is longer than we read."""

    code = "uri-too-long"


class UnsupportedMediaType(Refused):
    """A Content-Type or Content-Encoding that the operation does not take."""

    code = "unsupported-media-type"


class InvalidRange(Refused):
    """Every range asked for lies beyond the end of `size` bytes."""

    code = "invalid-range"

    def __init__(self, size: int) -> None:
        super().__init__(f"The file has {size} bytes; no range asked for lies within.")
        self.size = size


class HeaderFieldsTooLarge(Refused):
    """Too many header fields, or too long ones."""

    code = "header-fields-too-large"


def problem(error: BaseException, request_id: str) -> tuple[int, list[tuple[str, str]], bytes]:
    """Return status, headers (without Content-Length) and body. Never raises.

    An error outside the table (a bug, a ConfigError) is `internal`, and its text stays in the log: it
    may name paths.
    """
    code = _code(error)
    status, title = PROBLEMS[code]
    members: dict[str, str | int] = {
        "type": TYPE + code,
        "title": title,
        "status": status,
        "detail": _detail(error, code),
        "code": code,
        "request_id": request_id,
    }
    if isinstance(error, InvalidField):
        members["field"] = error.field
    # no-store: 404, 405 and 414 could be cached by default (RFC 9110, 15.1).
    headers = [
        ("Content-Type", "application/problem+json"),
        ("Cache-Control", "no-store"),
        *_extra(error, code),
    ]
    # A detail may quote what came; half of a surrogate pair must not turn a 4xx into a crash.
    return status, headers, json.dumps(members, ensure_ascii=False).encode("utf-8", "replace")


def _detail(error: BaseException, code: str) -> str:
    if code == "internal" or not isinstance(error, ArtstoreError):
        return _HIDDEN
    return conceal_places(error.detail) if code in _OF_THE_INSIDE else error.detail


def _code(error: BaseException) -> str:
    # A subclass that brings a code of its own counts as the nearest kind the contract knows.
    for kind in type(error).__mro__:
        code = kind.__dict__.get("code")
        if issubclass(kind, ArtstoreError) and code in PROBLEMS:
            return str(code)
    return "internal"


def _extra(error: BaseException, code: str) -> list[tuple[str, str]]:
    if isinstance(error, MethodNotAllowed):
        return [("Allow", error.allow)]
    if isinstance(error, InvalidRange):
        return [("Content-Range", f"bytes */{error.size}")]
    if isinstance(error, NoToken):
        return [("WWW-Authenticate", "Bearer")]
    if isinstance(error, StorageFull | Unavailable) and code != "internal":
        return [("Retry-After", str(error.retry_after))] if error.retry_after is not None else []
    if isinstance(error, BadFraming):
        return [("Connection", "close")]
    return {
        "unauthorized": [("WWW-Authenticate", 'Bearer error="invalid_token"')],
        "forbidden": [("WWW-Authenticate", 'Bearer error="insufficient_scope"')],
        "timeout": [("Connection", "close")],
    }.get(code, [])
