"""Reads and writes digest fields (RFC 9530). Inside the program a digest is hex."""

from __future__ import annotations

import base64
import binascii
import re

from artstore.errors import DigestMismatch, InvalidField, MalformedRequest

# A dictionary (RFC 9651, 3.2) of byte sequences, each with parameters, which are ignored.
_MEMBER = re.compile(
    r"([a-z*][a-z0-9_.*-]*)=:([A-Za-z0-9+/]*={0,2}):"
    r"(?:; *[a-z*][a-z0-9_.*-]*(?:=[^\s;,\"]+|=\"(?:[^\"\\]|\\[\"\\])*\")?)*"
)
_COMMA = re.compile(r"[ \t]*,[ \t]*")
_HEX = re.compile(r"[0-9A-Fa-f]{64}")


def parse_digest(header: str, *, name: str) -> str | None:
    """The sha-256 of a `Repr-Digest` or `Content-Digest` (`name`, for the message); None: others only.

    Structured fields are ignored when broken; a digest that would silently not be checked is a promise
    broken, so this raises `MalformedRequest`.
    """
    members: dict[str, str] = {}
    text = header.strip(" \t")
    at = 0
    while True:
        member = _MEMBER.match(text, at)
        if member is None:
            raise MalformedRequest(f"{name} must look like sha-256=:BASE64: (RFC 9530).")
        members[member[1]] = member[2]  # a key given twice: the last counts (RFC 9651, 3.2)
        at = member.end()
        if at == len(text):
            break
        comma = _COMMA.match(text, at)
        at = comma.end() if comma else len(text)
    if "sha-256" not in members:
        return None
    encoded = members["sha-256"].rstrip("=")
    try:
        digest = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except binascii.Error:
        digest = b""
    if len(digest) != 32:
        raise MalformedRequest(f"The sha-256 of {name} must be 32 bytes in base64, between colons.")
    return digest.hex()


def parse_sha256_field(text: str) -> str:
    """Return the form field `sha256` in lower case. Raises `InvalidField`."""
    if not _HEX.fullmatch(text):
        raise InvalidField("sha256", "sha256 must be 64 hexadecimal digits.")
    return text.lower()


def agreed_digest(*digests: str | None) -> str | None:
    """Return the digest that all those given agree on, or None. Raises `DigestMismatch` when two differ."""
    distinct = {digest for digest in digests if digest is not None}
    if len(distinct) > 1:
        raise DigestMismatch("The request announces several SHA-256 digests that differ.")
    return distinct.pop() if distinct else None


def repr_digest(sha256: str) -> str:
    """Return the value of `Repr-Digest` for a sha256 in hex."""
    return f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode('ascii')}:"
