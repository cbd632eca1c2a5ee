"""Conditional requests (RFC 9110, 13) and the dates they compare (RFC 9110, 5.6.7)."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import format_datetime
from enum import Enum, auto

_TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\U0010ffff]*"')
_GAP = re.compile(r"[ \t]*(?:,[ \t,]*|$)")

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_MONTH = f"(?P<month>{'|'.join(_MONTHS)})"
_CLOCK = r"(?P<hour>[0-9]{2}):(?P<minute>[0-9]{2}):(?P<second>[0-9]{2})"
_DAY = "(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun)"
_LONG_DAY = "(?:Mon|Tues|Wednes|Thurs|Fri|Satur|Sun)day"
_DATES = (
    re.compile(rf"{_DAY}, (?P<day>[0-9]{{2}}) {_MONTH} (?P<year>[0-9]{{4}}) {_CLOCK} GMT"),
    re.compile(rf"{_LONG_DAY}, (?P<day>[0-9]{{2}})-{_MONTH}-(?P<year>[0-9]{{2}}) {_CLOCK} GMT"),
    re.compile(rf"{_DAY} {_MONTH} (?P<day>[ 0-9][0-9]) {_CLOCK} (?P<year>[0-9]{{4}})"),
)


class Outcome(Enum):
    """The result of the conditions of a request."""

    PROCEED = auto()
    NOT_MODIFIED = auto()
    """304, to GET and HEAD alone."""
    FAILED = auto()
    """412."""


def evaluate(
    method: str,
    *,
    etag: str | None,
    last_modified: datetime | None,
    if_match: str | None = None,
    if_unmodified_since: str | None = None,
    if_none_match: str | None = None,
    if_modified_since: str | None = None,
) -> Outcome:
    """Evaluate the conditions in the order of RFC 9110, 13.2.2. Never raises.

    `etag` is as in the `ETag` header, quotes and all; None: there is no current representation. A list
    of entity-tags that cannot be parsed matches nothing: `If-Match` fails, a GET sends the whole. Before a
    change a broken `If-None-Match` fails too: its sender wanted protection.
    """
    reading = method in ("GET", "HEAD")
    if if_match is not None:
        tags = parse_etags(if_match)
        if etag is None or tags is None or not ("*" in tags or (not etag.startswith("W/") and etag in tags)):
            return Outcome.FAILED
    elif if_unmodified_since is not None and last_modified is not None:
        date = parse_http_date(if_unmodified_since)
        if date is not None and _seconds(last_modified) > date:
            return Outcome.FAILED
    if if_none_match is not None:
        tags = parse_etags(if_none_match)
        if tags is None:
            return Outcome.PROCEED if reading else Outcome.FAILED
        if etag is not None and ("*" in tags or _opaque(etag) in map(_opaque, tags)):
            return Outcome.NOT_MODIFIED if reading else Outcome.FAILED
    elif if_modified_since is not None and last_modified is not None and reading:
        date = parse_http_date(if_modified_since)
        if date is not None and _seconds(last_modified) <= date:
            return Outcome.NOT_MODIFIED
    return Outcome.PROCEED


def range_applies(if_range: str | None, *, etag: str, last_modified: datetime | None) -> bool:
    """Return whether `Range` applies (RFC 9110, 13.1.5): `If-Range` is our strong tag, or exactly our date."""
    if if_range is None:
        return True
    value = if_range.strip(" \t")
    if value.startswith(('"', "W/")):
        return value == etag and not etag.startswith("W/")
    date = parse_http_date(value)
    return date is not None and last_modified is not None and date == _seconds(last_modified)


def parse_etags(header: str) -> frozenset[str] | None:
    """Return the entity-tags of a list, or `{"*"}`; None when it is not a list of entity-tags."""
    if header.strip(" \t") == "*":
        return frozenset("*")
    tags: list[str] = []
    at = len(header) - len(header.lstrip(" \t,"))
    while at < len(header):
        tag = _TAG.match(header, at)
        gap = _GAP.match(header, tag.end()) if tag else None
        if tag is None or gap is None:
            return None
        tags.append(tag[0])
        at = gap.end()
    return frozenset(tags) or None


def parse_http_date(text: str) -> datetime | None:
    """Return the time in any of the three forms of RFC 9110, 5.6.7, or None. Never raises."""
    match = next((m for form in _DATES if (m := form.fullmatch(text.strip(" \t")))), None)
    if match is None:
        return None
    year = int(match["year"])
    if len(match["year"]) == 2:
        # More than 50 years ahead means the most recent past year with those digits.
        now = datetime.now(UTC).year
        year += now - now % 100
        year -= 100 if year > now + 50 else 0
    try:
        return datetime(
            year,
            _MONTHS.index(match["month"]) + 1,
            int(match["day"]),
            int(match["hour"]),
            int(match["minute"]),
            # A leap second is legal on the wire and unknown to datetime.
            59 if match["second"] == "60" else int(match["second"]),
            tzinfo=UTC,
        )
    except ValueError:
        return None


def http_date(at: datetime) -> str:
    """Return the IMF-fixdate of `at`, without fractions of a second: no comparison here counts them."""
    return format_datetime(at.astimezone(UTC), usegmt=True)


def _seconds(at: datetime) -> datetime:
    return at.astimezone(UTC).replace(microsecond=0)


def _opaque(tag: str) -> str:
    return tag.removeprefix("W/")
