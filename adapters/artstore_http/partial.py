"""Uploads of a part of a file: recognized by what announces them, and refused, because an upload is whole."""

from __future__ import annotations

from artstore.errors import MalformedRequest
from artstore_http.message import Request
from artstore_http.problems import UnsupportedMediaType

_ONLY_PARTS = (
    "content-range",  # RFC 9110, 14.5: `curl -T f -C -`, jQuery File Upload
    "x-content-range",  # nginx-upload-module
    "x-update-range",  # SabreDAV
    "oc-chunked",  # ownCloud
    "tus-resumable",
    "upload-concat",
    "upload-defer-length",
)
"""Fields that come with a part, or with an upload that goes on in other requests."""

_OF_THE_WHOLE = {
    "upload-complete": "?1",  # draft-ietf-httpbis-resumable-upload; Apple's clients send it with each upload
    "upload-incomplete": "?0",  # the same before its version 04
    "upload-offset": "0",
}
"""Fields that come with a whole file as well, and their value then."""


def refuse_part(request: Request) -> None:
    """Raise `MalformedRequest` or `UnsupportedMediaType` when the head announces a part of a file.

    A part that is stored would pass for the whole file.
    """
    for name in _ONLY_PARTS:
        if request.header(name) is not None:
            raise _part(name)
    for name, of_the_whole in _OF_THE_WHOLE.items():
        value = request.header(name)
        if value is not None and value.partition(";")[0].strip(" \t") != of_the_whole:
            raise _part(name)
    announced = request.header("upload-length")
    if announced is not None and announced.strip(" \t") != str(request.length):
        raise _part("upload-length")
    if request.media_type == "multipart/byteranges":
        raise UnsupportedMediaType("Content-Type: parts of a file are not accepted; send the whole file.")


def _part(name: str) -> MalformedRequest:
    shown = "-".join(word.capitalize() for word in name.split("-"))
    return MalformedRequest(f"{shown}: a part of a file is not accepted; send the whole file in one request.")
