"""Content-Disposition: writes it for downloads (RFC 6266, 8187), reads it from parts of forms (RFC 7578, 4.2)."""

from __future__ import annotations

import re
from urllib.parse import quote, unquote_to_bytes

from artstore.errors import MalformedRequest
from artstore_http.filenames import decode_percent

# RFC 8187, 3.2.1: attr-char, besides letters and digits.
_ATTR_CHARS = "!#$&+-.^_`|~"
_EXTENDED = re.compile(
    r"(utf-8|iso-8859-1)'[^']*'((?:[!#$&+.^_`|~0-9A-Za-z-]|%[0-9A-Fa-f]{2})*)", re.IGNORECASE | re.ASCII
)
# The plain `filename` keeps only characters that every user agent reads in the same way. Some decode %41 there although
# none should (RFC 6266, appendix D), so a percent sign before two hex digits is replaced.
_UNPLAIN = re.compile(r'[^ -~]|["\\]|%(?=[0-9A-Fa-f]{2})')

_HEAD = re.compile(r"[ \t]*([^\s;,\"]+)[ \t]*")
_PARAMETER = re.compile(
    r";[ \t]*(?:([!#$%&'*+.^_`|~0-9A-Za-z-]+)[ \t]*=[ \t]*"
    r"(\"[^\"\\]*(?:\\.[^\"\\]*)*\"|[^\";\s]+))?[ \t]*",
    re.ASCII | re.DOTALL,
)
_ESCAPED = re.compile(r"\\([\"\\])")

_INLINE = frozenset(
    {"image/png", "image/jpeg", "image/gif", "image/webp", "image/avif", "text/plain"}
)  # fmt: skip
_INLINE_KINDS = re.compile(r"(?:audio|video)/[!#$%&'*+.^_`|~0-9a-z-]+")


def content_disposition(filename: str, *, inline: bool = False) -> str:
    """Return the header: `filename*` is the exact name, `filename` the one that a client without RFC 8187 shows."""
    fallback = _UNPLAIN.sub("_", filename)
    exact = quote(filename, safe=_ATTR_CHARS, errors="replace")
    return f"{'inline' if inline else 'attachment'}; filename=\"{fallback}\"; filename*=UTF-8''{exact}"


def may_inline(content_type: str) -> bool:
    """Return whether a browser may show this type in place: only types that can run no script in any viewer.

    Not PDF: it can hold script, and browsers refuse their viewer under `Content-Security-Policy: sandbox`.
    """
    kind = content_type.partition(";")[0].strip(" \t").lower()
    return kind in _INLINE or _INLINE_KINDS.fullmatch(kind) is not None


def parse_disposition(value: str) -> tuple[str, dict[str, str]]:
    """Return type and parameters, names in lower case. Where both are given, `filename*` replaces `filename`.

    Clients write a quote within `name` or `filename` in one of two ways: browsers, curl since 7.81 and urllib3 as
    `%22` (WHATWG form-data encoding), older ones as a quoted-pair. So `%22` is read as a quote unless the value has a
    quoted-pair. Browsers do not escape `%`, so a name that really contains `%22` cannot be recognised: such a name
    needs `filename*`, or `?filename=` with a plain body. `%0D` and `%0A` are not decoded: a file name cannot contain a
    line end, but it may contain these characters. A `filename` that is percent-encoded as a whole is decoded, see
    `filenames`.
    Raises `MalformedRequest`.
    """
    kind, raw = _scan(value, "Content-Disposition")
    parameters = {name: _unquoted(text) for name, text in raw.items() if not name.endswith("*")}
    encoded = decode_percent(parameters.get("filename", ""))
    for name in ("name", "filename"):
        if name in raw and '\\"' not in raw[name]:
            parameters[name] = parameters[name].replace("%22", '"')
    if encoded is not None:
        parameters["filename"] = encoded
    if "filename*" in raw:
        parameters["filename"] = _extended(_unquoted(raw["filename*"]))
    return kind, parameters


def parse_parameters(value: str, header: str) -> tuple[str, dict[str, str]]:
    """Return the text before the first `;` and the parameters, names in lower case. Raises `MalformedRequest`."""
    head, raw = _scan(value, header)
    return head, {name: _unquoted(text) for name, text in raw.items()}


def _scan(value: str, header: str) -> tuple[str, dict[str, str]]:
    head = _HEAD.match(value)
    at = head.end() if head else -1
    raw: dict[str, str] = {}
    while 0 <= at < len(value):
        match = _PARAMETER.match(value, at)
        name = match[1].lower() if match and match[1] else ""
        if match is None or name in raw:
            at = -1
            break
        if name:
            raw[name] = match[2]
        at = match.end()
    if head is None or at < 0:
        raise MalformedRequest(f"{header} cannot be parsed.")
    return head[1].lower(), raw


def _unquoted(text: str) -> str:
    # Only \" and \\ are decoded: browsers send any other backslash as it is, and to drop it would turn a path into
    # another name.
    return _ESCAPED.sub(r"\1", text[1:-1]) if text.startswith('"') else text


def _extended(text: str) -> str:
    match = _EXTENDED.fullmatch(text)
    try:
        if match:
            return unquote_to_bytes(match[2]).decode(match[1])
    except UnicodeDecodeError:
        pass
    raise MalformedRequest("filename* must look like UTF-8''na%C3%AFve.txt (RFC 8187).")
