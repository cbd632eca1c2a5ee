"""The operation that finds files, and the cursor by which it goes on."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any, get_args
from urllib.parse import quote, urlencode

from artstore.attr import timestamp
from artstore.errors import InvalidField
from artstore.ids import parse_id
from artstore.spi import Cursor, Query, Sort
from artstore_http.call import Call, json_response
from artstore_http.digests import parse_sha256_field
from artstore_http.message import Headers, Response
from artstore_http.models import file_json
from artstore_http.problems import InvalidCursor

MAX_WORDS = 20
"""Words of one search at most; also its tags."""

MAX_LINK = 2048
"""Bytes of a Link field. A proxy with default buffers refuses an answer whose head is larger than 4 KiB."""

_TIME = re.compile(r"\d{4}-\d\d-\d\d(?:[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,9})?(?:[Zz]|[+-]\d\d:\d\d))?", re.ASCII)


def search(call: Call) -> Response:
    """GET /api/v1/files"""
    query = _query(call)
    page = call.kernel.search(query)
    cursor = None if page.next is None else _encode(page.next, _fingerprint(call))
    items = b",".join(file_json(attr) for attr in page.items)
    body = b'{"items":[' + items + b'],"next_cursor":' + json.dumps(cursor).encode() + b"}"
    headers: Headers = []
    if cursor is not None:
        kept = [(n, v) for n, vs in call.request.parameters.items() if n != "cursor" for v in vs]
        link = urlencode([*kept, ("cursor", cursor)], quote_via=quote)
        field = f'<{call.link("/api/v1/files")}?{link}>; rel="next"'
        if len(field) <= MAX_LINK:
            headers.append(("Link", field))
    return json_response(body, headers=headers)


def _query(call: Call) -> Query:
    sort = call.parameter("sort")
    sort = "-uploaded_at" if sort is None else sort
    column = sort.removeprefix("-")
    if column not in get_args(Sort):
        raise InvalidField(
            "sort", f"sort must be one of {', '.join(get_args(Sort))}, or one with - before it."
        )
    cursor = call.parameter("cursor")
    sha256 = call.parameter("sha256")
    fields: dict[str, Any] = {
        "words": tuple((call.parameter("q") or "").split()),
        "tags": tuple(call.request.parameters.get("tag", ())),
        "min_size": call.number("min_size"),
        "max_size": call.number("max_size"),
        "sha256": None if sha256 is None else parse_sha256_field(sha256),
        "uploaded_after": _time(call, "uploaded_after", up=False),
        "uploaded_before": _time(call, "uploaded_before", up=True),
        "updated_after": _time(call, "updated_after", up=False),
        "updated_before": _time(call, "updated_before", up=True),
        "sort": column,
        "descending": sort.startswith("-"),
        "limit": call.number("limit", least=1, most=1000) or 100,
        "after": None if cursor is None else _decode(cursor, column, _fingerprint(call)),
    }
    fields |= {n: call.parameter(n) for n in ("filename", "uploaded_by", "content_type")}
    for name, what in (("q", "words"), ("tag", "tags")):
        if len(fields[what]) > MAX_WORDS:
            raise InvalidField(name, f"At most {MAX_WORDS} {what} at a time.")
    return Query(**fields)


def _time(call: Call, name: str, *, up: bool) -> str | None:
    """Return a time in the form of sidecars. Fractions of a millisecond are rounded `up` or down."""
    text = call.parameter(name)
    if text is None:
        return None
    text = re.sub(r" (\d\d:\d\d)$", r"+\1", text)  # a + that was not escaped
    problem = InvalidField(
        name, f"{name} must be a date or a time with its offset, like 2025-01-11T15:30:45Z."
    )
    if not _TIME.fullmatch(text):
        raise problem
    fine = re.search(r"\.\d{3}\d*[1-9]", text) is not None
    try:
        at = datetime.fromisoformat(re.sub(r"(\.\d{6})\d+", r"\1", text.upper()))
        at = (at if at.tzinfo else at.replace(tzinfo=UTC)).astimezone(UTC)
        return timestamp(at + timedelta(milliseconds=1) if up and fine else at)
    except (ValueError, OverflowError):
        raise problem from None


def _fingerprint(call: Call) -> str:
    """Return a hash of the search without cursor and limit: a cursor belongs to one search."""
    kept = sorted((n, v) for n, v in call.request.parameters.items() if n not in ("cursor", "limit"))
    return hashlib.sha256(json.dumps(kept).encode()).hexdigest()[:12]


def _encode(position: Cursor, fingerprint: str) -> str:
    cursor = json.dumps(
        [*position, fingerprint], ensure_ascii=False
    )  # escapes would make it three times as long
    return base64.urlsafe_b64encode(cursor.encode()).decode().rstrip("=")


def _decode(cursor: str, column: str, fingerprint: str) -> Cursor:
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        value, file_id, made_for = json.loads(raw)
    except (binascii.Error, ValueError, TypeError, RecursionError):
        raise InvalidCursor from None
    if not _is_position(value, file_id, column):
        raise InvalidCursor
    if made_for != fingerprint:
        raise InvalidCursor("The cursor belongs to another search: keep the other parameters as they were.")
    return Cursor(value, file_id)


def _is_position(value: object, file_id: object, column: str) -> bool:
    try:
        parse_id(str(file_id))
        if isinstance(value, str):
            return column != "size" and "\0" not in value and bool(value.encode())
        return column == "size" and type(value) is int and 0 <= value < 1 << 63
    except (InvalidField, UnicodeEncodeError):
        return False
