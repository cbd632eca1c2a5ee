"""Hides where the parts of an element are: addresses and paths belong into its log, not into an answer."""

from __future__ import annotations

import re

_PLACES = re.compile(
    r"""
    [A-Za-z][A-Za-z0-9+.-]*://[^\s'"<>)]+         # a URL
    | (?<![\w./~-])~?/[^\s'",;:)\]]+              # an absolute path
    | \[[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*\](?::\d+)?  # an address of IPv6
    | \b(?:\d{1,3}\.){3}\d{1,3}(?::\d+)?\b        # an address of IPv4
    | \b[A-Za-z][\w-]*(?:\.[\w-]+)*:\d{2,5}\b     # a host and its port
    | \b[a-z][a-z0-9-]*(?:\.[a-z0-9-]+)+(?![\w.])  # a host with a domain
    | \bport\ \d+                                 # as drivers of databases say it
    | "[^"]*" | '[^']*'                           # their hosts, users and databases
    """,
    re.VERBOSE,
)
_KEYS = re.compile(r"\b\d{4}/[^\s'\",;:)\]]+")
"""Names in the store: they hold names of users and files."""
_HIDDEN = "(in the log)"


def conceal_places(text: str) -> str:
    """Return `text` without hosts, ports and absolute paths."""
    return _PLACES.sub(_HIDDEN, text)


def conceal_places_and_keys(text: str) -> str:
    """Return `text` without hosts, ports, paths and names in the store, for callers without a token."""
    return conceal_places(_KEYS.sub(_HIDDEN, text))
