"""Range requests (RFC 9110, 14): which spans a `Range` header asks for, and how several are framed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from typing import Final

from artstore.spi import Span

MAX_RANGES = 16

_SPEC = re.compile(r"([0-9]*)-([0-9]*)")
# No file is that long; what a client writes beyond is never converted: int() refuses 4,300 digits, and
# fewer would already be slow.
_MAX_DIGITS = 18


class Unsatisfiable(Enum):
    """Every range lies beyond the end: 416."""

    UNSATISFIABLE = "unsatisfiable"


UNSATISFIABLE: Final = Unsatisfiable.UNSATISFIABLE


def parse_range(header: str, size: int) -> list[Span] | Unsatisfiable | None:
    """The spans to send of data of `size` bytes, in the order asked; None: send the whole, as if not asked.

    None for another unit, bad syntax and more than 16 ranges (RFC 9110, 14.2 lets a server ignore them),
    and for what begins at the first byte of an empty file, or is a suffix of it: the whole is what was asked
    for, and `Content-Range` cannot express it. Players ask for `bytes=0-` of every file.
    Spans that overlap become one; those that merely touch stay two, as they were asked.
    """
    unit, equals, rest = header.strip(" \t").partition("=")
    if not equals or unit.lower() != "bytes" or rest.count(",") >= 10 * MAX_RANGES:
        return None
    # Empty list elements are skipped (RFC 9110, 5.6.1.2).
    specs = [spec for element in rest.split(",") if (spec := element.strip(" \t"))]
    if not 1 <= len(specs) <= MAX_RANGES:
        return None
    spans: list[Span] = []
    whole_of_nothing = False
    for spec in specs:
        match = _SPEC.fullmatch(spec)
        if match is None or spec == "-":
            return None
        first, last = (digits.lstrip("0") or digits[:1] for digits in match.groups())
        if first and last and (len(last), last) < (len(first), first):
            return None  # RFC 9110, 14.1.1: an int-range whose last-pos is less than first-pos is invalid
        if not first:
            length = min(_number(last), size)
            whole_of_nothing |= size == 0 and last != "0"
            start = size - length
        else:
            start = _number(first)
            whole_of_nothing |= size == start == 0
            length = (min(_number(last), size - 1) if last else size - 1) - start + 1
        if length > 0:
            spans.append(Span(start, length))
    if spans:
        return _merge(spans)
    return None if whole_of_nothing else UNSATISFIABLE


def _number(digits: str) -> int:
    return int(digits) if len(digits) <= _MAX_DIGITS else 10**_MAX_DIGITS


def _merge(spans: list[Span]) -> list[Span]:
    # RFC 9110, 15.3.7.2: the order asked for is kept; a merged span stands where its first part stood.
    groups: list[tuple[int, int, int]] = []
    for place, span in sorted(enumerate(spans), key=lambda item: item[1]):
        end = span.offset + span.length
        if groups and span.offset < groups[-1][2]:
            first, offset, reached = groups[-1]
            groups[-1] = (min(first, place), offset, max(reached, end))
        else:
            groups.append((place, span.offset, end))
    return [Span(offset, end - offset) for _, offset, end in sorted(groups)]


def content_range(span: Span, size: int) -> str:
    """The `Content-Range` of a 206 (RFC 9110, 14.4)."""
    return f"bytes {span.offset}-{span.offset + span.length - 1}/{size}"


class ByteRanges:
    """The framing of `multipart/byteranges` (RFC 9110, 14.6): `heads[i]` goes before the bytes of span i.

    `content_type` and `length` are for the answer's head: `length` counts heads, data and `tail` exactly.
    The caller picks `boundary` and answers for its not occurring in the data.
    """

    __slots__ = ("content_type", "heads", "length", "tail")

    def __init__(self, boundary: str, content_type: str, spans: Sequence[Span], size: int) -> None:
        self.content_type = f"multipart/byteranges; boundary={boundary}"
        delimiter = f"\r\n--{boundary}"
        fields = [f"Content-Type: {content_type}\r\nContent-Range: {content_range(s, size)}" for s in spans]
        heads = [f"{delimiter}\r\n{field}\r\n\r\n" for field in fields]
        heads[0] = heads[0].removeprefix("\r\n")
        # A parameter of a declared content type may hold any letter within quotes.
        self.heads = tuple(head.encode() for head in heads)
        self.tail = f"{delimiter}--\r\n".encode()
        self.length = sum(map(len, self.heads)) + sum(span.length for span in spans) + len(self.tail)
