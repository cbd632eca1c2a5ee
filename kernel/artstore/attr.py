"""All that is known of a file (`Attr`), and its form as bytes beside the data (the sidecar)."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    JsonValue,
    StringConstraints,
    ValidationError,
)
from pydantic_core import PydanticSerializationError

from artstore.errors import Damaged, InvalidField
from artstore.ids import FileId, Key

SIDECAR_SUFFIX = ".attr.json"
SIDECAR_LIMIT = 4096
"""Bytes of a sidecar."""
SCHEMA_VERSION = 1
MAX_DEPTH = 20
"""Levels of objects and lists in `metadata`."""

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", re.ASCII)
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.ASCII)
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105 - RFC 9110, 5.6.2: a grammar, not a secret
_CONTENT_TYPE = re.compile(
    rf"{_TOKEN}/{_TOKEN}(?:[ \t]*;(?:[ \t]*{_TOKEN}=(?:{_TOKEN}|\"(?:[\t !#-\[\]-~]|\\[\t -~])*\"))?)*[ \t]*",
    re.ASCII,
)
_DEVICE_NAMES = frozenset(
    {"con", "prn", "aux", "nul"} | {f"{d}{n}" for d in ("com", "lpt") for n in range(1, 10)}
)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_MESSAGES = {
    "missing": "is needed",
    "extra_forbidden": "is not known here",
    "string_type": "must be a text",
    "bool_type": "must be true or false",
    "tuple_type": "must be a list",
    "dict_type": "must be an object",
    "model_type": "must be an object",
}
# Characters that hide or reorder text: a name with one of them can look like another name (UTR 36, 2.6). The direction
# marks U+061C, U+200E and U+200F are allowed: they reorder no letter, and names in Hebrew and Arabic need them.
_MISLEADING = re.compile("[\x80-\x9f\u2028-\u202e\u2066-\u2069]")


def timestamp(at: datetime) -> str:
    """Return `at` as RFC 3339 in UTC, with milliseconds and `Z`. Texts of this form sort as the times do."""
    return at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _check_time(text: str) -> str:
    if not _TIME.fullmatch(text):
        raise ValueError("must look like 2025-01-11T15:30:45.123Z")
    datetime.fromisoformat(text)
    return text


def _check_uuid(text: str) -> str:
    if not _UUID.fullmatch(text):
        raise ValueError("must be a UUID in lower case, like 0194567e-8c3a-7d21-b5f0-1c9ea1b2c3d4")
    return text


def _check_no_controls(text: str) -> str:
    if _CONTROL.search(text):
        raise ValueError("must not hold control characters")
    return text


def _check_filename(text: str) -> str:
    _check_no_controls(text)
    if "/" in text or "\\" in text:
        raise ValueError("must be a name, not a path")
    if not text.strip(". \u00a0\u3000"):
        raise ValueError("must hold more than dots and spaces")
    if _MISLEADING.search(text):
        raise ValueError("must not hold marks that hide or reorder text")
    if text.split(".", 1)[0].rstrip().lower() in _DEVICE_NAMES:
        raise ValueError("is the name of a device on Windows")
    return text


def _check_content_type(text: str) -> str:
    if not _CONTENT_TYPE.fullmatch(text):
        raise ValueError("must look like text/plain or text/plain; charset=utf-8")
    return text


def _check_storable(value: object) -> None:
    """Raise `ValueError` for what JSON or a database cannot store: NaN, infinity (which a number becomes that is too
    large for a float), and the character NUL."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("must not hold a number that JSON cannot")
    if isinstance(value, str):
        _check_no_nul(value)
    if isinstance(value, dict):
        for key in value:
            _check_no_nul(key)
    if isinstance(value, dict | list):
        for below in value.values() if isinstance(value, dict) else value:
            _check_storable(below)


def _check_no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("must not hold the character NUL")
    return text


def _check_metadata(value: dict[str, Any]) -> dict[str, Any]:
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        level = [
            v for x in level if isinstance(x, dict | list) for v in (x.values() if isinstance(x, dict) else x)
        ]
        if not level:
            _check_storable(value)
            return value
    raise ValueError(f"must not be deeper than {MAX_DEPTH}")


Timestamp = Annotated[str, AfterValidator(_check_time), Field(examples=["2025-01-11T15:30:45.123Z"])]
Uuid = Annotated[FileId, AfterValidator(_check_uuid), Field(json_schema_extra={"format": "uuid"})]
Filename = Annotated[str, StringConstraints(min_length=1, max_length=255), AfterValidator(_check_filename)]
ContentType = Annotated[
    str, StringConstraints(min_length=3, max_length=255), AfterValidator(_check_content_type)
]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Tag = Annotated[str, StringConstraints(min_length=1, max_length=100), AfterValidator(_check_no_controls)]
Username = Annotated[str, StringConstraints(min_length=1, max_length=255), AfterValidator(_check_no_controls)]
Metadata = Annotated[dict[str, JsonValue], AfterValidator(_check_metadata)]


class Attr(BaseModel):
    """All that is known of one file; immutable. Sizes in bytes, times in RFC 3339 UTC.

    `storage_path` is the directory of the data in the store, and `storage_filename` its name there. `revision` starts
    at 1 and grows by 1 with every update. Keys that this version does not know are kept when it is rewritten.
    """

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)

    schema_version: int = Field(default=SCHEMA_VERSION, ge=1, le=SCHEMA_VERSION)
    file_id: Uuid
    original_filename: Filename
    storage_filename: Annotated[str, StringConstraints(min_length=1, max_length=255)]
    storage_path: str
    size: int = Field(ge=0, lt=2**53)
    content_type: ContentType
    sha256: Sha256
    uploaded_by: Username
    uploaded_by_id: Username
    uploaded_at: Timestamp
    updated_at: Timestamp
    revision: int = Field(ge=1, lt=2**53)
    description: Annotated[str, AfterValidator(_check_no_nul)] = ""
    tags: tuple[Tag, ...] = ()
    metadata: Metadata = {}

    @property
    def key(self) -> Key:
        """The key of the data in a backend."""
        return Key(f"{self.storage_path}/{self.storage_filename}")

    def encode(self, limit: int = SIDECAR_LIMIT) -> bytes:
        """Return the sidecar: UTF-8 JSON, indented if that fits. Raises `InvalidField` above `limit` bytes."""
        try:
            sidecar = self.model_dump_json(indent=2).encode()
            if len(sidecar) > limit:
                sidecar = self.model_dump_json().encode()
        except (PydanticSerializationError, UnicodeEncodeError) as e:
            raise InvalidField("metadata", f"Metadata cannot be written as UTF-8 JSON: {e}.") from None
        if len(sidecar) > limit:
            raise InvalidField(
                "metadata",
                f"Name, description, tags and metadata need {len(sidecar)} bytes together; "
                f"{limit} is the limit of {SIDECAR_SUFFIX}.",
            )
        return sidecar


def decode(sidecar: bytes, key: Key) -> Attr:
    """Return the attr in a sidecar. Raises `Damaged` when it cannot be parsed or names another key."""
    if len(sidecar) > SIDECAR_LIMIT:
        raise Damaged(f"The sidecar of {key} is larger than {SIDECAR_LIMIT} bytes.")
    try:
        attr = Attr.model_validate_json(sidecar)
        _check_storable(attr.model_extra)
    except ValidationError as e:
        first = e.errors(include_url=False, include_context=False, include_input=False)[0]
        where = "".join(f"{x}: " for x in first["loc"])
        raise Damaged(f"The sidecar of {key} is not valid: {where}{plain_message(first)}.") from None
    except ValueError as e:
        raise Damaged(f"The sidecar of {key} {e}.") from None
    if attr.key != key:
        raise Damaged(f"The sidecar of {key} belongs to {attr.key}.")
    return attr


def with_changed_bytes(document: bytes, limit: int = SIDECAR_LIMIT) -> bytes:
    """Return the same JSON object as other bytes, so that a compare-and-swap with the present bytes fails."""
    if len(document) < limit:
        return document + b"\n"
    (first, value), *others = json.loads(document).items()
    return json.dumps(dict([*others, (first, value)]), ensure_ascii=False, separators=(",", ":")).encode()


def next_revision(attr: Attr, changes: Mapping[str, Any], at: datetime) -> Attr:
    """Return the next revision of `attr`, made at `at`, but never before the present one. Raises `InvalidField`."""
    fields = attr.model_dump() | dict(changes)
    updated_at = max(timestamp(at), attr.updated_at)
    return validate(fields | {"revision": attr.revision + 1, "updated_at": updated_at})


def validate(fields: Mapping[str, Any]) -> Attr:
    """Return `fields` as an attr. Raises `InvalidField` for what a caller may have sent."""
    try:
        return Attr.model_validate(fields)
    except ValidationError as e:
        raise invalid_field(e) from None


def invalid_field(error: ValidationError) -> InvalidField:
    """Return the first error of fields that a caller sent, in plain words."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    field = str(first["loc"][0])
    name = {"original_filename": "filename"}.get(field, field)
    return InvalidField(name, f"{name}: {plain_message(first)}.")


def plain_message(error: Mapping[str, Any]) -> str:
    """Return the message of an error of pydantic, without its words for the types of Python."""
    message: str = _MESSAGES.get(error["type"], error["msg"])
    return message.removeprefix("Value error, ").replace("Input should", "must")


def sidecar_key(key: Key) -> str:
    """Return the name of the sidecar of `key`."""
    return key + SIDECAR_SUFFIX
