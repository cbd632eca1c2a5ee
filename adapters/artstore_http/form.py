"""The text fields of an upload form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import JsonValue

from artstore.errors import InvalidField, MalformedRequest
from artstore_http.digests import parse_sha256_field
from artstore_http.jsonbody import parse_json
from artstore_http.models import EDITABLE

FIELDS = (*EDITABLE, "sha256")


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """The fields of a form. `editable`: those of the file; each is empty when the form has none."""

    editable: dict[str, Any]
    sha256: str | None = None

    @classmethod
    def of(cls, values: Mapping[str, Sequence[str]]) -> Form:
        """Return the form of these texts, each field's in their order. Raises `InvalidField`."""
        return cls(
            editable={
                name: _parse(name, field.empty, values.get(name, ())) for name, field in EDITABLE.items()
            },
            sha256=_parse_sha256(values.get("sha256", ("",))[0]),
        )


def _parse(name: str, empty: object, texts: Sequence[str]) -> Any:
    """Return the value of one field, in the type of its empty value."""
    if isinstance(empty, list):
        return tuple(item for text in texts for item in _parse_list(name, text))
    text = texts[0] if texts else ""
    return _parse_object(name, text) if isinstance(empty, dict) else text


def _parse_list(name: str, text: str) -> tuple[str, ...]:
    if not text.lstrip().startswith("["):
        # A browser sends an empty input as an empty field.
        return (text,) if text else ()
    items = _parse_json(name, text)
    if isinstance(items, list):
        strings = tuple(item for item in items if isinstance(item, str))
        if len(strings) == len(items):
            return strings
    raise InvalidField(
        name, f"What begins with [ must be a JSON array of strings; or repeat the field {name}."
    )


def _parse_sha256(text: str) -> str | None:
    # A browser sends an empty input as an empty field, and a script sends null as "null".
    return parse_sha256_field(text) if text not in ("", "null") else None


def _parse_object(name: str, text: str) -> dict[str, JsonValue]:
    value = _parse_json(name, text) if text else None
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise InvalidField(name, f"The field {name} must be a JSON object.")
    return value


def _parse_json(name: str, text: str) -> JsonValue:
    try:
        return parse_json(text.encode(), what=f"The field {name}")
    except MalformedRequest as e:
        raise InvalidField(name, e.detail) from None
