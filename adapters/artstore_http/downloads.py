"""The operation that sends the data of a file: the whole, one range, or several ranges."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from artstore.errors import InvalidField, PreconditionFailed
from artstore.reading import Download
from artstore.spi import Span
from artstore_http.call import Call
from artstore_http.conditions import Outcome, evaluate, http_date, range_applies
from artstore_http.digests import repr_digest
from artstore_http.disposition import content_disposition, may_inline
from artstore_http.message import Headers, Response, Stream
from artstore_http.problems import InvalidRange
from artstore_http.ranges import ByteRanges, Unsatisfiable, content_range, parse_range


class Part:
    """The bytes of one span. `path`: of a file that holds no others."""

    def __init__(self, download: Download, span: Span, path: str | None = None) -> None:
        self._download = download
        self._span = span
        self.size = span.length
        self.path = path

    def pieces(self) -> Iterable[bytes]:
        return self._download.pieces(self._span)

    def close(self) -> None:
        self._download.close()


class Parts:
    """The bytes of several spans, framed as multipart/byteranges."""

    path: str | None = None

    def __init__(self, download: Download, spans: list[Span], framing: ByteRanges) -> None:
        self._download = download
        self._spans = spans
        self._framing = framing
        self.size = framing.length

    def pieces(self) -> Iterable[bytes]:
        for head, span in zip(self._framing.heads, self._spans, strict=True):
            yield head
            yield from self._download.pieces(span)
        yield self._framing.tail

    def close(self) -> None:
        self._download.close()


class Primed:
    """A stream whose first piece was read before the status is sent: a file that cannot be read gets an error."""

    path: str | None = None

    def __init__(self, stream: Stream) -> None:
        self.size = stream.size
        self._stream = stream
        self._rest = iter(stream.pieces())
        self._first = next(self._rest, b"")

    def pieces(self) -> Iterable[bytes]:
        yield self._first
        yield from self._rest

    def close(self) -> None:
        self._stream.close()


def download(call: Call) -> Response:
    """GET /api/v1/files/{file_id}/download"""
    inline = _wants_inline(call)
    found = call.kernel.download(call.file_id)
    try:
        response = _answer(call, found, inline)
        if not isinstance(response.body, bytes) and found.path is None and call.request.method == "GET":
            response.body = Primed(response.body)
    except BaseException:
        found.close()
        raise
    if isinstance(response.body, bytes):
        found.close()
    return response


def _wants_inline(call: Call) -> bool:
    wanted_disposition = call.parameter("disposition")
    if wanted_disposition not in (None, "inline", "attachment"):
        raise InvalidField("disposition", "disposition must be inline or attachment.")
    return wanted_disposition == "inline"


def _answer(call: Call, found: Download, inline: bool) -> Response:
    request, attr = call.request, found.attr
    etag, changed = f'"{attr.sha256}"', datetime.fromisoformat(attr.uploaded_at)
    validators: Headers = [
        ("Cache-Control", "private, no-cache"),
        ("ETag", etag),
        ("Last-Modified", http_date(changed)),
    ]
    outcome = evaluate(
        request.method,
        etag=etag,
        last_modified=changed,
        if_match=request.header("if-match"),
        if_unmodified_since=request.header("if-unmodified-since"),
        if_none_match=request.header("if-none-match"),
        if_modified_since=request.header("if-modified-since"),
    )
    if outcome is Outcome.FAILED:
        raise PreconditionFailed("The file is not the one that the condition names.")
    if outcome is Outcome.NOT_MODIFIED:
        return Response(304, validators)
    shown = content_disposition(attr.original_filename, inline=inline and may_inline(attr.content_type))
    elsewhere = found.redirect(shown) if request.method == "GET" else None
    if elsewhere is not None:
        # Not `no-cache`: the address is a secret, and it expires soon.
        return Response(307, [("Location", elsewhere), ("Cache-Control", "no-store")])
    headers: Headers = [
        *validators,
        ("Accept-Ranges", "bytes"),
        ("Repr-Digest", repr_digest(attr.sha256)),
        ("Content-Disposition", shown),
        ("X-Content-Type-Options", "nosniff"),
        ("Content-Security-Policy", "sandbox; default-src 'none'"),
    ]
    spans: list[Span] | Unsatisfiable | None = None
    wanted = request.header("range")
    if (
        wanted is not None
        and request.method == "GET"  # RFC 9110, 14.2: Range is defined for GET alone
        and range_applies(request.header("if-range"), etag=etag, last_modified=changed)
    ):
        spans = parse_range(wanted, attr.size)
    if isinstance(spans, Unsatisfiable):
        raise InvalidRange(attr.size)
    if spans is None:
        headers += [("Content-Type", attr.content_type), ("Content-Length", str(attr.size))]
        return Response(200, headers, Part(found, Span(0, attr.size), found.path))
    if len(spans) == 1:
        headers += [
            ("Content-Type", attr.content_type),
            ("Content-Range", content_range(spans[0], attr.size)),
            ("Content-Length", str(spans[0].length)),
        ]
        return Response(206, headers, Part(found, spans[0]))
    # The digest keeps the boundary out of the data: a file cannot hold its own sha-256.
    framing = ByteRanges(f"artstore-{attr.sha256[:48]}", attr.content_type, spans, attr.size)
    headers += [("Content-Type", framing.content_type), ("Content-Length", str(framing.length))]
    return Response(206, headers, Parts(found, spans, framing))
