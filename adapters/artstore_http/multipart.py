"""Reads uploads as `multipart/form-data` (RFC 7578) while they arrive; it keeps none of the file's bytes.

python-multipart finds the delimiters. This module decides which forms are accepted, and words every refusal.
"""

from __future__ import annotations

import re
from logging import CRITICAL, Logger
from typing import TYPE_CHECKING, Protocol

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from artstore.errors import InvalidField, MalformedRequest
from artstore_http.disposition import parse_disposition, parse_parameters
from artstore_http.form import FIELDS, Form
from artstore_http.preamble import Preamble, missing_boundary

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_PARTS = 32
"""Parts of one form."""
MAX_HEADERS = 16
"""Header fields of one part."""
MAX_HEADER_BYTES = 8192
"""Bytes of the header fields of one part together."""
MAX_TEXT_BYTES = 65536
"""Bytes of all text fields of a form together."""

_HINT = "send it as curl -F file=@NAME does"
# RFC 2046, 5.1.1
_BOUNDARY = re.compile(r"[0-9A-Za-z'()+_,./:=? -]{0,69}[0-9A-Za-z'()+_,./:=?-]")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
# The client receives an answer for a broken form; the operator's log needs no warning about it.
_SILENT = Logger("artstore_http.multipart", CRITICAL + 1)


class Sink(Protocol):
    """Receives the file of a form. `FormReader.feed` raises what these methods raise, unchanged."""

    def on_file(self, filename: str, content_type: str | None) -> None:
        """Begin the file. Called once at most; `content_type` is None when the part declares none."""

    def on_file_data(self, piece: bytes | memoryview) -> None:
        """Add the next bytes, at least one. `piece` may be kept: its content does not change later."""

    def on_file_end(self) -> None:
        """Note that all bytes of the file arrived. The form may still be refused until `FormReader.close` returns."""


def boundary_of(content_type: str) -> bytes:
    """Return the boundary that a `multipart/form-data` header announces. Raises `MalformedRequest`."""
    text = parse_parameters(content_type, "Content-Type")[1].get("boundary", "")
    if not text:
        raise MalformedRequest("Content-Type names no boundary; let the HTTP library write this header.")
    if not _BOUNDARY.fullmatch(text):
        raise MalformedRequest("The boundary must be 1 to 70 of the characters of RFC 2046, 5.1.1.")
    return text.encode("ascii")


class FormReader:
    """Reads one form: call `feed` with each piece of the body, then `close`. After an exception it cannot be used."""

    def __init__(self, content_type: str, sink: Sink) -> None:
        boundary = boundary_of(content_type)
        self._preamble: Preamble | None = Preamble(boundary)
        self._sink = sink
        self._ended = self._seen_file = False
        self._parts = self._text_bytes = 0
        self._header_bytes = 0
        self._header: tuple[bytearray, bytearray] = bytearray(), bytearray()
        self._headers: dict[str, str] = {}
        self._name = ""
        self._text: list[bytes] | None = None
        self._values: dict[str, list[str]] = {}
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._part_begin,
            "on_header_begin": self._header_begin,
            "on_header_field": self._header_field,
            "on_header_value": self._header_value,
            "on_header_end": self._header_end,
            "on_headers_finished": self._headers_finished,
            "on_part_data": self._part_data,
            "on_part_end": self._part_end,
            "on_end": self._end,
        }
        # The parser allows one header field more than we do, so that our own check refuses it, in our words.
        self._parser = MultipartParser(
            boundary, callbacks, max_header_count=MAX_HEADERS + 1, max_header_size=MAX_HEADER_BYTES
        )
        self._parser.logger = _SILENT

    def feed(self, piece: bytes) -> None:
        """Read the next piece of the body. Raises `MalformedRequest`, `InvalidField`, and what the sink raises."""
        if self._preamble is not None:
            body = self._preamble.feed(piece)
            if body is None:
                return
            self._preamble, piece = None, body
        try:
            self._parser.write(piece)
        except FormParserError:
            # The parser's message counts bytes from the start of the piece: it depends on how the body was split.
            raise MalformedRequest(
                "The form cannot be parsed: a delimiter or the headers of a part are broken or longer than "
                f"{MAX_HEADER_BYTES} bytes (lines must end in CRLF)."
            ) from None

    def close(self) -> Form:
        """Return the fields, after the whole body was fed. Raises `MalformedRequest` when it was cut or has no file."""
        if self._preamble is not None:
            raise missing_boundary()
        if not self._ended:
            raise MalformedRequest("The form is truncated: the body ended before its closing boundary.")
        if not self._seen_file:
            raise MalformedRequest(f"The form has no part named 'file'; {_HINT}.")
        return Form.of(self._values)

    # --- callbacks of the parser ---

    def _part_begin(self) -> None:
        self._parts += 1
        if self._parts > MAX_PARTS:
            raise MalformedRequest(f"The form has more than {MAX_PARTS} parts.")
        self._headers = {}
        self._header_bytes = 0

    def _header_begin(self) -> None:
        if len(self._headers) == MAX_HEADERS:
            raise MalformedRequest(f"A part of the form has more than {MAX_HEADERS} headers.")
        self._header = bytearray(), bytearray()

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self._add_header(self._header[0], data, start, end)

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self._add_header(self._header[1], data, start, end)

    def _add_header(self, to: bytearray, data: bytes, start: int, end: int) -> None:
        self._header_bytes += end - start
        if self._header_bytes > MAX_HEADER_BYTES:
            raise MalformedRequest(f"The headers of a part are longer than {MAX_HEADER_BYTES} bytes.")
        to += data[start:end]

    def _header_end(self) -> None:
        name = self._header[0].decode("ascii").lower()
        try:
            value = self._header[1].decode("utf-8").strip(" \t")
        except UnicodeDecodeError:
            raise MalformedRequest(f"The header {name} of a part is not UTF-8.") from None
        if name in self._headers or _CONTROL.search(value):
            raise MalformedRequest(f"The header {name} of a part comes twice or holds control characters.")
        self._headers[name] = value

    def _headers_finished(self) -> None:
        kind, parameters = parse_disposition(self._headers.get("content-disposition", "none"))
        name, filename = parameters.get("name"), parameters.get("filename")
        if kind != "form-data" or name is None:
            raise MalformedRequest("A part lacks Content-Disposition: form-data with a name (RFC 7578, 4.2).")
        if self._headers.get("content-transfer-encoding", "binary").lower() not in ("binary", "8bit", "7bit"):
            # RFC 7578, 4.7: deprecated. We store the bytes as they arrive, and decode none.
            raise MalformedRequest("Content-Transfer-Encoding is not accepted: send the bytes as they are.")
        if "content-range" in self._headers:
            raise MalformedRequest("Content-Range: a part of a file is not accepted; send the whole file.")
        self._name, self._text = name, None
        if name == "file":
            self._begin_file(filename)
        elif name in FIELDS or name == "_charset_":
            # A filename is accepted here: FormData adds one to every Blob, and so does curl -F metadata=@NAME.
            self._begin_text(name)
        elif filename is not None:
            raise MalformedRequest(f"The file must be in a part named 'file', not {name[:50]!r}; {_HINT}.")
        else:
            raise InvalidField(
                name[:50], f"There is no field {name[:50]!r}; there are: file, {', '.join(FIELDS)}."
            )

    def _begin_file(self, filename: str | None) -> None:
        if self._seen_file:
            raise MalformedRequest("The form has a second part named 'file'; send one file per request.")
        if not filename:
            raise MalformedRequest(f"The part named 'file' has no filename; {_HINT}, with the @.")
        self._seen_file = True
        self._sink.on_file(filename, self._headers.get("content-type"))

    def _begin_text(self, name: str) -> None:
        if name in self._values and name != "tags":
            raise InvalidField(name, f"The field {name} comes twice.")
        if declared := self._headers.get("content-type"):
            _require_utf8(parse_parameters(declared, "The Content-Type of a part")[1].get("charset", "utf-8"))
        self._text = []

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        whole = start == 0 and end == len(data)
        if self._text is None:
            self._sink.on_file_data(data if whole else memoryview(data)[start:end])
            return
        self._text_bytes += end - start
        if self._text_bytes > MAX_TEXT_BYTES:
            raise InvalidField(self._name, f"The text fields hold more than {MAX_TEXT_BYTES} bytes together.")
        self._text.append(data[start:end])

    def _part_end(self) -> None:
        if self._text is None:
            self._sink.on_file_end()
            return
        try:
            text = b"".join(self._text).decode("utf-8")
        except UnicodeDecodeError:
            raise InvalidField(self._name, f"The field {self._name} is not UTF-8.") from None
        if self._name == "_charset_":
            _require_utf8(text)
        self._values.setdefault(self._name, []).append(text)

    def _end(self) -> None:
        self._ended = True


def _require_utf8(charset: str) -> None:
    if charset.lower() not in ("utf-8", "utf8", "us-ascii"):
        raise MalformedRequest("The text fields of a form must be UTF-8.")
