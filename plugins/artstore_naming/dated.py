"""`{stem}_{user}_{YYYYMMDDTHHMMSS}_{8 hex}.{ext}` under `YYYY/MM/DD/HH`, all in UTC.

A name is read from its right end, where nothing is ambiguous: the extension has no dot and at most
20 characters, so it can neither hold nor hide the 25 characters of time and uuid; the user holds no `_`
(each becomes `-`); what remains is the stem, which may hold anything a file system takes.

Decisions about odd originals: a suffix longer than an extension may be stays in the stem; leading dots
of a stem become one `_` (`.bashrc` -> `_bashrc`: no file of ours is hidden, none loses its name);
trailing dots and spaces go; `con`, `nul.tar` and their like become `con_`, `nul_.tar`.
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
MAX_BYTES = 220  # + `.attr.json` + a mark of the backend's temporaries <= 255, what every file system takes
USER_CHARS, USER_BYTES = 48, 72
EXT_CHARS, EXT_BYTES = 20, 40
ELLIPSIS = "..."

# Forbidden on Windows; C0, DEL, C1; marks that reorder text; line and paragraph separators; lone surrogates.
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
_V7 = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ZWJ = "\u200d"


class DatedNaming(Naming):
    """The naming `dated`: the id's last 8 digits and one clock reading make every name."""

    API: ClassVar[int] = 1
    Settings: ClassVar[type[BaseModel]] = NoSettings

    def __init__(self, settings: BaseModel, context: Context) -> None:
        """Nothing to set, nothing to hold: names depend on their arguments alone."""

    def name(
        self, *, file_id: FileId, original_filename: str, username: str, at: datetime, attempt: int = 0
    ) -> Name:
        at = at.astimezone(UTC)
        stem, ext = _split(original_filename)
        tail = (
            f"{f'-{attempt + 1}' if attempt else ''}_{_user(username)}_{at.year:04d}{at.month:02d}{at.day:02d}"
            f"T{at.hour:02d}{at.minute:02d}{at.second:02d}_{_mark(file_id)}{ext and '.' + ext}"
        )
        stem = _fit(stem, MAX_CHARS - len(tail), MAX_BYTES - len(tail.encode()))
        return Name(directory=self.directory_at(at), filename=stem + tail)

    def parse(self, filename: str) -> Parsed | None:
        if len(filename) > MAX_CHARS:
            return None
        found = _OURS.fullmatch(filename)
        if found is None or _UNSAFE.search(filename):
            return None
        stamp = found["timestamp"]
        try:
            datetime(
                int(stamp[:4]), int(stamp[4:6]), int(stamp[6:8]),
                int(stamp[9:11]), int(stamp[11:13]), int(stamp[13:]), tzinfo=UTC,
            )  # fmt: skip
        except ValueError:
            return None
        return Parsed(
            stem=found["stem"],
            user=found["user"],
            timestamp=stamp,
            uuid=found["uuid"],
            ext=found["ext"] or "",
        )

    def carries(self, filename: str, file_id: FileId) -> bool:
        mark = _mark(file_id)
        # A directory may hold tens of thousands of names: most are ruled out without being parsed.
        if f"_{mark}" not in filename:
            return False
        parsed = self.parse(filename)
        return parsed is not None and parsed.uuid == mark

    def directory_of(self, file_id: FileId) -> str | None:
        text = file_id.lower()
        if not _V7.fullmatch(text):
            return None
        try:
            return self.directory_at(_EPOCH + timedelta(milliseconds=int(text[:8] + text[9:13], 16)))
        except OverflowError:  # 48 bits reach the year 10889, directories 9999
            return None

    def directory_at(self, at: datetime) -> str:
        at = at.astimezone(UTC)
        return f"{at.year:04d}/{at.month:02d}/{at.day:02d}/{at.hour:02d}"


def _mark(file_id: FileId) -> str:
    return file_id[-8:].lower()


def _split(original: str) -> tuple[str, str]:
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
    # Composed first: `<` with a combining stroke is another, harmless character.
    return _UNSAFE.sub("_", unicodedata.normalize("NFC", text))


def _fit(stem: str, chars: int, size: int) -> str:
    text = _cut(stem, chars, size)
    if _DEVICE.match(text) is None:
        return text
    return _DEVICE.sub(r"\1_", _cut(stem, chars - 1, size - 1), count=1)


def _cut(text: str, chars: int, size: int) -> str:
    """At most `chars` characters and `size` bytes of `text`; what was cut ends in `...`."""
    if len(text) <= chars and len(text.encode()) <= size:
        return text
    kept = text.encode()[: size - len(ELLIPSIS)].decode(errors="ignore")[: chars - len(ELLIPSIS)]
    whole = len(kept)
    while whole and _continues(text, whole):
        whole -= 1
    # A text that is one endless cluster of marks is cut anywhere.
    kept = (kept[:whole].rstrip(" .") or kept.rstrip(" .")).rstrip(_ZWJ)
    return (kept or "_") + ELLIPSIS


def _continues(text: str, at: int) -> bool:
    """Whether the character at `at` belongs to the one before it."""
    after = text[at]
    return (
        text[at - 1] == _ZWJ
        or after == _ZWJ
        or "\U0001f3fb" <= after <= "\U0001f3ff"  # skin tones
        or unicodedata.category(after).startswith("M")
    )
