"""Which file system a path lies on."""

from __future__ import annotations

from pathlib import Path

# Their locks or their shared memory do not hold between machines: SQLite corrupts there.
UNSAFE = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "smb2", "fuse.sshfs"})


def file_system(path: Path, mounts: str | None = None) -> str:
    """The type of the file system of `path`, from the kernel's table; "" when that cannot be read."""
    if mounts is None:
        try:
            mounts = Path("/proc/self/mounts").read_text("utf-8", "surrogateescape")
        except OSError:
            return ""
    best, found = -1, ""
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = Path(_unescaped(fields[1]))
        # A later mount on the same point hides the earlier one.
        if path.is_relative_to(point) and len(point.parts) >= best:
            best, found = len(point.parts), fields[2]
    return found


def _unescaped(text: str) -> str:
    for code, char in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        text = text.replace(code, char)
    return text
