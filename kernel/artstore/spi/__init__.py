"""The contract: what a provider of each role must do. One file a role, prose plus types.

Everything here is synchronous and, unless a class says otherwise, called from many threads at once. A provider
subclasses the Protocol of its role and gets honest defaults for what it need not write. It raises the errors of
`artstore.errors`, translated once at its edge; any other exception is a bug and is reported as one.
"""

# ruff: noqa: I001 - one line of names after the other: this is an index, not code
from __future__ import annotations

from artstore.spi.auth import (
    FILES_DELETE, FILES_READ, FILES_WRITE, SCOPES, STORAGE_READ, STORAGE_WRITE, TOKEN_ROLES, Auth,
    Principal, SupportsIssue, is_user_name,
)  # fmt: skip
from artstore.spi.backend import (
    INTERNAL, Backend, Capabilities, Entry, Reader, Recoverable, RecoverableBackend, Recovered, Rekeyed, Span,
    SupportsRedirect, SupportsRekey, Writer, split_key,
)  # fmt: skip
from artstore.spi.cache import Cache, Cursor, Page, Query, Sort, SupportsClaim, SupportsMigration, Totals
from artstore.spi.log import (
    STATUSES, AbandonedLog, Coordination, Intent, Log, Position, SingleNode, Status, Transaction,
)  # fmt: skip
from artstore.spi.naming import Name, Naming, Parsed
from artstore.spi.observer import Change, Observer
from artstore.spi.provider import API, PIECE, Configurable, Context, NoSettings, Size

__all__ = [
    "API", "FILES_DELETE", "FILES_READ", "FILES_WRITE", "INTERNAL", "PIECE", "SCOPES", "STATUSES",
    "STORAGE_READ", "STORAGE_WRITE", "TOKEN_ROLES", "AbandonedLog", "Auth", "Backend", "Cache",
    "Capabilities", "Change", "Configurable", "Context", "Coordination", "Cursor", "Entry", "Intent", "Log",
    "Name", "Naming", "NoSettings", "Observer", "Page", "Parsed", "Position", "Principal", "Query",
    "Reader", "Recoverable", "RecoverableBackend", "Recovered", "Rekeyed", "SingleNode", "Size", "Sort",
    "Span", "Status", "SupportsClaim", "SupportsIssue", "SupportsMigration", "SupportsRedirect",
    "SupportsRekey", "Totals", "Transaction", "Writer", "is_user_name", "split_key",
]  # fmt: skip
