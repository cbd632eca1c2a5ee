"""Every error the kernel, a provider or an operation raises on purpose.

    ArtstoreError
    ├── Refused            the caller asked for what cannot be: mend the request
    │   ├── InvalidField, MalformedRequest, TooLarge, DigestMismatch, PreconditionFailed
    │   ├── NotFound, Conflict, ModeNotAllowed
    │   └── Unauthorized, Forbidden
    ├── StorageFull        no room: reading and deleting go on
    ├── Unavailable        a part does not answer: the same call may succeed later
    │   ├── ProviderFault  a provider broke its contract; to a caller it is `internal`
    │   └── OutcomeUnknown      and whether the call took place is not known yet
    ├── Damaged            what is stored contradicts itself: nothing was served, nothing was dropped
    └── ConfigError        the operator's to mend; `cure` says how
        └── PluginError

`code` is public contract and stable; statuses are known to `artstore_http` alone.
"""

from __future__ import annotations

import errno
import os
from typing import ClassVar

DISK_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)
"""What the system says where there is no space."""
CONFIG_ERRNOS = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT, errno.ENOTDIR, errno.EISDIR, errno.EEXIST),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP),
)


class ArtstoreError(Exception):
    """The root: `code` names the kind, `detail` is a sentence for the person who reads it."""

    code: ClassVar[str] = "internal"

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class Refused(ArtstoreError):
    """What was asked cannot be done, now or as it was asked."""

    code = "refused"


class MalformedRequest(Refused):
    """The request cannot be understood (syntax, framing, a body cut short)."""

    code = "malformed-request"


class InvalidField(Refused):
    """One named field holds what it must not hold."""

    code = "invalid-field"

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(detail)
        self.field = field


class TooLarge(Refused):
    """The file is larger than `limits.max_file_size`."""

    code = "file-too-large"


class DigestMismatch(Refused):
    """The bytes that came are not the bytes that were announced."""

    code = "digest-mismatch"


class PreconditionFailed(Refused):
    """The file is no longer what the caller took it for."""

    code = "precondition-failed"


class NotFound(Refused):
    """No such file, or none that this caller may see: the two are never told apart."""

    code = "not-found"


class Conflict(Refused):
    """It contradicts what is there: an id in use, a transition that does not exist."""

    code = "conflict"


class ModeNotAllowed(Refused):
    """The element's mode forbids the operation."""

    code = "mode-not-allowed"


class Unauthorized(Refused):
    """The caller did not show who they are."""

    code = "unauthorized"


class Forbidden(Refused):
    """The caller is known and lacks the scope."""

    code = "forbidden"


class StorageFull(ArtstoreError):
    """No space, no quota or no capacity left for new data."""

    code = "storage-full"


class Unavailable(ArtstoreError):
    """A part the operation needs does not answer; a later try may succeed."""

    code = "unavailable"


class OutcomeUnknown(Unavailable):
    """A publication whose outcome the store did not tell: nothing may be claimed of it before it is settled."""


class ProviderFault(Unavailable):
    """A provider raised, or gave back, what its contract does not name: a bug of its author, who is named."""

    code = "internal"


class Damaged(ArtstoreError):
    """A sidecar cannot be read or disagrees with its data."""

    code = "damaged"


class ConfigError(ArtstoreError):
    """The configuration cannot be used: `place` says where, `cure` what to do."""

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


def startup_error(error: OSError, what: str, *, place: str, cure: str) -> ArtstoreError:
    """A call of the system that failed at a start: it is wrong as it is set (`ConfigError`), there is no space
    (`StorageFull`), or a disk or a machine may answer later (`Unavailable`)."""
    detail = f"{what}: {os.strerror(error.errno) if error.errno else error}."
    if not error.errno or error.errno in CONFIG_ERRNOS:
        return ConfigError(detail, place=place, cure=cure)
    return StorageFull(detail) if error.errno in DISK_FULL_ERRNOS else Unavailable(detail)
