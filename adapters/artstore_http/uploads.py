"""Operations that upload a file: as a form, as a plain body, as a plain body under an id of the caller's choice."""

from __future__ import annotations

import hashlib

from artstore.attr import Attr
from artstore.errors import InvalidField, MalformedRequest, NotFound, TooLarge
from artstore.ids import FileId
from artstore.modes import Operation
from artstore.upload import Session
from artstore_http.call import Call, json_response
from artstore_http.content_types import content_type_of
from artstore_http.digests import agreed_digest, parse_digest
from artstore_http.filenames import last_part
from artstore_http.files import check_preconditions
from artstore_http.message import Receiver, Request, Response
from artstore_http.models import file_json
from artstore_http.multipart import FormReader
from artstore_http.partial import refuse_part
from artstore_http.problems import LengthRequired, UnsupportedMediaType

FORM = "multipart/form-data"
FORM_OVERHEAD = 1 << 20
"""Bytes that a form may have beside those of its file."""

_CONDITIONS = ("if-match", "if-none-match", "if-unmodified-since")
_FROM_CURL = "application/x-www-form-urlencoded"
"""The type that `curl --data-binary` declares for every body."""


def upload(call: Call) -> Receiver:
    """POST /api/v1/files"""
    request = call.request
    _check_head(request)
    if request.media_type == FORM:
        if (
            request.length is not None
            and request.length > call.kernel.parts.limits.max_file_size + FORM_OVERHEAD
        ):
            raise TooLarge(f"The body has {request.length} bytes; no file of that size is accepted here.")
        return FormUpload(call)
    return PlainUpload(call, file_id=None)


def put(call: Call) -> Receiver:
    """PUT /api/v1/files/{file_id}"""
    _check_head(call.request)
    if call.request.media_type == FORM:
        raise UnsupportedMediaType(
            "PUT takes the bytes of the file as they are; forms go to POST /api/v1/files."
        )
    call.kernel.parts.element.require(Operation.UPLOAD)
    if any(call.request.header(name) is not None for name in _CONDITIONS):
        check_preconditions(call.request, _find(call))
    return PlainUpload(call, file_id=call.file_id)


def _find(call: Call) -> Attr | None:
    try:
        return call.kernel.attr(call.file_id)
    except NotFound:
        return None


def _check_head(request: Request) -> None:
    if request.encoded:
        raise UnsupportedMediaType(
            "Content-Encoding is not accepted: send the bytes of the file as they are."
        )
    refuse_part(request)
    if request.length is None and not request.chunked:
        raise LengthRequired("Send Content-Length, or the body in chunks.")


def _header_digest(request: Request) -> str | None:
    """Return the digest that the header fields announce, or None."""
    values = [
        parse_digest(value, name=name)
        for name in ("Repr-Digest", "Content-Digest")
        if (value := request.header(name.lower())) is not None
    ]
    return agreed_digest(*values)


def _answer(call: Call, attr: Attr, new: bool) -> Response:
    headers = [("ETag", f'"r{attr.revision}"'), ("Location", call.link(f"/api/v1/files/{attr.file_id}"))]
    return json_response(file_json(attr), 201 if new else 200, headers)


class PlainUpload:
    """Receives a body that is the file itself."""

    def __init__(self, call: Call, *, file_id: FileId | None) -> None:
        self._call, request = call, call.request
        filename = call.parameter("filename")
        if filename is None:
            raise InvalidField("filename", "The file needs a name: ?filename=NAME.")
        filename = last_part(filename)
        self._digest = _header_digest(request)
        if request.chunked and self._digest is None and not request.detects_cut_chunks:
            raise LengthRequired(
                "Behind this server a body in chunks that was cut cannot be told from a whole one: send "
                "Content-Length, or the digest of the file as Repr-Digest."
            )
        declared = request.header("content-type")
        self._session = call.kernel.begin(
            call.by,
            filename=filename,
            content_type=content_type_of(None if request.media_type == _FROM_CURL else declared, filename),
            file_id=file_id,
            size=request.length,
        )

    def feed(self, piece: bytes) -> None:
        self._session.write(piece)

    def finish(self) -> Response:
        attr, new = self._session.commit(sha256=[self._digest] if self._digest else [])
        if not new:
            check_preconditions(
                self._call.request, attr
            )  # another request may have uploaded it since the first check
        return _answer(self._call, attr, new)

    def abort(self, reason: str) -> None:
        self._session.abort(reason)


class FormUpload:
    """Receives a form with one part `file`, and text parts before or after it."""

    def __init__(self, call: Call) -> None:
        self._call = call
        self._session: Session | None = None
        self._announced = _header_digest(call.request)
        # A digest in the head is of the form as a whole (RFC 9530, 3), but many clients mean the file: both pass.
        self._whole = hashlib.sha256() if self._announced else None
        self._room = call.kernel.parts.limits.max_file_size + FORM_OVERHEAD
        self._reader = FormReader(call.request.header("content-type") or "", self)
        call.kernel.parts.element.require(Operation.UPLOAD)
        if (least := (call.request.length or 0) - FORM_OVERHEAD) > 0:
            call.kernel.space.check(least)  # before the body is sent

    def on_file(self, filename: str, content_type: str | None) -> None:
        filename = last_part(filename)
        self._session = self._call.kernel.begin(
            self._call.by, filename=filename, content_type=content_type_of(content_type, filename)
        )

    def on_file_data(self, piece: bytes | memoryview) -> None:
        if self._session is not None:
            self._session.write(piece)

    def on_file_end(self) -> None:
        """Do nothing: text parts may follow."""

    def feed(self, piece: bytes) -> None:
        self._room -= len(piece)
        if self._room < 0:
            raise TooLarge("The form is larger than any file that is accepted here.")
        if self._whole is not None:
            self._whole.update(piece)
        self._reader.feed(piece)

    def finish(self) -> Response:
        form = self._reader.close()
        session = self._session
        if session is None:
            raise MalformedRequest("The form has no part named 'file'.")
        digests = [form.sha256] if form.sha256 else []
        if self._announced and self._whole is not None and self._whole.hexdigest() != self._announced:
            digests.append(self._announced)
        return _answer(self._call, *session.commit(sha256=digests, **form.editable))

    def abort(self, reason: str) -> None:
        if self._session is not None:
            self._session.abort(reason)
