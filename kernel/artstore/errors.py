"""Every error that the kernel, a provider or an operation raises on purpose.

    ArtstoreError
    ├── Refused            the caller asked for something that cannot be done: change the request
    │   ├── InvalidField, MalformedRequest, TooLarge, DigestMismatch, PreconditionFailed
    │   ├── NotFound, Conflict, ModeNotAllowed
    │   └── Unauthorized, Forbidden
    ├── StorageFull        there is no space: reading and deleting still work
    ├── Unavailable        a part does not answer: the same call may succeed later
    │   ├── ProviderFault  a provider broke its contract; a caller reads `internal`
    │   └── OutcomeUnknown the outcome of a publication is in doubt
    ├── Damaged            what is stored contradicts itself: it is neither served nor removed
    └── ConfigError        the operator has to change something; `cure` says what
        └── PluginError

`code` is public contract and stable. Only the HTTP layer knows status codes.
"""

from __future__ import annotations

import errno
import os
from typing import ClassVar

DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
"""Errors of system calls when there is no space."""
CONFIG_ERRNOS = (
    *(errno.EACCES, errno.EPERM, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP),
)


class ArtstoreError(Exception):
    """The root. `code` names the kind; `detail` is a sentence for a person."""

    code: ClassVar[str] = "internal"
    retry_after: int | None = None
    """Seconds after which the same call may succeed. None: it fails until an operator changes something."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class Refused(ArtstoreError):
    """The request cannot be carried out, now or in this form."""

    code = "refused"


class MalformedRequest(Refused):
    """The request cannot be understood (syntax, framing, a body cut short)."""

    code = "malformed-request"


class InvalidField(Refused):
    """The value of one field is not valid."""

    code = "invalid-field"

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(detail)
        self.field = field


class TooLarge(Refused):
    """The file is larger than `limits.max_file_size`, or than the store can hold."""

    code = "file-too-large"


class DigestMismatch(Refused):
    """Other bytes arrived than were announced."""

    code = "digest-mismatch"


class PreconditionFailed(Refused):
    """The file is not, or no longer, as the caller expects."""

    code = "precondition-failed"


class NotFound(Refused):
    """There is no such file, or the caller may not see it: the answer does not tell which."""

    code = "not-found"


class Conflict(Refused):
    """The request contradicts what exists: an id in use, a transition that does not exist."""

    code = "conflict"


class ModeNotAllowed(Refused):
    """The mode of the element forbids the operation."""

    code = "mode-not-allowed"


class Unauthorized(Refused):
    """The caller is not authenticated."""

    code = "unauthorized"


class Forbidden(Refused):
    """The caller is authenticated and lacks the scope."""

    code = "forbidden"


class StorageFull(ArtstoreError):
    """No space, no quota or no capacity left for new data."""

    code = "storage-full"

    def __init__(self, detail: str, *, retry_after: int | None = None) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class Unavailable(ArtstoreError):
    """A part that the operation needs does not answer. A later try may succeed."""

    code = "unavailable"

    def __init__(self, detail: str, *, retry_after: int | None = 5) -> None:
        super().__init__(detail)
        self.retry_after = retry_after


class OutcomeUnknown(Unavailable):
    """The outcome of a publication is in doubt: it may have happened or not, until it is resolved."""


class ProviderFault(Unavailable):
    """A provider raised or returned something that its contract does not allow: a bug of the provider that is named."""

    code = "internal"


class Damaged(ArtstoreError):
    """A sidecar cannot be read or disagrees with its data."""

    code = "damaged"


class ConfigError(ArtstoreError):
    """The configuration cannot be used. `place` says where, `cure` what to do."""

    code = "configuration"

    def __init__(self, detail: str, *, place: str = "", cure: str = "") -> None:
        super().__init__(detail)
        self.place = place
        self.cure = cure

    def __str__(self) -> str:
        text = f"{self.place}: {self.detail}" if self.place else self.detail
        return f"{text}\n  {self.cure}" if self.cure else text


class PluginError(ConfigError):
    """A plugin or an offer cannot be used."""

    code = "plugin"


def missing_store(where: str, *, place: str) -> ConfigError:
    """Return the error for a start at which `where` is not the store that this home has served."""
    return ConfigError(
        f"{where} is not the store that this home has served.",
        place=place,
        cure="Mount its volume, or name its right place (root, bucket, prefix, url); restore a lost element.json "
        "from a backup. To serve what lies there from now on, on purpose: artstore serve --new-store.",
    )


def startup_error(error: OSError, what: str, *, place: str, cure: str) -> ArtstoreError:
    """Return the error for a system call that failed at start: `ConfigError` when the operator has to change something,
    `StorageFull`, or `Unavailable` when it may succeed later."""
    detail = f"{what}: {os.strerror(error.errno) if error.errno else error}."
    if not error.errno or error.errno in CONFIG_ERRNOS:
        return ConfigError(detail, place=place, cure=cure)
    return StorageFull(detail) if error.errno in DISK_FULL_ERRNOS else Unavailable(detail)
