"""The JSON of requests and answers, as pydantic models; the OpenAPI document is made from them."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, JsonValue, create_model

from artstore.attr import (
    Attr,
    ContentType,
    Filename,
    Metadata,
    Sha256,
    Tag,
    Timestamp,
    Username,
    Uuid,
)
from artstore.maintenance.jobs import Record
from artstore.modes import Mode


class FileJson(BaseModel):
    """What is known of a file, without its bytes."""

    model_config = ConfigDict(title="File")

    file_id: Uuid
    original_filename: Filename
    storage_filename: str
    storage_path: str
    size: int = Field(ge=0, description="bytes")
    content_type: ContentType
    sha256: Sha256
    uploaded_by: Username
    uploaded_by_id: Username
    uploaded_at: Timestamp
    updated_at: Timestamp
    revision: int = Field(ge=1)
    description: str
    tags: list[Tag]
    metadata: Metadata


FILE_FIELDS = set(FileJson.model_fields)


def file_json(attr: Attr) -> bytes:
    """Return a file in the JSON of an answer."""
    return attr.model_dump_json(include=FILE_FIELDS).encode()


class FilePage(BaseModel):
    """A page of files."""

    items: list[FileJson]
    next_cursor: str | None


class EditableField(NamedTuple):
    """A field of a file that a caller may set and change."""

    type: Any
    empty: str | list[Any] | dict[str, Any]
    """The value of a file that has none. Its type says how the part of a form is read."""
    in_form: str | None = None
    """How the field is sent as a part of a form."""


EDITABLE = {
    "description": EditableField(str, ""),
    "tags": EditableField(list[Tag], [], "repeated, or one JSON array"),
    "metadata": EditableField(dict[str, JsonValue], {}, "a JSON object"),
}
"""The fields that an upload may set and a merge-patch may change."""

_patch: dict[str, Any] = {name: (field.type | None, None) for name, field in EDITABLE.items()}
FilePatch = create_model(
    "FilePatch",
    __doc__="A merge-patch (RFC 7396): what is named changes, null empties, the rest stays.",
    **_patch,
)

_form: dict[str, Any] = {
    "file": (str, Field(json_schema_extra={"contentMediaType": "application/octet-stream"})),
    **{
        name: (field.type, Field(default=field.empty, description=field.in_form))
        for name, field in EDITABLE.items()
    },
    "sha256": (Sha256 | None, Field(default=None, description="of the file: refused unless it matches")),
}
UploadForm = create_model("UploadForm", __doc__="The parts of a multipart upload, in any order.", **_form)


class Root(BaseModel):
    """Name and version of the element, and where its API is."""

    name: str
    version: str
    element_id: str
    api: str
    openapi: str
    health: str


class Info(BaseModel):
    """What everybody may know of this element."""

    element_id: str
    display_name: str
    version: str
    mode: Mode
    allowed_operations: list[str]
    adapter: str
    missing_guarantees: list[str]
    """What the store does not guarantee, in words; empty where it guarantees everything."""


class Capacity(BaseModel):
    """Room, in bytes. `warning` from 80 % used, `critical` from 95 %, `full` when uploads are refused."""

    total: int | None
    used: int
    reserved: int
    free: int | None
    file_count: int
    status: Literal["ok", "warning", "critical", "full"]


class PluginJson(BaseModel):
    """A provider, as a plugin offers it; or a plugin that could not be loaded (`role` and `name` null)."""

    role: str | None
    name: str | None
    chosen: bool
    plugin: str
    distribution: str
    version: str
    status: str
    summary: str
    problem: str
    allows_missing_guarantees: bool
    """It was chosen with `allow_missing_guarantees`: see `missing_guarantees` of `/api/v1/info`."""


class PluginPage(BaseModel):
    """Every plugin of this installation."""

    items: list[PluginJson]
    next_cursor: None = None


class TransitionRequest(BaseModel):
    """A step between modes; backward ones need `confirm`."""

    model_config = ConfigDict(extra="forbid")

    target_mode: Mode
    confirm: bool = Field(default=False, strict=True)
    reason: str = Field(default="", max_length=500)


class Transition(BaseModel):
    """A step that was made."""

    previous_mode: Mode
    mode: Mode
    changed_at: Timestamp
    changed_by: str
    reason: str


class TransactionJson(BaseModel):
    """An intent in the write-ahead log, and its outcome."""

    id: str
    operation: str
    file_id: str | None
    by: str
    status: Literal["pending", "committed", "rolled_back", "failed"]
    started: Timestamp
    finished: Timestamp | None
    error: str | None


class TransactionPage(BaseModel):
    """A page of transactions, newest first."""

    items: list[TransactionJson]
    next_cursor: str | None


class ReconcileRequest(BaseModel):
    """`repair` corrects entries and quarantines damaged files; `check` changes nothing. `digests`: read all data."""

    model_config = ConfigDict(extra="forbid")

    mode: Literal["check", "repair"] = "check"
    digests: bool = Field(default=False, strict=True)


class JobJson(Record):
    """Long work on the whole store: `found` counts names by kind, `repaired` what was done."""

    model_config = ConfigDict(title="Job")


class JobPage(BaseModel):
    """A page of jobs, newest first."""

    items: list[JobJson]
    next_cursor: str | None


class Alive(BaseModel):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Ready(BaseModel):
    """Whether the element can do its work; `checks` names what fails."""

    status: Literal["ready", "not ready"]
    checks: dict[str, str] | None = None


class Problem(BaseModel):
    """An error (RFC 9457). `code` is stable."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    field: str | None = None
