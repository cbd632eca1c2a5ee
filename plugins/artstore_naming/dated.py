"""Names like `{stem}_{user}_{YYYYMMDDTHHMMSS}_{8 hex}.{ext}` under `YYYY/MM/DD/HH`, in UTC.

A name is parsed from its right end, where nothing is ambiguous. The extension has no dot and at most 20 characters, so
it can neither hold nor hide the 25 characters of time and uuid. The user holds no `_` (each becomes `-`). What remains
is the stem, which may hold everything that a file system accepts. The second attempt at a name puts `-2` behind the
stem: time and uuid stay true.

Decisions about odd originals: a suffix that is too long for an extension stays in the stem. Leading dots of a stem
become one `_` (`.bashrc` -> `_bashrc`), so that no file of ours is hidden and none loses its name. Trailing dots and
spaces are dropped. `con`, `nul.tar` and other names of devices become `con_`, `nul_.tar`.
"""

from __future__ import annotations

import re
import unicodedata
from datetime import UTC, datetime, timedelta
from typing import ClassVar

from pydantic import BaseModel

from artstore.ids import FileId
from artstore.spi import Context, Name, Naming, NoSettings, Parsed

MAX_CHARS = 200
"""Characters of a whole filename."""
MAX_BYTES = 220
"""Bytes of a whole filename in UTF-8. With `.attr.json` and a prefix for the temporary files of a backend it stays
within 255, which every file system accepts."""
USER_CHARS, USER_BYTES = 48, 72
EXT_CHARS, EXT_BYTES = 20, 40
ELLIPSIS = "..."

# Forbidden on Windows; C0, DEL, C1; characters that reorder text; line and paragraph separators; lone surrogates.
_UNSAFE = re.compile(
    r'[<>:"/\\|?*\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]'
)
_DEVICE = re.compile(
    r"\A(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(?=\s*(?:\.|$))", re.IGNORECASE
)
_OURS = re.compile(
    r"(?P<stem>.+)_(?P<user>[^_]+)_(?P<timestamp>[0-9]{8}T[0-9]{6})_(?P<uuid>[0-9a-f]{8})"
    r"(?:\.(?P<ext>[^.]{1,20}))?"
)
_DIRECTORY = re.compile(r"[0-9]{4}(/(0[1-9]|1[0-2])(/(0[1-9]|[12][0-9]|3[01])(/([01][0-9]|2[0-3]))?)?)?")
_V7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ZWJ = "\u200d"


class DatedNaming(Naming):
    """The naming `dated`: a name carries the time of the upload and the last 8 digits of the id."""

    API: ClassVar[int] = 1
    Settings: ClassVar[type[BaseModel]] = NoSettings

    def __init__(self, settings: BaseModel, context: Context) -> None:
        """Keep nothing: a name depends on its arguments alone."""

    def name(
        self, *, file_id: FileId, original_filename: str, username: str, at: datetime, attempt: int = 0
    ) -> Name:
        at = at.astimezone(UTC)
        stem, ext = _split(original_filename)
        number = f"-{attempt + 1}" if attempt else ""
        time = f"{at.year:04d}{at.month:02d}{at.day:02d}T{at.hour:02d}{at.minute:02d}{at.second:02d}"
        tail = f"{number}_{_user(username)}_{time}_{_uuid_suffix(file_id)}{ext and '.' + ext}"
        stem = _fit(stem, MAX_CHARS - len(tail), MAX_BYTES - len(tail.encode()))
        return Name(directory=self.directory_at(at), filename=stem + tail)

    def parse(self, filename: str) -> Parsed | None:
        if len(filename) > MAX_CHARS:
            return None
        match = _OURS.fullmatch(filename)
        if match is None or _UNSAFE.search(filename):
            return None
        stamp = match["timestamp"]
        try:
            datetime(
                int(stamp[:4]), int(stamp[4:6]), int(stamp[6:8]),
                int(stamp[9:11]), int(stamp[11:13]), int(stamp[13:]), tzinfo=UTC,
            )  # fmt: skip
        except ValueError:
            return None
        return Parsed(
            stem=match["stem"],
            user=match["user"],
            timestamp=stamp,
            uuid=match["uuid"],
            ext=match["ext"] or "",
        )

    def carries(self, filename: str, file_id: FileId) -> bool:
        suffix = _uuid_suffix(file_id)
        # A directory may hold tens of thousands of names: most are ruled out without being parsed.
        if f"_{suffix}" not in filename:
            return False
        parsed = self.parse(filename)
        return parsed is not None and parsed.uuid == suffix

    def directory_of(self, file_id: FileId) -> str | None:
        text = file_id.lower()
        if not _V7.fullmatch(text):
            return None
        try:
            return self.directory_at(_EPOCH + timedelta(milliseconds=int(text[:8] + text[9:13], 16)))
        except OverflowError:  # 48 bits reach the year 10889, directories end with 9999
            return None

    def directory_at(self, at: datetime) -> str:
        at = at.astimezone(UTC)
        return f"{at.year:04d}/{at.month:02d}/{at.day:02d}/{at.hour:02d}"

    def is_directory(self, path: str) -> bool:
        return _DIRECTORY.fullmatch(path) is not None


def _uuid_suffix(file_id: FileId) -> str:
    return file_id[-8:].lower()


def _split(original: str) -> tuple[str, str]:
    """Return the stem and the extension of an original filename, made safe."""
    clean = _clean(original).strip(" ").rstrip(". ")
    stem, _, ext = clean.rpartition(".")
    ext = ext.strip()
    if not stem.strip(".") or not ext or len(ext) > EXT_CHARS or len(ext.encode()) > EXT_BYTES:
        stem, ext = clean, ""
    stem = stem.strip()
    bare = stem.lstrip(".")
    stem = f"_{bare}" if bare and bare != stem else bare
    return stem or "file", ext


def _user(username: str) -> str:
    user = _clean(username).strip().replace("_", "-") or "unknown"
    return _cut(user, USER_CHARS, USER_BYTES)


def _clean(text: str) -> str:
    # Compose before the replacement: `<` with a combining stroke is another, harmless character.
    return _UNSAFE.sub("_", unicodedata.normalize("NFC", text))


def _fit(stem: str, chars: int, size: int) -> str:
    """Return `stem`, cut to `chars` characters and `size` bytes, and no name of a device."""
    text = _cut(stem, chars, size)
    if _DEVICE.match(text) is None:
        return text
    return _DEVICE.sub(r"\1_", _cut(stem, chars - 1, size - 1), count=1)


def _cut(text: str, chars: int, size: int) -> str:
    """Return at most `chars` characters and `size` bytes of `text`; a text that was cut ends in `...`."""
    if len(text) <= chars and len(text.encode()) <= size:
        return text
    kept = text.encode()[: size - len(ELLIPSIS)].decode(errors="ignore")[: chars - len(ELLIPSIS)]
    whole = len(kept)
    while whole and _continues(text, whole):
        whole -= 1
    # A text that is one long cluster of combining characters is cut anywhere.
    kept = (kept[:whole].rstrip(" .") or kept.rstrip(" .")).rstrip(_ZWJ)
    return (kept or "_") + ELLIPSIS


def _continues(text: str, at: int) -> bool:
    """Return whether the character at `at` belongs to the one before it."""
    after = text[at]
    return (
        text[at - 1] == _ZWJ
        or after == _ZWJ
        or "\U0001f3fb" <= after <= "\U0001f3ff"  # skin tones
        or unicodedata.category(after).startswith("M")
    )
