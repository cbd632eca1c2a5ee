"""What the text fields of an upload say."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydantic import JsonValue

from artstore.errors import InvalidField, MalformedRequest
from artstore_http.digests import parse_sha256_field
from artstore_http.jsonbody import parse_json

FIELDS = ("description", "tags", "metadata", "sha256")


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """The fields, each empty where the form has none."""

    description: str = ""
    tags: tuple[str, ...] = ()
    metadata: dict[str, JsonValue] = field(default_factory=dict)
    sha256: str | None = None

    @classmethod
    def of(cls, values: Mapping[str, Sequence[str]]) -> Form:
        """From the texts of each field in their order. Raises `InvalidField`."""
        return cls(
            description=values.get("description", [""])[0],
            tags=tuple(tag for text in values.get("tags", ()) for tag in _tags(text)),
            metadata=_metadata(values.get("metadata", [""])[0]),
            # Empty is refused: a script whose checksum command failed must not go unchecked.
            sha256=parse_sha256_field(values["sha256"][0]) if "sha256" in values else None,
        )


def _tags(text: str) -> tuple[str, ...]:
    if not text.lstrip().startswith("["):
        # A browser sends an empty input as an empty field.
        return (text,) if text else ()
    tags = _json("tags", text)
    if isinstance(tags, list):
        strings = tuple(tag for tag in tags if isinstance(tag, str))
        if len(strings) == len(tags):
            return strings
    raise InvalidField(
        "tags", "What begins with [ must be a JSON array of strings; or repeat the field tags."
    )


def _metadata(text: str) -> dict[str, JsonValue]:
    value = _json("metadata", text) if text else {}
    if not isinstance(value, dict):
        raise InvalidField("metadata", "The field metadata must be a JSON object.")
    return value


def _json(name: str, text: str) -> JsonValue:
    try:
        return parse_json(text.encode(), what=f"The field {name}")
    except MalformedRequest as e:
        raise InvalidField(name, e.detail) from None
