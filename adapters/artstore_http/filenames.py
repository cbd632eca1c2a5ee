"""The name of a file as clients write it: with directories before it, or percent-encoded."""

from __future__ import annotations

import re
from urllib.parse import unquote_to_bytes

# What encodeURIComponent and RFC 3986 leave as it is, and escapes. aiohttp writes names so (RFC 7578, 4.2 allows it).
_ENCODED = re.compile(r"(?:[A-Za-z0-9._~!*'()-]|%[0-9A-Fa-f]{2})+", re.ASCII)


def decode_percent(text: str) -> str | None:
    """Return the name that percent-encoding stands for, or None when `text` is to be read as it is.

    A browser leaves `%` alone, so that `a%20b.txt` may be a name. Only what is encoded as a whole, and is UTF-8 beyond
    ASCII, is read as encoded: such a name does not occur by chance.
    """
    if "%" not in text or not _ENCODED.fullmatch(text):
        return None
    try:
        decoded = unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        return None
    return None if decoded.isascii() else decoded


def last_part(path: str) -> str:
    """Return the part of a path after the last `/` or `\\`: directories are not used (RFC 7578, 4.2)."""
    return re.split(r"[/\\]", path)[-1]
